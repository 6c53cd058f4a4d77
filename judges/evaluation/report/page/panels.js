// The panels of one benchmark. A panel is left out where the run has none of its metrics.

const FAMILIES = [
  ["position: ", "Position", "Whether the order of the responses matters. A judge without position bias is consistent and equally accurate in both orders."],
  ["length: ", "Length", "How often the longer response wins, and how often it should."],
  ["style: ", "Style", "The same content in plain and in elaborate style."],
  ["self-preference", "Self-preference", "How far a judge prefers responses of its own model beyond their quality."],
  ["author: ", "By author", "Preference for each author's responses beyond how often they are right."],
  ["attack: ", "Attacks", "How often a losing response wins once it attempts to manipulate the judge."],
  ["stability", "Stability", "Agreement of a scorer with a second run of itself."],
];

const resultsOf = (benchmark) => RUN.results.map((r, s) => ({ ...r, s })).filter((r) => r.benchmark === benchmark.name);
const numberOf = (result, metric, section = "") => result.numbers.find((n) => n.metric === metric && n.section === section) || null;
const mainOf = (result) => numberOf(result, ...result.headline);
const scorerOf = (result) => SCORERS.indexOf(result.label);

function panel(title, lead, ...inside) {
  return el("section", { class: "panel" }, el("h3", {}, title), lead ? el("p", { class: "lead" }, lead) : null, inside);
}

/** All panels of a benchmark. `explore(filters)` shows the judgments of a cell. */
function benchmarkPanels(benchmark, explore) {
  const results = resultsOf(benchmark);
  const facts = el(
    "p",
    { class: "facts" },
    `${count(benchmark.items)} rows of ${count(benchmark.prompts)} prompts · from ${benchmark.source} · digest `,
    el("code", {}, benchmark.digest),
  );
  const differs = benchmark.differs.length
    ? el("div", { class: "note" }, el("strong", {}, "Differs from the published set. "), `${benchmark.differs.join("; ")}.`)
    : null;
  if (!results.length) return [facts, differs, el("p", {}, "No scorer was run on this benchmark.")];
  return [
    facts,
    differs,
    forestPanel(benchmark, results),
    contrastPanel(benchmark),
    subsetPanel(benchmark, results, explore),
    costPanel(results),
    calibrationPanel(results),
    ...FAMILIES.map(([prefix, title, lead]) => familyPanel(prefix, title, lead, results)),
    strengthPanel(results),
    agreementPanel(benchmark),
    allNumbers(results),
  ].filter(Boolean);
}

const higherFirst = (a, b) => ((b.number && b.number.value) ?? -Infinity) - ((a.number && a.number.value) ?? -Infinity);

function numbersTable(title, rows) {
  return simpleTable(
    title,
    ["", "value", "95 % interval", "rows", "left out", "worst case", "method"],
    rows.map(({ label, group, number: n }) => {
      const unit = unitOf(n ? n.metric : "");
      return [
        group ? `${group}: ${label}` : label,
        n ? unit.value(n.value) : NONE,
        interval(n) || NONE,
        n && n.rows ? count(n.rows) : NONE,
        n && n.left_out ? count(n.left_out) : "0",
        n ? unit.value(n.worst) : NONE,
        (n && (n.note || n.method)) || "",
      ];
    }),
  );
}

function forestPanel(benchmark, results) {
  const rows = results.map((r) => ({ label: shownLabel(r), scorer: scorerOf(r), number: mainOf(r) })).sort(higherFirst);
  const [metric, section] = results[0].headline;
  const title = `${benchmark.title}: ${section || metric}`;
  const failing = rows.some(({ number: n }) => n && n.worst !== undefined && n.best > n.worst);
  const caption = "Point and 95 % interval." + (failing ? " The wide faint bar spans the values between all failures counted as wrong and all counted as right." : "");
  const hasValue = rows.some(({ number: n }) => n && n.value !== undefined);
  return panel(
    "Headline number",
    null,
    hasValue ? figure(title, caption, (width) => forest(title, metric, rows, width), numbersTable(title, rows)) : numbersTable(title, rows),
  );
}

function shownLabel(result) {
  return result.published ? `${result.label} (made elsewhere)` : result.label;
}

function contrastPanel(benchmark) {
  const found = RUN.contrasts.filter((c) => c.benchmark === benchmark.name);
  if (!found.length) return null;
  const p = (v) => (v === null || v === undefined ? NONE : v < 0.001 ? "< 0.001" : fixed(v, 3));
  const head = ["first vs second", "difference, points", "95 % interval", "p, Holm", "p, McNemar", "p, bootstrap", "more rows needed"];
  const table = simpleTable(
    "Pairwise comparisons",
    head,
    found.map((c) => [
      `${c.first} vs ${c.second}`,
      fixed(c.difference * 100, 1),
      `${fixed(c.low * 100, 1)} to ${fixed(c.high * 100, 1)}`,
      p(c.p_holm),
      p(c.p_mcnemar),
      p(c.p_bootstrap),
      c.more_pairs === null ? NONE : count(c.more_pairs),
    ]),
  );
  return panel(
    "Pairwise comparisons",
    "Scorers compared on the same rows, with p-values corrected for the number of comparisons (Holm).",
    el("ul", { class: "sentences two" }, found.map((c) => el("li", { class: c.p_holm < 0.05 ? "significant" : null }, c.words))),
    el("details", { class: "as-table" }, el("summary", {}, "As a table"), table),
  );
}

/** [metric, sections] of the metrics that have sections and pass `include`, in the order of the run. */
function metricsBySection(results, include) {
  const found = new Map();
  for (const r of results) {
    for (const n of r.numbers) {
      if (!n.section || !include(n.metric)) continue;
      if (!found.has(n.metric)) found.set(n.metric, new Set());
      found.get(n.metric).add(n.section);
    }
  }
  return [...found].map(([metric, sections]) => [metric, [...sections]]);
}

const inFamily = (metric) => FAMILIES.some(([prefix]) => metric.startsWith(prefix)) || metric.startsWith("model ");

function subsetPanel(benchmark, results, explore) {
  const metrics = metricsBySection(results, (metric) => !inFamily(metric));
  if (!metrics.length) return null;
  const subsets = new Set(EXPLORER.items.filter((i) => RUN.benchmarks[i.b].name === benchmark.name).map((i) => i.subset));
  const container = el("div");
  const names = results.map(shownLabel);
  const draw = (index) => {
    const [metric, sections] = metrics[index];
    const open = sections.some((s) => subsets.has(s))
      ? (r, c) => explore({ benchmark: benchmark.name, subset: subsets.has(sections[r]) ? sections[r] : "", scorer: results[c].label })
      : null;
    container.replaceChildren(
      heatMap(`${metric}, by part`, "part", sections, names, (r, c) => numberOf(results[c], metric, sections[r]), open),
    );
  };
  const choice = el(
    "select",
    { id: "subset-metric", on: { change: (event) => draw(Number(event.target.value)) } },
    metrics.map(([metric], index) => el("option", { value: index }, metric)),
  );
  draw(0);
  return panel(
    "Subsets and sections",
    "Click a cell to see its judgments; hover over it for its interval.",
    metrics.length > 1 ? el("p", {}, el("label", { for: "subset-metric" }, "Metric "), choice) : null,
    container,
  );
}

const tokensOf = (r) => r.usage.prompt_tokens + r.usage.generated_tokens;

function costPanel(results) {
  const measured = results.filter((r) => !r.published && mainOf(r) && mainOf(r).value !== undefined);
  if (measured.length < 2) return null;
  const omitted = results.length - measured.length;
  const chart = (title, axis, cost, shown) => {
    const points = measured.map((r) => ({
      label: r.label, scorer: scorerOf(r), number: mainOf(r), value: mainOf(r).value, cost: cost(r), shown: shown(cost(r)),
    }));
    const front = new Set(paretoFront(points));
    const rows = points.map((p) => [p.label, withInterval(p.number), p.shown, front.has(p) ? "yes" : "no"]);
    const table = simpleTable(title, ["scorer", "headline", axis, "on the front"], rows);
    return figure(title, null, (width) => costChart(title, measured[0].headline[0], axis, points, width), table, false);
  };
  return panel(
    "Cost",
    "The line is the Pareto front: a scorer on it is better than every scorer that costs as much or less." +
      (omitted ? ` ${omitted} not shown: made elsewhere, or without a value.` : ""),
    el(
      "div",
      { class: "side-by-side" },
      chart("Tokens", "tokens, prompt and generated", tokensOf, (v) => `${count(v)} tokens`),
      chart("Time", "seconds", (r) => r.seconds, (v) => `${seconds(v)} s`),
    ),
  );
}

function calibrationPanel(results) {
  const drawn = results.filter((r) => Object.values(r.curves).some((bins) => bins.length));
  if (!drawn.length) return null;
  const isCalibration = (metric) => /^(ece|brier|log loss|temperature)/.test(metric);
  const metrics = [...new Set(drawn.flatMap((r) => r.numbers.map((n) => n.metric).filter(isCalibration)))];
  const numbers = metrics.length
    ? simpleTable("Calibration", ["", ...drawn.map(shownLabel)], metrics.map((m) => [m, ...drawn.map((r) => withInterval(numberOf(r, m)))]))
    : null;
  const charts = drawn.map((r) => {
    const curves = Object.fromEntries(Object.entries(r.curves).filter(([, bins]) => bins.length));
    const rows = Object.entries(curves).flatMap(([curve, bins]) =>
      bins.map((b) => [curve, fixed(b.confidence * 100, 1), fixed(b.accuracy * 100, 1), count(b.rows)]),
    );
    const title = shownLabel(r);
    const table = simpleTable(title, ["curve", "confidence, %", "accuracy, %", "rows"], rows);
    return figure(title, null, (width) => reliability(`${title}: reliability`, scorerOf(r), curves, width), table, false);
  });
  const names = [...new Set(drawn.flatMap((r) => Object.keys(r.curves)))];
  const lines = names.length > 1 ? ` Solid line: ${names.at(-1)}; dotted: ${names.slice(0, -1).join(", ")}.` : "";
  return panel(
    "Calibration",
    "On the diagonal, accuracy equals confidence. Larger points have more rows." + lines,
    el("div", { class: "small-multiples" }, charts),
    numbers,
  );
}

/** The metrics with a common prefix: overall values as forest plots, values by section as heat maps. */
function familyPanel(prefix, title, lead, results) {
  const inPrefix = (metric) => metric.startsWith(prefix);
  const overall = [...new Set(results.flatMap((r) => r.numbers.filter((n) => inPrefix(n.metric) && !n.section).map((n) => n.metric)))];
  const parts = metricsBySection(results, inPrefix);
  if (!overall.length && !parts.length) return null;
  const charts = overall.map((metric) => {
    const rows = results.map((r) => ({ label: shownLabel(r), scorer: scorerOf(r), number: numberOf(r, metric) })).filter((row) => row.number);
    const name = metric.slice(prefix.endsWith(" ") ? prefix.length : 0);
    if (!rows.some((row) => row.number.value !== undefined)) return numbersTable(name, rows);
    return figure(name, null, (width) => forest(metric, metric, rows, width), numbersTable(name, rows), false);
  });
  return panel(
    title,
    lead,
    charts.length ? el("div", { class: "side-by-side" }, charts) : null,
    parts.map(([metric, sections]) =>
      heatMap(metric, "part", sections, results.map(shownLabel), (r, c) => numberOf(results[c], metric, sections[r])),
    ),
  );
}

/** Bradley–Terry strengths of the models by each scorer's verdicts. */
function strengthPanel(results) {
  const rows = results.flatMap((r) =>
    r.numbers
      .filter((n) => n.metric === "model strength")
      .map((n) => ({ label: n.section, scorer: scorerOf(r), number: n, group: shownLabel(r) })),
  );
  if (!rows.length) return null;
  const title = "Bradley–Terry strengths";
  return panel(
    "Models ranked by verdicts",
    "One list for each scorer.",
    figure(title, "with their intervals", (width) => forest(title, "model strength", rows, width), numbersTable(title, rows)),
  );
}

/** The labels of a section "A | B", or null. A label may contain the bar itself. */
function splitLabels(section, labels) {
  for (const first of labels) {
    const rest = section.startsWith(`${first} | `) ? section.slice(first.length + 3) : null;
    if (rest !== null && labels.includes(rest)) return [first, rest];
  }
  return null;
}

function agreementPanel(benchmark) {
  const numbers = RUN.between[benchmark.name] || [];
  if (!numbers.length) return null;
  const labels = SCORERS;
  const metrics = [...new Set(numbers.map((n) => n.metric))];
  const parts = metrics.map((metric) => {
    const pairs = new Map();
    const rest = [];
    for (const n of numbers.filter((number) => number.metric === metric)) {
      const pair = splitLabels(n.section, labels);
      if (pair) for (const key of [pair, [pair[1], pair[0]]]) pairs.set(JSON.stringify(key), n);
      else rest.push({ label: n.section || "all", number: n });
    }
    const present = labels.filter((l) => labels.some((m) => pairs.has(JSON.stringify([l, m]))));
    const title = metric.replace(/^agreement: /, "");
    return [
      present.length ? heatMap(title, "", present, present, (r, c) => pairs.get(JSON.stringify([present[r], present[c]])) || null) : null,
      rest.length ? numbersTable(title, rest) : null,
    ];
  });
  return panel("Agreement between scorers", "How far two scorers agree on the same rows, whether right or wrong.", el("div", { class: "side-by-side" }, parts.map((part) => el("div", { class: "half" }, part))));
}

/** A searchable table of all numbers, built when it is opened. */
function allNumbers(results) {
  const keys = new Map();
  for (const r of results) for (const n of r.numbers) keys.set(JSON.stringify([n.metric, n.section]), [n.metric, n.section]);
  const container = el("div");
  const draw = (search) => {
    const rows = [...keys.values()].filter((key) => key.join(" ").toLowerCase().includes(search.toLowerCase()));
    const cells = rows.map(([metric, section]) => [
      section ? `${metric}: ${section}` : metric,
      ...results.map((r) => {
        const n = numberOf(r, metric, section);
        return n && n.value === undefined && n.note ? el("span", { class: "why" }, n.note) : withInterval(n);
      }),
    ]);
    container.replaceChildren(simpleTable("All numbers", ["metric", ...results.map(shownLabel)], cells));
  };
  const input = el("input", { type: "search", id: "all-numbers-search", on: { input: debounce((event) => draw(event.target.value), 120) } });
  const details = el(
    "details",
    { class: "panel all-numbers" },
    el("summary", {}, `All ${count(keys.size)} numbers`),
    el("p", {}, el("label", { for: "all-numbers-search" }, "Find a metric "), input),
    container,
  );
  details.addEventListener("toggle", () => details.open && !container.firstChild && draw(""));
  return details;
}
