// Tables: plain, sortable, and heat maps.

/**
 * A sortable table. `columns`: {name, title, text, sort, cell}, where `sort(row)` is the number or text to order by
 * (null last) and `cell(row)` the content. Rows keep their order until a header is clicked. The `apart` rows stay below
 * the others in every order, under the heading `apartName`.
 */
function sortable(caption, columns, rows, { apart = [], apartName = "" } = {}) {
  const body = el("tbody");
  const heads = columns.map((column, index) => {
    const button = el("button", { type: "button", class: "sort", on: { click: () => sortBy(index) } }, column.name);
    return el("th", { scope: "col", class: column.text ? null : "number", title: column.title }, button);
  });
  let order = { index: null, ascending: false };

  function tableRow(row) {
    return el(
      "tr",
      {},
      columns.map((column, index) =>
        index === 0
          ? el("th", { scope: "row" }, column.cell(row))
          : el("td", { class: column.text ? null : "number" }, column.cell(row)),
      ),
    );
  }

  function fill() {
    const { index, ascending } = order;
    const sorted = [...rows];
    if (index !== null) sorted.sort((a, b) => compare(columns[index].sort(a), columns[index].sort(b), ascending));
    body.replaceChildren(...sorted.map(tableRow));
    heads.forEach((head, i) => {
      if (i === index) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  function sortBy(index) {
    const ascending = order.index === index ? !order.ascending : Boolean(columns[index].text);
    order = { index, ascending };
    fill();
  }

  fill();
  const table = el("table", { class: "sortable" }, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body);
  if (apart.length) {
    const heading = el("tr", {}, el("th", { scope: "rowgroup", colspan: columns.length, class: "apart" }, apartName));
    table.append(el("tbody", { class: "published" }, heading, apart.map(tableRow)));
  }
  return scrolling(caption, table);
}

function compare(a, b, ascending) {
  const isMissing = (v) => v === null || v === undefined;
  if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
  const sign = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
  return ascending ? sign : -sign;
}

/** A region that scrolls sideways, with the keyboard too, where its content is wider than the page. */
function scrolling(name, inside) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, inside);
}

/** A plain table. The first cell of each row is its header. */
function simpleTable(caption, head, rows) {
  return scrolling(
    caption,
    el(
      "table",
      {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, head.map((name, i) => el("th", { scope: "col", class: i ? "number" : null }, name)))),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            row.map((cell, i) => (i ? el("td", { class: "number" }, cell) : el("th", { scope: "row" }, cell))),
          ),
        ),
      ),
    ),
  );
}

/**
 * A heat map. `rows` and `columns` are names, and `at(r, c)` is a metric value or null. `choose(r, c)` is called when a
 * cell is clicked.
 */
function heatMap(caption, corner, rows, columns, at, choose = null) {
  const found = rows.flatMap((_, r) => columns.map((__, c) => at(r, c))).filter((n) => n && n.value !== undefined);
  const values = found.map((n) => n.value);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const unit = unitOf(found.length ? found[0].metric : "");
  const cell = (r, c) => {
    const number = at(r, c);
    if (!number || number.value === undefined) return el("td", { class: "number none", title: number && number.note }, NONE);
    const title = `${rows[r]}, ${columns[c]}: ${withInterval(number)}${number.rows ? `, ${number.rows} rows` : ""}`;
    const shown = unit.value(number.value);
    const inside = choose
      ? el("button", { type: "button", title, "aria-label": title, on: { click: () => choose(r, c) } }, shown)
      : shown;
    const element = el("td", { class: "number heat", title: choose ? null : title }, inside);
    const position = high > low ? (number.value - low) / (high - low) : 0.5;
    element.style.setProperty("--part", `${Math.round(position * 100)}%`);
    return element;
  };
  const table = el(
    "table",
    { class: "heat-map" },
    el("caption", {}, caption),
    el(
      "thead",
      {},
      el("tr", {}, el("th", { scope: "col" }, corner), columns.map((c) => el("th", { scope: "col", class: "number" }, c))),
    ),
    el(
      "tbody",
      {},
      rows.map((row, r) => el("tr", {}, el("th", { scope: "row" }, row), columns.map((_, c) => cell(r, c)))),
    ),
  );
  const scale = el(
    "p",
    { class: "scale", "aria-hidden": "true" },
    el("span", {}, values.length ? unit.value(low) : NONE),
    el("span", { class: "ramp" }),
    el("span", {}, values.length ? unit.value(high) : NONE),
  );
  return el("div", {}, scrolling(caption, table), values.length > 1 && high > low ? scale : null);
}
