// Charts as SVG, drawn to the available width. Each is a figure with its numbers in a table below.

const MARKS = 6; // shapes, so that no chart depends on colour alone

/** A figure. `draw(width)` returns the SVG and is called again when the page's width changes. */
function figure(title, caption, draw, table, wide = true) {
  const stage = el("div", { class: "stage" });
  const element = el(
    "figure",
    { class: wide ? "wide" : "half" },
    el("figcaption", {}, el("strong", {}, title), caption ? el("span", {}, " ", caption) : null),
    stage,
    table ? el("details", { class: "as-table" }, el("summary", {}, "As a table"), table) : null,
  );
  drawFunctions.set(stage, () => stage.replaceChildren(draw(Math.max(280, stage.clientWidth || 640))));
  return element;
}

const drawFunctions = new Map(); // by the element that the chart is in

/** Draw the charts that are in the page, and forget those that were removed. */
function drawAll() {
  for (const [stage, draw] of drawFunctions) {
    if (stage.isConnected) draw();
    else drawFunctions.delete(stage);
  }
}

function svgRoot(width, height, name, ...inside) {
  return sv("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name }, ...inside);
}

/** About `target` round ticks over a range. */
function ticks(low, high, target) {
  const rough = (high - low) / target || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) values.push(Number((i * step).toPrecision(12)));
  return values;
}

/** A scorer's mark at (x, y), in its colour and shape. */
function mark(scorer, x, y, size = 4.5) {
  const shape = scorer % MARKS;
  const at = (points) => points.map(([dx, dy]) => `${x + dx * size},${y + dy * size}`).join(" ");
  const cls = `mark s${scorer % 8}`;
  if (shape === 0) return sv("circle", { class: cls, cx: x, cy: y, r: size });
  if (shape === 1) return sv("rect", { class: cls, x: x - size * 0.9, y: y - size * 0.9, width: size * 1.8, height: size * 1.8 });
  const outline = [
    [[0, -1.2], [1.15, 0.9], [-1.15, 0.9]],
    [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    [[0, 1.2], [1.15, -0.9], [-1.15, -0.9]],
    [[-1.2, -0.4], [-0.4, -0.4], [-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4]],
  ];
  return sv("polygon", { class: cls, points: at(outline[shape - 2]) });
}

/**
 * A forest plot. `rows`: {label, scorer, number, group}; a group's name is shown once, above its rows. A wide faint
 * bar spans the values between all failures counted as wrong and all counted as right.
 */
function forest(name, metric, rows, width) {
  const unit = unitOf(metric);
  const narrow = width < 520;
  const left = narrow ? 8 : Math.min(260, width * 0.3);
  const right = narrow ? 8 : 148;
  const height = narrow ? 34 : 24;
  const withValue = rows.filter((row) => row.number && row.number.value !== undefined);
  const edges = withValue.flatMap(({ number: n }) => [n.value, n.low, n.high, n.worst, n.best]).filter((v) => typeof v === "number");
  let low = Math.min(...edges);
  let high = Math.max(...edges);
  const margin = (high - low) * 0.06 || 0.05;
  low = unit.share && low >= 0 ? Math.max(0, low - margin) : low - margin;
  high = unit.share && high <= 1 ? Math.min(1, high + margin) : high + margin;
  const x = (v) => left + ((v - low) / (high - low)) * (width - left - right);
  const lines = [];
  let y = 8;
  let group = null;
  for (const row of rows) {
    if (row.group && row.group !== group) {
      y += 20;
      lines.push(sv("text", { class: "group", x: narrow ? 8 : 0, y: y - 4 }, truncate(row.group, 60)));
      group = row.group;
    }
    const middle = y + (narrow ? 24 : height / 2);
    const n = row.number;
    const hasValue = n && n.value !== undefined;
    const value = hasValue ? withInterval(n) : NONE;
    lines.push(
      sv("text", { class: "label", x: narrow ? 8 : left - 12, y: narrow ? y + 12 : middle + 4, "text-anchor": narrow ? "start" : "end" },
        truncate(row.label, narrow ? 28 : Math.floor(left / 7.2)), sv("title", {}, row.label)),
      sv("text", { class: "figures", x: width - (narrow ? 8 : 0), y: narrow ? y + 12 : middle + 4, "text-anchor": "end" }, value),
    );
    if (hasValue) {
      const glyph = sv("g", {}, sv("title", {}, `${row.label}: ${value}`));
      if (n.worst !== undefined && n.best !== undefined && n.best > n.worst) {
        glyph.append(sv("line", { class: "bounds", x1: x(n.worst), x2: x(n.best), y1: middle, y2: middle }));
      }
      if (n.low !== undefined && n.high !== undefined) {
        glyph.append(sv("line", { class: `whisker s${row.scorer % 8}`, x1: x(n.low), x2: x(n.high), y1: middle, y2: middle }));
      }
      glyph.append(mark(row.scorer, x(n.value), middle));
      lines.push(glyph);
    }
    y += height;
  }
  const grid = ticks(low, high, narrow ? 4 : 7).flatMap((t) => [
    sv("line", { class: unit.share && t === 0.5 ? "grid half-way" : "grid", x1: x(t), x2: x(t), y1: 4, y2: y + 2 }),
    sv("text", { class: "tick", x: x(t), y: y + 18, "text-anchor": "middle" }, unit.axis(t)),
  ]);
  return svgRoot(width, y + 26, name, grid, lines);
}

/** A reliability diagram: accuracy by mean confidence. The area of a point grows with its rows. */
function reliability(name, scorer, curves, width) {
  const size = Math.min(width, 300);
  const pad = { left: 44, right: 12, top: 10, bottom: 40 };
  const bins = Object.values(curves).flat();
  const low = Math.min(0.5, ...bins.map((b) => Math.min(b.confidence, b.accuracy)));
  const floor = Math.max(0, Math.floor(low * 10) / 10);
  const most = Math.max(...bins.map((b) => b.rows), 1);
  const x = (v) => pad.left + ((v - floor) / (1 - floor)) * (size - pad.left - pad.right);
  const y = (v) => size - pad.bottom - ((v - floor) / (1 - floor)) * (size - pad.top - pad.bottom);
  const inside = ticks(floor, 1, 5).flatMap((t) => [
    sv("line", { class: "grid", x1: x(t), x2: x(t), y1: y(floor), y2: y(1) }),
    sv("line", { class: "grid", x1: x(floor), x2: x(1), y1: y(t), y2: y(t) }),
    sv("text", { class: "tick", x: x(t), y: y(floor) + 16, "text-anchor": "middle" }, fixed(t * 100, 0)),
    sv("text", { class: "tick", x: x(floor) - 6, y: y(t) + 4, "text-anchor": "end" }, fixed(t * 100, 0)),
  ]);
  inside.push(sv("line", { class: "diagonal", x1: x(floor), y1: y(floor), x2: x(1), y2: y(1) }));
  Object.entries(curves).forEach(([curve, points], index, all) => {
    const isLast = index === all.length - 1;
    const cls = `curve s${scorer % 8}${isLast ? "" : " before"}`;
    inside.push(sv("polyline", { class: cls, points: points.map((b) => `${x(b.confidence)},${y(b.accuracy)}`).join(" ") }));
    for (const b of points) {
      const title = `${curve}: confidence ${fixed(b.confidence * 100, 1)} %, accuracy ${fixed(b.accuracy * 100, 1)} %, ${b.rows} rows`;
      const r = 2.5 + 5 * Math.sqrt(b.rows / most);
      inside.push(sv("circle", { class: `bin s${scorer % 8}${isLast ? "" : " before"}`, cx: x(b.confidence), cy: y(b.accuracy), r }, sv("title", {}, title)));
    }
  });
  inside.push(sv("text", { class: "axis", x: x((1 + floor) / 2), y: size - 6, "text-anchor": "middle" }, "confidence, %"));
  inside.push(sv("text", { class: "axis", x: -y((1 + floor) / 2), y: 12, transform: "rotate(-90)", "text-anchor": "middle" }, "accuracy, %"));
  return svgRoot(size, size, name, inside);
}

/** The points that no other point of equal or lower cost exceeds, by increasing cost. */
function paretoFront(points) {
  let best = -Infinity;
  return [...points]
    .sort((a, b) => a.cost - b.cost || b.value - a.value)
    .filter((p) => p.value > best && ((best = p.value), true));
}

/** Value by cost on a log axis, with points of no cost apart on the left. `points`: {label, scorer, cost, value, number, shown}. */
function costChart(name, metric, axis, points, width) {
  const unit = unitOf(metric);
  const height = 300;
  const pad = { left: 52, right: 16, top: 14, bottom: 42 };
  const paid = points.filter((p) => p.cost > 0).map((p) => Math.log10(p.cost));
  const free = points.some((p) => p.cost <= 0);
  const start = pad.left + (free ? 42 : 0);
  let from = paid.length ? Math.floor(Math.min(...paid) - 0.1) : 0;
  const to = paid.length ? Math.ceil(Math.max(...paid) + 0.1) : 1;
  if (from === to) from -= 1;
  const edges = points.flatMap((p) => [p.value, p.number.low, p.number.high]).filter((v) => typeof v === "number");
  const margin = (Math.max(...edges) - Math.min(...edges)) * 0.1 || 0.05;
  const low = Math.min(...edges) - margin;
  const high = Math.max(...edges) + margin;
  const x = (cost) => (cost > 0 ? start + ((Math.log10(cost) - from) / (to - from)) * (width - start - pad.right) : pad.left + 16);
  const y = (v) => height - pad.bottom - ((v - low) / (high - low)) * (height - pad.top - pad.bottom);
  const inside = ticks(low, high, 5).flatMap((t) => [
    sv("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: y(t), y2: y(t) }),
    sv("text", { class: "tick", x: pad.left - 8, y: y(t) + 4, "text-anchor": "end" }, unit.axis(t)),
  ]);
  for (let power = from; power <= to; power++) {
    const cost = 10 ** power;
    const shown = cost >= 1e6 ? `${cost / 1e6}M` : cost >= 1e3 ? `${cost / 1e3}k` : String(Number(cost.toPrecision(1)));
    inside.push(sv("line", { class: "grid", x1: x(cost), x2: x(cost), y1: pad.top, y2: height - pad.bottom }));
    if (to - from < 8 || power % 2 === 0) inside.push(sv("text", { class: "tick", x: x(cost), y: height - pad.bottom + 16, "text-anchor": "middle" }, shown));
  }
  if (free) inside.push(sv("text", { class: "tick", x: x(0), y: height - pad.bottom + 16, "text-anchor": "middle" }, "0"));
  const front = paretoFront(points);
  const steps = front.map((p, i) => (i ? `L${x(p.cost)},${y(front[i - 1].value)} ` : "M") + (i ? "L" : "") + `${x(p.cost)},${y(p.value)}`);
  if (front.length) inside.push(sv("path", { class: "front", d: steps.join(" ") + ` L${width - pad.right},${y(front.at(-1).value)}` }));
  const labelBoxes = []; // of the labels placed so far
  for (const p of points) {
    const title = `${p.label}: ${withInterval(p.number)} at ${p.shown}`;
    const glyph = sv("g", {}, sv("title", {}, title));
    if (p.number.low !== undefined) glyph.append(sv("line", { class: `whisker s${p.scorer % 8}`, x1: x(p.cost), x2: x(p.cost), y1: y(p.number.low), y2: y(p.number.high) }));
    glyph.append(mark(p.scorer, x(p.cost), y(p.value), 5.5));
    const flip = x(p.cost) > width * 0.62;
    const label = truncate(p.label, 26);
    const from = flip ? x(p.cost) - 10 - label.length * 6.6 : x(p.cost) + 10;
    const box = { from, to: from + label.length * 6.6 };
    const isFree = (dy) => labelBoxes.every((t) => t.to < box.from || t.from > box.to || Math.abs(t.y - y(p.value) - dy) > 13);
    box.y = y(p.value) + ([-7, 16, -21, 30, -35].find(isFree) ?? -7);
    labelBoxes.push(box);
    glyph.append(sv("text", { class: "label", x: x(p.cost) + (flip ? -10 : 10), y: box.y, "text-anchor": flip ? "end" : "start" }, label));
    inside.push(glyph);
  }
  inside.push(sv("text", { class: "axis", x: (start + width - pad.right) / 2, y: height - 6, "text-anchor": "middle" }, axis));
  return svgRoot(width, height, name, inside);
}

/** A small chart for a table cell: point and interval on a common range. */
function spark(number, scorer, low, high) {
  const x = (v) => 4 + ((v - low) / (high - low || 1)) * 92;
  return sv(
    "svg",
    { class: "spark", viewBox: "0 0 100 14", width: 100, height: 14, "aria-hidden": "true" },
    sv("line", { class: "grid", x1: 4, x2: 96, y1: 7, y2: 7 }),
    number.low === undefined ? null : sv("line", { class: `whisker s${scorer % 8}`, x1: x(number.low), x2: x(number.high), y1: 7, y2: 7 }),
    mark(scorer, x(number.value), 7, 3.5),
  );
}
