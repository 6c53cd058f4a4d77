// The filtered list of judgments. Only the visible rows are in the page.

const ROW = 58; // height of a list row in pixels, as in style.css
const OVERSCAN = 6; // rows drawn above and below the visible ones

function makeExplorer(root) {
  const { items, cards } = EXPLORER;
  if (!cards.length) {
    root.append(el("p", { class: "note" }, "This folder has no judgments (its folders items and judgments are missing). The numbers above do not depend on them."));
    return { filter() {}, focus() {} };
  }
  const cardsByItem = new Map();
  for (const card of cards) cardsByItem.has(card.i) ? cardsByItem.get(card.i).push(card) : cardsByItem.set(card.i, [card]);
  const searchTexts = new Map();
  let shown = cards;
  let selected = 0; // index in `shown`
  let timer = 0;

  // --- filters
  const select = (name, label, options) => {
    const input = el("select", { id: `filter-${name}`, on: { change: () => apply() } },
      options.map(([value, text], i) => { const option = el("option", {}, text); option.value = String(i ? value : ""); return option; }));
    return { name, input, field: el("label", { for: `filter-${name}` }, el("span", {}, label), input) };
  };
  const check = (name, label) => {
    const input = el("input", { type: "checkbox", id: `filter-${name}`, on: { change: () => apply() } });
    return { name, input, field: el("label", { class: "check", for: `filter-${name}` }, input, el("span", {}, label)) };
  };
  const benchmark = select("benchmark", "Benchmark", [["", "all"], ...RUN.benchmarks.map((b) => [b.name, b.title])]);
  const subset = select("subset", "Subset", [["", "all"]]);
  const scorer = select("scorer", "Scorer", [["", "all"], ...SCORERS.map((label) => [label, label])]);
  const outcome = select("outcome", "Outcome", [["", "any"], ...EXPLORER.outcomes.map((kind) => [kind, kind])]);
  const differs = check("differs", "scorers disagree");
  const failed = check("failed", "has a failure");
  const search = el("input", { type: "search", id: "filter-search", placeholder: "in prompts, responses, critiques", autocomplete: "off", spellcheck: "false", on: { input: debounce(() => apply(), 150) } });
  const counter = el("p", { class: "count", role: "status", "aria-live": "polite" });
  const reset = el("button", { type: "button", class: "quiet", on: { click: () => filter({}) } }, "Clear filters");
  const bar = el("form", { class: "filters", "aria-label": "Filters", on: { submit: (event) => event.preventDefault() } },
    benchmark.field, subset.field, scorer.field, outcome.field,
    el("label", { class: "search", for: "filter-search" }, el("span", {}, "Search"), search),
    differs.field, failed.field);

  // Values keep the exact names; only the displayed text has its invisible characters replaced.
  function fillSubsets() {
    const chosen = benchmark.input.value;
    const names = [...new Set(items.filter((i) => !chosen || RUN.benchmarks[i.b].name === chosen).map((i) => i.subset).filter(Boolean))].sort();
    const previous = subset.input.value;
    subset.input.replaceChildren(...["", ...names].map((name) => { const option = el("option", {}, name || "all"); option.value = name; return option; }));
    subset.input.value = names.includes(previous) ? previous : "";
  }

  const textOf = (text) => (typeof text === "object" && text !== null ? text.beginning : text) || "";
  function searchText(card) {
    if (!searchTexts.has(card)) {
      const item = items[card.i];
      const texts = [item.id, ...item.messages.map((m) => textOf(m.content)), ...item.responses.map(textOf)];
      for (const j of card.judgments) texts.push(textOf(j.critique), ...(j.completions || []).map(textOf), ...(j.failure ? j.failure.map(textOf) : []));
      searchTexts.set(card, texts.join("\n").toLowerCase());
    }
    return searchTexts.get(card);
  }

  function apply() {
    fillSubsets();
    const chosen = shown[selected];
    const words = search.value.trim().toLowerCase();
    const outcomeIndex = EXPLORER.outcomes.indexOf(outcome.input.value);
    shown = cards.filter((card) => {
      const item = items[card.i];
      return (
        (!benchmark.input.value || RUN.benchmarks[item.b].name === benchmark.input.value) &&
        (!subset.input.value || item.subset === subset.input.value) &&
        (!scorer.input.value || RUN.results[card.s].label === scorer.input.value) &&
        (outcomeIndex < 0 || card.o === outcomeIndex) &&
        (!differs.input.checked || item.d) &&
        (!failed.input.checked || card.f) &&
        (!words || searchText(card).includes(words))
      );
    });
    counter.textContent = `${count(shown.length)} of ${count(cards.length)} judgments`;
    selected = Math.max(0, shown.indexOf(chosen));
    list.scrollTop = Math.max(0, selected * ROW - ROW);
    choose(selected);
  }

  function filter(filters) {
    benchmark.input.value = filters.benchmark || "";
    fillSubsets();
    subset.input.value = filters.subset || "";
    scorer.input.value = filters.scorer || "";
    outcome.input.value = filters.outcome || "";
    differs.input.checked = failed.input.checked = false;
    search.value = "";
    selected = 0;
    apply();
  }

  // --- the list
  const rows = el("div", { class: "rows" });
  const list = el("div", { class: "list", id: "judgment-list", role: "listbox", tabindex: "0", "aria-label": "Judgments" }, rows);
  const detail = el("div", { class: "detail", id: "judgment-detail", role: "region", "aria-label": "Selected judgment", tabindex: "-1" });
  list.addEventListener("scroll", () => { cancelAnimationFrame(timer); timer = requestAnimationFrame(paint); });

  function row(index) {
    const card = shown[index];
    const item = items[card.i];
    const result = RUN.results[card.s];
    const last = item.messages[item.messages.length - 1];
    const element = el("div",
      { class: "row", role: "option", id: `judgment-${index}`, "aria-selected": String(index === selected), "aria-setsize": shown.length, "aria-posinset": index + 1, on: { click: () => choose(index) } },
      outcomeMark(EXPLORER.outcomes[card.o], card.share),
      el("span", { class: "row-name" }, truncate(result.label, 40), el("small", {}, item.subset || RUN.benchmarks[item.b].title)),
      el("span", { class: "row-tags" },
        card.f ? el("span", { class: "tag bad" }, "failure") : null,
        item.d ? el("span", { class: "tag" }, "disagree") : null),
      el("span", { class: "row-text", dir: "auto" }, truncate(textOf(last.content).slice(0, 200).replace(/\s+/g, " "), 90)));
    element.style.setProperty("--top", `${index * ROW}px`);
    return element;
  }

  function paint() {
    const from = Math.max(0, Math.floor(list.scrollTop / ROW) - OVERSCAN);
    const to = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + OVERSCAN);
    rows.style.setProperty("--all", `${shown.length * ROW}px`);
    rows.replaceChildren(...Array.from({ length: Math.max(0, to - from) }, (_, i) => row(from + i)));
    if (selected >= from && selected < to && shown.length) list.setAttribute("aria-activedescendant", `judgment-${selected}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function choose(index) {
    if (!shown.length) {
      paint();
      detail.replaceChildren(el("p", { class: "note" }, "No judgment matches these filters."));
      return;
    }
    selected = Math.min(shown.length - 1, Math.max(0, index));
    if (selected * ROW < list.scrollTop) list.scrollTop = selected * ROW;
    if ((selected + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (selected + 1) * ROW - list.clientHeight;
    paint();
    open(shown[selected]);
  }

  function open(card) {
    detail.replaceChildren(...judgmentView(items[card.i], card, cardsByItem.get(card.i), open));
    detail.scrollTop = 0;
  }

  // --- the keyboard
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const to = { ArrowDown: selected + 1, j: selected + 1, ArrowUp: selected - 1, k: selected - 1, PageDown: selected + page, PageUp: selected - page, Home: 0, End: shown.length - 1 }[event.key];
    if (to !== undefined) choose(to);
    else if (event.key === "Enter") {
      detail.focus();
      detail.scrollIntoView({ block: "nearest" });
    } else return;
    event.preventDefault();
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.activeElement !== list) {
      list.focus();
      event.preventDefault();
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
    search.focus();
    event.preventDefault();
  });
  addEventListener("resize", debounce(paint, 150));

  const flagged = EXPLORER.flagged;
  const sample = cards.length < EXPLORER.total
    ? el("p", { class: "note" }, `A sample: ${count(cards.length)} of ${count(EXPLORER.total)} judgments fit on this page. ` +
        `Rows with a failure or a disagreement between scorers were taken first (${count(flagged.shown)} of ${count(flagged.all)}), the others were drawn at random with a fixed seed. ` +
        "The run's folder has all judgments, and the numbers above are computed from all of them.")
    : null;
  root.append(...[sample, bar, el("div", { class: "under" }, counter, reset), el("div", { class: "explorer" }, list, detail)].filter(Boolean));
  apply();
  return { filter, focus: () => list.focus() };
}
