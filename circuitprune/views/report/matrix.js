// Heat maps with their numbers, and how values are spread.

/**
 * A heat map with its numbers. `cells[i][j]` is `{value, about, note}` or null; colour goes with the
 * size of the value, its hue with the sign.
 */
function matrixFigure(
  id,
  name,
  rows,
  columns,
  cells,
  { caption = "", down = "", across = "" } = {},
) {
  const wanted = Math.max(8, ...columns.map((c) => [...c].length)) * 7 + 6;
  const side = Math.max(34, Math.min(wanted, 540 / columns.length)),
    tall = Math.min(side, 46);
  const left = 26 + Math.min(24, Math.max(...rows.map((r) => [...r].length), 3)) * 7,
    top = across ? 46 : 28;
  const box = { width: left + columns.length * side + 12, height: top + rows.length * tall + 8 };
  const most = Math.max(1e-9, ...cells.flat().map((c) => Math.abs(c?.value ?? 0)));
  const marks = cells.flatMap((row, i) =>
    row.map((c, j) => oneCell(c, i, j, left + j * side, top + i * tall, side, tall, most)),
  );
  const heads = columns.map((c, j) =>
    draw(
      "g",
      {},
      draw("title", {}, c),
      svgText(
        tenth(left + (j + 0.5) * side),
        top - 8,
        "middle",
        clipped(c, Math.floor(side / 7)),
        "label",
      ),
    ),
  );
  const names = rows.map((r, i) =>
    draw(
      "g",
      {},
      draw("title", {}, r),
      svgText(left - 8, tenth(top + (i + 0.5) * tall + 4), "end", clipped(r, 24), "label"),
    ),
  );
  const axes = [
    ...(across ? [svgText(left + (columns.length * side) / 2, 14, "middle", across, "name")] : []),
    ...(down ? [svgText(8, 14, "start", down, "name")] : []),
  ];
  return figureOf(id, name, box, [...marks, ...heads, ...names, ...axes], caption);
}

function oneCell(c, i, j, x, y, width, height, most) {
  const place = {
    x: tenth(x + 1),
    y: tenth(y + 1),
    width: tenth(width - 2),
    height: tenth(height - 2),
    rx: 3,
  };
  const value = c?.value ?? null,
    about = c?.about ?? "not measured";
  const strength = value === null ? 0 : 0.06 + 0.44 * (Math.abs(value) / most);
  const lines = c?.note
    ? [
        [value, -2, "cell"],
        [c.note, 11, "tick"],
      ]
    : [[value, 4, "cell"]];
  return draw(
    "g",
    { class: "matrix-cell", "data-row": i, "data-column": j },
    draw("title", {}, about),
    draw("rect", {
      class: value < 0 ? "heat below" : "heat",
      ...place,
      "fill-opacity": strength.toFixed(3),
    }),
    lines.map(([words, dy, kind]) =>
      svgText(
        tenth(x + width / 2),
        tenth(y + height / 2 + dy),
        "middle",
        typeof words === "number" ? hundredths(words) : (words ?? "–"),
        kind,
      ),
    ),
  );
}

const hundredths = (x) => (Math.abs(x) < 0.005 ? 0 : x).toFixed(2);

/** Bars of counts over bins of equal width on a log axis, a band of them for each family; a line marks one value. */
function spreadFigure(id, name, axis, families, mark, caption) {
  const floor = 1e-5,
    lift = (x) => Math.log10(Math.max(x, floor)),
    tall = 58,
    nBins = 48;
  const box = { ...FIGURE, left: 96, top: 24, height: 24 + families.length * tall + FIGURE.bottom };
  const [low, high] = extent([...families.flatMap((f) => f.values), mark].map(lift));
  const px = scale(low, high, box.left, box.width - box.right),
    at = (x) => px(lift(x));
  const bands = families.flatMap((f, i) => {
    /** @type {number[][]} */
    const counts = Array.from({ length: nBins }, () => []);
    for (const x of f.values)
      counts[Math.min(nBins - 1, Math.floor(((lift(x) - low) / (high - low)) * nBins))].push(x);
    const most = Math.max(...counts.map((c) => c.length)),
      rise = (n) => Math.max(2, (n / most) * (tall - 14)),
      base = box.top + (i + 1) * tall - 4,
      width = (box.width - box.left - box.right) / nBins;
    const bars = counts.flatMap((c, j) =>
      c.length
        ? [
            draw(
              "rect",
              {
                class: "bar-fill",
                "data-family": f.name,
                "data-count": c.length,
                x: tenth(box.left + j * width + 0.5),
                width: tenth(width - 1),
                y: tenth(base - rise(c.length)),
                height: tenth(rise(c.length)),
              },
              draw(
                "title",
                {},
                `${c.length} of ${f.values.length} ${f.name}: ${axis} ${spell(Math.min(...c))} to ${spell(Math.max(...c))}`,
              ),
            ),
          ]
        : [],
    );
    return [
      svgLine("axis", box.left, base, box.width - box.right, base),
      svgText(box.left - 8, base - 18, "end", f.name, "label"),
      ...bars,
    ];
  });
  return figureOf(
    id,
    name,
    box,
    [
      ...axisBelow(box, decades(10 ** low, 10 ** high), at, axis, (v) =>
        v <= floor * 1.01 ? `≤${spell(v, 1)}` : spell(v, 1),
      ),
      ...bands,
      svgLine("limit", at(mark), box.top - 6, at(mark), box.height - box.bottom),
      svgText(
        tenth(at(mark)),
        box.top - 11,
        at(mark) > box.width - 110 ? "end" : at(mark) < box.left + 50 ? "start" : "middle",
        `this circuit, ${spell(mark)}`,
      ),
    ],
    caption,
  );
}
