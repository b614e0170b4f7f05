"use strict";
// The data, and how elements are made. Text only ever becomes a text node, so nothing in it can run.

/**
 * The element of the template with this id.
 * @param {string} id
 * @returns {Control}
 */
function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return /** @type {Control} */ (found);
}

/** @type {PageData} */
const DATA = JSON.parse(byId("data").textContent ?? "");
for (const circuit of DATA.circuits) circuit.edges = positions(circuit.spans);
for (const other of DATA.others)
  for (const circuit of other.circuits ?? []) circuit.edges = positions(circuit.spans);

/** Positions of a circuit's edges, strongest first; spans say by turns how many are left out, kept. */
function positions(spans) {
  const found = [];
  let at = 0;
  spans.forEach((length, i) => {
    for (const end = at + length; at < end; at++) if (i % 2) found.push(at);
  });
  return found;
}

const MAIN = DATA.runs[0];
const SVG = byId("drawing").namespaceURI;

/** What was typed or chosen in the control that an event comes from. */
const typed = (event) => event.target.value;

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().map((child) => (child instanceof Node ? child : shown(child))));
  return element;
}

/** An HTML element; attributes whose names start with "on" are listeners. */
const make = (tag, attributes = {}, ...children) =>
  build(document.createElement(tag), attributes, children);

/** An SVG element. */
const draw = (tag, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);

const HIDDEN =
  /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]|\p{Cs}/gu;

/** Text with what cannot be seen, or would turn the line around, spelt as its code. */
function shown(text) {
  const code = (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`;
  return String(text).replace(HIDDEN, code);
}

/** Tokens as they are read: where none begins with a space, a tokenizer's mark for one becomes it. */
function spacing(tokens) {
  const marked = !tokens.some((t) => t.startsWith(" "));
  return (t) => (marked ? t.replace(/^[Ġ▁]/, " ") : t);
}

/** Made once: a new one for each number took a tenth of the time to the first screen. */
const THOUSANDS = new Intl.NumberFormat("en-US");

/** A number as a person would write it. */
function spell(x, digits = 3) {
  if (x === null || x === undefined) return "–";
  if (Number.isInteger(x)) return THOUSANDS.format(x);
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return x.toExponential(digits - 1);
  return Number(x.toPrecision(digits)).toString();
}

/** A number of things, each with its own word: 1 edge, 2,300 edges, 0 boxes. */
const counted = (n, one, many = `${one}s`) => `${spell(n)} ${n === 1 ? one : many}`;

/** A KL, or a change of one: what rounding leaves below zero is zero. */
const nats = (kl, digits = 3) => spell(kl < 0 && kl > -1e-6 ? 0 : kl, digits);

const percent = (x) => `${(100 * x).toFixed(x < 0.1 ? 2 : 1)} %`;
const interval = (v, digits = 3) =>
  `${spell(v.value, digits)} [${spell(v.low, digits)}, ${spell(v.high, digits)}]`;
const natsInterval = (v) => `${nats(v.value)} [${nats(v.low)}, ${nats(v.high)}]`;
const signed = (x) => `${x > 0 ? "+" : ""}${spell(x)}`;
const isInterval = (v) => v !== null && typeof v === "object" && "value" in v && "low" in v;

/** A table with a head; cells are text or elements. */
function table(head, rows, into = make("table")) {
  const cells = (tag, row) =>
    make(
      "tr",
      {},
      row.map((cell, i) => make(tag, i ? {} : { class: "first" }, cell)),
    );
  const top = cells("th", head);
  for (const cell of top.children) cell.setAttribute("scope", "col");
  into.replaceChildren(
    make("thead", {}, top),
    make(
      "tbody",
      {},
      rows.map((row) => cells("td", row)),
    ),
  );
  return into;
}

/** A table that shows `size` of `n` rows at a time, `row(i)` each, and says which; `foot` holds the buttons. */
function pages(head, n, row, into, foot, size = 200) {
  const turn = (first) => {
    const last = Math.min(n, first + size);
    const go = (text, to) =>
      make(
        "button",
        { type: "button", disabled: to < 0 || to >= n, onclick: () => turn(to) },
        text,
      );
    table(
      head,
      Array.from({ length: last - first }, (_, i) => row(first + i)),
      into,
    );
    const range =
      n > size
        ? `Rows ${spell(first + 1)} to ${spell(last)} of ${spell(n)}.`
        : `${counted(n, "row")}.`;
    foot.replaceChildren(
      range,
      ...(n > size ? [" ", go("previous", first - size), " ", go("next", first + size)] : []),
    );
  };
  turn(0);
}

/** Hands a text to the reader as a file. */
function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
