// Small figures: axes, bars with intervals, points, matrices. Each is one picture to a screen reader,
// with a name, and stands above a table of the same numbers.

/** Pixels that a figure may be wide: letters keep their size, so a figure is drawn for its screen. */
const ROOM = Math.max(300, Math.min(640, document.documentElement.clientWidth - 50));
const FIGURE = { width: ROOM, left: 58, right: 18, top: 26, bottom: 42 };

/** A figure with a caption; `id` is `figure-...`, for links and tests. */
function figureOf(id, about, size, marks, caption) {
  const svg = draw(
    "svg",
    {
      viewBox: `0 0 ${size.width} ${size.height}`,
      class: "chart",
      role: "img",
      "aria-label": about,
    },
    marks,
  );
  const wide = size.width > ROOM,
    name = { tabindex: 0, role: "region", "aria-label": `${about}, wider than the screen` };
  const figure = make(
    "figure",
    { id: `figure-${id}`, class: "evidence" },
    wide ? make("div", { class: "scroll", ...name }, svg) : svg,
    make("figcaption", { class: "legend" }, caption),
  );
  svg.style.setProperty(wide ? "width" : "max-width", `${size.width}px`);
  figure.style.setProperty("width", `min(100%, ${Math.max(size.width, 340)}px)`);
  return figure;
}

const svgText = (x, y, anchor, words, kind = "tick") =>
  draw("text", { class: kind, x, y, "text-anchor": anchor }, words);
const svgLine = (kind, x1, y1, x2, y2) =>
  draw("line", { class: kind, x1: tenth(x1), y1: tenth(y1), x2: tenth(x2), y2: tenth(y2) });

/** A place to a tenth of a unit. A figure that lacks a number is not drawn: see `figuresOf`. */
function tenth(x) {
  if (!Number.isFinite(x)) throw new TypeError("a figure lacks one of its numbers");
  return Number(x.toFixed(1));
}

/** A name that fits its place; the whole of it is in a title. */
function clipped(words, most) {
  const letters = [...shown(words)];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : letters.join("");
}

/** Ticks and a name under a figure; `at` puts a value at its x. */
function axisBelow(box, ticks, at, name, tick = (v) => spell(v)) {
  const base = box.height - box.bottom;
  return [
    ...ticks.flatMap((v) => [
      svgLine("grid", at(v), box.top, at(v), base),
      svgText(tenth(at(v)), base + 16, "middle", tick(v)),
    ]),
    svgLine("axis", box.left, base, box.width - box.right, base),
    svgText((box.left + box.width - box.right) / 2, box.height - 6, "middle", name, "name"),
  ];
}

/** Ticks and a name at the left of a figure. */
function axisBeside(box, ticks, at, name) {
  return [
    ...ticks.flatMap((v) => [
      svgLine("grid", box.left, at(v), box.width - box.right, at(v)),
      svgText(box.left - 6, tenth(at(v) + 4), "end", spell(v, 2)),
    ]),
    svgText(8, 14, "start", name, "name"),
  ];
}

/** Least and largest of some numbers, those in `also` among them, with some room around. */
function extent(values, also = []) {
  const known = [...values, ...also].filter(Number.isFinite);
  const low = Math.min(...known),
    high = Math.max(...known),
    room = (high - low || 1) * 0.05;
  return [low - room, high + room];
}
