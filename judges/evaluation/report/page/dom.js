// Elements, and the formatting of texts and numbers. Texts enter the page only as text nodes.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// Characters that are invisible, change the reading direction or are unassigned: shown by their code points. Joiners
// that scripts and emoji need (U+200C, U+200D), tabs and line breaks stay.
const INVISIBLE = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e" +
    "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ufffe\\uffff\\ud800-\\udfff\\u{e0000}-\\u{e007f}]",
  "gu",
);

function codePoint(character) {
  return "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

/** A text for attributes and SVG, with invisible characters replaced by their code points. */
function escapeInvisible(text) {
  return String(text).replace(/\r\n/g, "\n").replace(INVISIBLE, (c) => `[${codePoint(c)}]`);
}

/** A text as nodes, with invisible characters marked. */
function textNodes(text) {
  const fragment = document.createDocumentFragment();
  const source = String(text).replace(/\r\n/g, "\n");
  let end = 0;
  for (const match of source.matchAll(INVISIBLE)) {
    fragment.append(source.slice(end, match.index));
    const mark = document.createElement("span");
    mark.className = "hidden-character";
    mark.title = "an invisible character";
    mark.textContent = codePoint(match[0]);
    fragment.append(mark);
    end = match.index + match[0].length;
  }
  fragment.append(source.slice(end));
  return fragment;
}

/** An element. `props` are attributes; `on` holds listeners; children are nodes, texts, or nothing. */
function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, escapeInvisible(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : textNodes(child));
  }
  return element;
}

/** An SVG element; children as in `el`. */
function sv(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) {
    if (value !== null && value !== undefined) element.setAttribute(name, escapeInvisible(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : escapeInvisible(child));
  }
  return element;
}

const MINUS = "\u2212";
const NONE = "–";

function fixed(value, digits) {
  return value.toFixed(digits).replace("-", MINUS);
}

function count(value) {
  return Math.round(value).toLocaleString("en");
}

/** The number format of a metric: shares are shown in per cent. */
function unitOf(metric) {
  const share = SHARES.has(metric);
  return {
    share,
    value: (v) => (v === null || v === undefined ? NONE : share ? fixed(v * 100, 1) : fixed(v, 3)),
    axis: (v) => (share ? fixed(v * 100, 0) + " %" : String(Number(v.toPrecision(6))).replace("-", MINUS)),
  };
}

function interval(number) {
  if (!number || number.low === null || number.low === undefined || number.high === undefined) return "";
  const unit = unitOf(number.metric);
  return `${unit.value(number.low)} to ${unit.value(number.high)}`;
}

function withInterval(number) {
  if (!number || number.value === null || number.value === undefined) return NONE;
  const range = interval(number);
  return unitOf(number.metric).value(number.value) + (range ? ` (${range})` : "");
}

const seconds = (s) => (s >= 100 ? count(s) : fixed(s, 1));

/** A text cut to `length` characters. */
function truncate(text, length) {
  const visible = escapeInvisible(text);
  const characters = Array.from(visible);
  return characters.length <= length ? visible : characters.slice(0, length - 1).join("") + "…";
}

/** A function that calls `callback` once it has not been called for `wait` milliseconds. */
function debounce(callback, wait) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => callback(...args), wait);
  };
}
