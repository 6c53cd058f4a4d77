// The summary, the tables of all results, and the versions and settings of the run.

function summaryPart() {
  const failures = RUN.results.reduce((sum, r) => sum + Object.values(r.failures).reduce((a, b) => a + b, 0), 0);
  const counted = (n, singular) => `${count(n)} ${n === 1 ? singular : `${singular}s`}`;
  const facts = [
    counted(SCORERS.length, "scorer"),
    counted(RUN.benchmarks.length, "benchmark"),
    counted(RUN.benchmarks.reduce((sum, b) => sum + b.items, 0), "row"),
    counted(failures, "failed judgment"),
    `${RUN.made.slice(0, 16).replace("T", " ")}`,
    RUN.machine,
  ];
  return [
    el("p", { class: "facts" }, facts.join(" · ")),
    ...RUN.caveats.map((caveat) => el("div", { class: "note" }, el("strong", {}, "Caveat. "), `${caveat}.`)),
    RUN.summary.length
      ? el("ul", { class: "sentences big" }, RUN.summary.map((sentence) => el("li", {}, sentence)))
      : el("p", {}, "The run has no summary: a comparison needs at least two scorers."),
  ];
}

function scoresPart() {
  const rows = RUN.results.map((r) => ({ ...r, main: mainOf(r), measured: RUN.benchmarks.find((b) => b.name === r.benchmark) }));
  // Numbers of different benchmarks cannot be ranked together: results are grouped by benchmark until a reader sorts.
  const order = RUN.benchmarks.map((b) => b.name);
  rows.sort((a, b) => order.indexOf(a.benchmark) - order.indexOf(b.benchmark) || higherFirst({ number: a.main }, { number: b.main }));
  return [rows.length && RUN.benchmarks.length > 1 ? matrix() : null, resultsTable(rows)].filter(Boolean);
}

/** Scorers by benchmarks, headline numbers. */
function matrix() {
  const table = el(
    "table",
    { class: "matrix" },
    el("caption", {}, "Headline numbers; the best of each benchmark is bold"),
    el(
      "thead",
      {},
      el("tr", {}, el("th", { scope: "col" }, "scorer"), RUN.benchmarks.map((b) => el("th", { scope: "col", class: "number" }, b.title, el("small", {}, b.headline)))),
    ),
    el(
      "tbody",
      {},
      SCORERS.map((label) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, scorerName(label)),
          RUN.benchmarks.map((b) => {
            const all = resultsOf(b).filter((result) => result.digest === b.digest).map(mainOf).filter((n) => n && n.value !== undefined);
            const r = RUN.results.find((result) => result.label === label && result.benchmark === b.name);
            const n = r && mainOf(r);
            if (!n || n.value === undefined) return el("td", { class: "number none", title: n && n.note }, NONE);
            const isComplete = r.digest === b.digest;
            const isBest = isComplete && n.value === Math.max(...all.map((number) => number.value));
            const note = isComplete ? null : el("small", {}, `${n.metric}, ${count(rowsOf(n))} rows`);
            return el("td", { class: isBest ? "number best" : "number" }, unitOf(n.metric).value(n.value), el("small", {}, interval(n)), note);
          }),
        ),
      ),
    ),
  );
  return scrolling("Headline numbers", table);
}

/** The rows of a number, including those left out. */
function rowsOf(n) {
  return (n.rows || 0) + (n.left_out || 0);
}

function scorerName(label) {
  const key = sv("svg", { class: "key", viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true" }, mark(SCORERS.indexOf(label), 7, 7, 4.5));
  const madeElsewhere = RUN.results.some((r) => r.label === label && r.published);
  return [key, label, madeElsewhere ? el("span", { class: "tag" }, "made elsewhere") : null];
}

function resultsTable(rows) {
  const edges = rows.flatMap(({ main: n }) => (n && n.value !== undefined ? [n.value, n.low, n.high] : [])).filter((v) => typeof v === "number");
  const low = Math.min(...edges);
  const high = Math.max(...edges);
  const n = (row) => row.main;
  const failed = (row) => (row.failures ? Object.values(row.failures).reduce((a, b) => a + b, 0) : null);
  const failureReasons = (row) => Object.entries(row.failures).map(([reason, times]) => `${reason} ${times}`).join(", ");
  const accuracy = (row) => (row.numbers && numberOf(row, "accuracy")) || n(row);
  const unit = (row) => unitOf(n(row).metric);
  const columns = [
    { name: "scorer", text: true, sort: (r) => r.label, cell: (r) => (r.reference ? [r.label, el("span", { class: "tag" }, "published")] : scorerName(r.label)) },
    { name: "benchmark", text: true, sort: (r) => r.measured.title, cell: (r) => r.measured.title },
    { name: "headline", sort: (r) => (n(r) ? n(r).value : null), cell: (r) => (n(r) ? el("strong", { title: n(r).note }, unit(r).value(n(r).value)) : NONE) },
    {
      name: "95 % interval",
      title: "sorted by the lower bound",
      sort: (r) => (n(r) ? n(r).low : null),
      cell: (r) => (n(r) && n(r).value !== undefined && !r.reference ? el("span", { class: "range" }, interval(n(r)) || NONE, spark(n(r), SCORERS.indexOf(r.label), low, high)) : NONE),
    },
    { name: "rows", sort: (r) => (n(r) && !r.reference ? rowsOf(n(r)) : null), cell: (r) => (n(r) && !r.reference ? count(rowsOf(n(r))) : NONE) },
    { name: "worst case", title: "with every failure counted as wrong", sort: (r) => (n(r) ? n(r).worst : null), cell: (r) => (n(r) ? unit(r).value(n(r).worst) : NONE) },
    { name: "failures", title: "failed judgments", sort: failed, cell: (r) => (r.failures ? el("span", { title: failureReasons(r), class: failed(r) ? "bad" : null }, count(failed(r))) : NONE) },
    { name: "ties", sort: (r) => (r.reference || !accuracy(r) ? null : accuracy(r).ties || 0), cell: (r) => (r.reference || !accuracy(r) ? NONE : count(accuracy(r).ties || 0)) },
    { name: "tokens", title: "prompt and generated", sort: (r) => (r.usage ? tokensOf(r) : null), cell: (r) => (r.usage ? count(tokensOf(r)) : NONE) },
    { name: "seconds", sort: (r) => (r.usage ? r.seconds : null), cell: (r) => (r.usage ? seconds(r.seconds) : NONE) },
  ];
  const apart = RUN.references.map((reference) => ({
    reference,
    label: reference.model,
    measured: { title: `${reference.benchmark}: ${reference.section} (${reference.source}, ${reference.date})` },
    main: { metric: "official", value: reference.score / 100 },
  }));
  return sortable("Every result", columns, rows, {
    apart,
    apartName: "Published by others; not measured in this run and not ranked",
  });
}

function versionsPart() {
  const pairs = (object) =>
    el("dl", {}, Object.entries(object).flatMap(([name, value]) => [
      el("dt", {}, name),
      el("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
    ]));
  const seen = new Set();
  const scorers = RUN.results.filter((r) => !seen.has(r.label) && seen.add(r.label));
  return [
    el("div", { class: "side-by-side" },
      el("div", { class: "half" }, el("h3", {}, "Versions"), pairs({ ...RUN.versions, machine: RUN.machine, "written at": RUN.made })),
      el("div", { class: "half" }, el("h3", {}, "Settings"), pairs(RUN.settings))),
    el("h3", {}, "Scorers"),
    scorers.map((r) => el("details", { class: "panel" },
      el("summary", {}, r.label, " ", el("code", {}, r.spec)),
      pairs({ ...r.identity, "verdicts read by": r.reads }))),
    el("h3", {}, "Benchmarks"),
    RUN.benchmarks.map((b) => el("details", { class: "panel" },
      el("summary", {}, b.title),
      pairs({ name: b.name, source: b.source, digest: b.digest, rows: b.items, prompts: b.prompts, differs: b.differs }))),
  ];
}
