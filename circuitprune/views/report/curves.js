// Figures of curves over the number of edges, and the marks of points.

/**
 * Lines through points `{x, v: {value, low, high}, about}`, one for each of `series`, x on a log axis.
 * @param {string} id
 * @param {string} name
 * @param {string} axis
 * @param {any[]} series
 * @param {CurvesLook} look
 */
function curvesFigure(
  id,
  name,
  axis,
  series,
  { band = null, ring = null, across = "edges kept", caption = "" } = {},
) {
  const box = { ...FIGURE, height: 300 },
    points = series.flatMap((s) => s.points).filter((p) => p.x > 0 && p.v.value !== null);
  if (!points.length) return []; // undefined at every size
  const xs = points.map((p) => p.x),
    first = Math.min(...xs),
    last = Math.max(...xs);
  const along = scale(
      Math.log10(first),
      Math.log10(last),
      box.left + 10,
      box.width - box.right - 10,
    ),
    px = (n) => along(Math.log10(n));
  const [low, high] = extent(
    points.flatMap((p) => [p.v.value, p.v.low, p.v.high]).filter((x) => x != null),
    [0, 1, ...(band ?? [])],
  );
  const py = scale(low, high, box.height - box.bottom, box.top);
  const shade = band
    ? [
        draw("rect", {
          class: "band-good",
          x: box.left,
          y: tenth(py(band[1])),
          width: box.width - box.left - box.right,
          height: tenth(py(band[0]) - py(band[1])),
        }),
      ]
    : [];
  const dots = (s, i) =>
    s.points
      .filter((p) => points.includes(p))
      .map((p) =>
        draw(
          "g",
          { class: `point series${i}` },
          draw("title", {}, p.about),
          ...(p.v.low == null
            ? []
            : [svgLine("whisker", px(p.x), py(p.v.low), px(p.x), py(p.v.high))]),
          svgShape(s.mark, px(p.x), py(p.v.value), 4),
        ),
      );
  return figureOf(
    id,
    name,
    box,
    [
      ...shade,
      ...axisBeside(box, steps(low, high), py, axis),
      ...axisBelow(box, decades(first, last), px, across),
      ...series.map((s, i) =>
        draw("polyline", {
          class: `through series${i}`,
          points: s.points
            .filter((p) => points.includes(p))
            .map((p) => `${tenth(px(p.x))},${tenth(py(p.v.value))}`)
            .join(" "),
        }),
      ),
      ...series.flatMap(dots),
      ...(ring
        ? [
            draw("circle", {
              class: "chosen-ring",
              cx: tenth(px(ring.x)),
              cy: tenth(py(ring.y)),
              r: 9,
            }),
          ]
        : []),
    ],
    [...series.map((s, i) => legendKey(s.name, s.mark, `series${i}`)), caption],
  );
}

const SHAPES = {
  circle: (x, y, r) => draw("circle", { cx: tenth(x), cy: tenth(y), r }),
  square: (x, y, r) =>
    draw("rect", {
      x: tenth(x - r * 0.9),
      y: tenth(y - r * 0.9),
      width: tenth(r * 1.8),
      height: tenth(r * 1.8),
    }),
  diamond: (x, y, r) =>
    svgPolygon([
      [x, y - 1.3 * r],
      [x + 1.3 * r, y],
      [x, y + 1.3 * r],
      [x - 1.3 * r, y],
    ]),
  down: (x, y, r) =>
    svgPolygon([
      [x, y + 1.2 * r],
      [x + 1.15 * r, y - 0.9 * r],
      [x - 1.15 * r, y - 0.9 * r],
    ]),
  plus: (x, y, r) =>
    svgPolygon(
      [
        [-1, -3],
        [1, -3],
        [1, -1],
        [3, -1],
        [3, 1],
        [1, 1],
        [1, 3],
        [-1, 3],
        [-1, 1],
        [-3, 1],
        [-3, -1],
        [-1, -1],
      ].map(([i, j]) => [x + (i * r) / 2.6, y + (j * r) / 2.6]),
    ),
  triangle: (x, y, r) =>
    svgPolygon([
      [x, y - 1.2 * r],
      [x + 1.15 * r, y + 0.9 * r],
      [x - 1.15 * r, y + 0.9 * r],
    ]),
};
const svgPolygon = (corners) =>
  draw("polygon", { points: corners.map(([x, y]) => `${tenth(x)},${tenth(y)}`).join(" ") });
const svgShape = (name, x, y, r) => SHAPES[name](x, y, r);

/** What a mark means, for a caption. */
const legendKey = (name, mark, kind) =>
  make(
    "span",
    { class: "legend-key" },
    draw(
      "svg",
      { viewBox: "0 0 14 14", class: "chart-key", "aria-hidden": "true" },
      draw("g", { class: `point ${kind}` }, svgShape(mark, 7, 7, 5)),
    ),
    name,
  );
