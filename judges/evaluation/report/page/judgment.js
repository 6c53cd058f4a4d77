// One judgment: the prompt, and all responses side by side with their scores and critiques.

// Symbols, so that no outcome depends on colour alone.
const SYMBOLS = { right: "✓", wrong: "✕", tie: "=", partly: "◐", failed: "!", "no gold": "·" };

function outcomeMark(outcome, share) {
  const label = outcome === "partly" && share !== undefined ? `partly right, ${fixed(share * 100, 0)} %` : outcome;
  return el("span", { class: `outcome ${outcome.replace(" ", "-")}`, title: label }, SYMBOLS[outcome], el("span", { class: "aside" }, ` ${label}`));
}

/** A text of the run, or its beginning where the page does not have all of it. */
function longText(text, name, cls = "text") {
  const cut = typeof text === "object" && text !== null;
  const body = el("div", { class: cls, dir: "auto", tabindex: "0", role: "group", "aria-label": name }, cut ? text.beginning : text);
  return cut ? [body, el("p", { class: "why" }, `The first ${count(text.beginning.length)} of ${count(text.length)} characters; the run's folder has the full text.`)] : body;
}

const isFailure = (value) => Array.isArray(value);
const score = (value) => (isFailure(value) ? value[0] : String(Number(value.toPrecision(6))).replace("-", MINUS));

function failureBox(failure) {
  return el("p", { class: "failure" }, el("strong", {}, failure[0]), ": ", typeof failure[1] === "object" ? failure[1].beginning : failure[1]);
}

/** The gold label of response `i` as a tag; null where it has none. */
function goldTag(gold, i) {
  if (!gold) return null;
  if (gold.tie) return el("span", { class: "tag gold" }, "gold: tie");
  if (gold.chosen) return gold.chosen.includes(i) ? el("span", { class: "tag gold" }, "✓ gold") : null;
  if (gold.ranking) return el("span", { class: "tag gold" }, `gold rank ${gold.ranking[i]}`);
  if (gold.scores) return el("span", { class: "tag gold" }, `gold score ${score(gold.scores[i])}`);
  return null;
}

function responseColumn(item, card, i) {
  const judgment = card.judgments[i] || {};
  const preferred = card.preference && Math.max(...card.preference) === card.preference[i];
  const name = `Response ${i + 1}`;
  const facts = [];
  if (judgment.votes && judgment.votes.length > 1) facts.push(`votes ${judgment.votes.map(score).join(", ")}`);
  if (judgment.read) facts.push(`read by ${judgment.read}`);
  if (judgment.mass !== undefined) facts.push(`mass ${fixed(judgment.mass, 3)}`);
  if (judgment.truncated) facts.push("critique cut off by the token limit");
  if (judgment.readings) facts.push(...Object.entries(judgment.readings).map(([name, value]) => `${name}: ${score(value)}`));
  if (judgment.tokens) facts.push(`${count(judgment.tokens[0])} prompt, ${count(judgment.tokens[1])} cached, ${count(judgment.tokens[2])} generated tokens`);
  const chosen = item.gold && item.gold.chosen && item.gold.chosen.includes(i);
  return el(
    "article",
    { class: chosen ? "response chosen" : "response", "aria-label": name },
    el(
      "header",
      {},
      el("h4", {}, name),
      goldTag(item.gold, i),
      preferred ? el("span", { class: "tag" }, `preferred ${fixed(card.preference[i] * 100, 0)} %`) : null,
      el("span", { class: "score" }, judgment.score === undefined ? "no score" : score(judgment.score)),
    ),
    judgment.failure ? failureBox(judgment.failure) : null,
    longText(item.responses[i], name),
    facts.length ? el("p", { class: "why" }, facts.join(" · ")) : null,
    judgment.critique !== undefined ? [el("h5", {}, "Critique"), longText(judgment.critique, `${name}, critique`, "text critique")] : null,
    judgment.completions
      ? el("details", {}, el("summary", {}, `Completions of the judge (${judgment.completions.length})`),
          judgment.completions.map((text, k) => [
            el("h5", {}, judgment.votes && judgment.votes.length === judgment.completions.length ? `${k + 1}: ${score(judgment.votes[k])}` : String(k + 1)),
            longText(text, `${name}, completion ${k + 1}`, "text critique"),
          ]))
      : null,
  );
}

function comparisonsTable(card) {
  const rows = card.comparisons.map(([first, second, outcome, swapped]) => {
    const [a, b] = swapped ? [second, first] : [first, second];
    const winner = isFailure(outcome)
      ? el("span", { class: "bad" }, `${outcome[0]}: ${typeof outcome[1] === "object" ? outcome[1].beginning : outcome[1]}`)
      : outcome === "tie" ? "tie" : `response ${(outcome === "first" ? first : second) + 1}`;
    return [`response ${a + 1}, then ${b + 1}`, winner];
  });
  return simpleTable("Comparisons, in the order shown to the judge", ["order", "winner"], rows);
}

/** The elements of one judgment. `cards` are all cards of the same Item, and `open(card)` shows one of them. */
function judgmentView(item, card, cards, open) {
  const result = RUN.results[card.s];
  const benchmark = RUN.benchmarks[item.b];
  const outcome = EXPLORER.outcomes[card.o];
  const chips = cards.map((candidate) =>
    el("button", { type: "button", class: "chip", "aria-pressed": String(candidate === card), on: { click: () => open(candidate) } },
      outcomeMark(EXPLORER.outcomes[candidate.o], candidate.share), " ", RUN.results[candidate.s].label));
  const extra = [["Reference", item.reference], ["Rubric", item.rubric]].filter(([, text]) => text !== undefined);
  const meta = Object.entries(item.meta || {});
  return [
    el("header", { class: "judgment-head" },
      el("h3", { tabindex: "-1", id: "judgment-title" }, outcomeMark(outcome, card.share), " ", result.label),
      el("p", { class: "facts" }, [benchmark.title, item.subset, `row ${item.id}`].filter(Boolean).join(" · "))),
    el("div", { class: "chips", role: "group", "aria-label": "Scorers on this row" }, chips,
      item.d ? el("span", { class: "tag" }, "scorers disagree") : null),
    el("h4", {}, "Prompt"),
    item.messages.map((turn) => el("div", { class: `turn ${turn.role === "user" ? "user" : "other"}` },
      el("span", { class: "role" }, turn.role), longText(turn.content, `Prompt, ${turn.role}`))),
    extra.map(([name, text]) => el("details", {}, el("summary", {}, name), longText(text, name))),
    el("div", { class: "responses" }, item.responses.map((_, i) => responseColumn(item, card, i))),
    card.comparisons ? comparisonsTable(card) : null,
    card.preference ? el("p", { class: "why" }, `Preference: ${card.preference.map((p, i) => `response ${i + 1} ${fixed(p * 100, 1)} %`).join(", ")}`) : null,
    meta.length ? el("details", {}, el("summary", {}, "Metadata of this row"), el("dl", {}, meta.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, longText(value, name))]))) : null,
  ].flat(3).filter(Boolean);
}
