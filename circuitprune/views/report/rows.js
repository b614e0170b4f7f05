// Figures of rows: a bar or a point with its interval, named; or, of many, thin columns.

/**
 * A row for each of `rows`, `{name, v: {value, low, high}, about, attributes}`, along one axis.
 * `bars` says whether a bar goes from 0 to the value, `lines` are `[x, name]` across all rows, and
 * `band` is a range that is shaded. `warp` bends the axis: see `bent`.
 * @param {string} id
 * @param {string} name
 * @param {string} axis
 * @param {any[]} rows
 * @param {RowsLook} look
 */
function rowsFigure(
  id,
  name,
  axis,
  rows,
  { bars = true, lines = [], band = null, warp = null, caption = "" } = {},
) {
  const step = rows.length > 30 ? 14 : 18,
    labels = Math.min(26, Math.max(6, ...rows.map((r) => [...r.name].length)));
  const box = { ...FIGURE, top: lines.length ? 26 : 8, left: 18 + labels * 7, height: 0 };
  box.height = box.top + rows.length * step + box.bottom;
  const bend = warp ? warp.bend : (x) => x;
  const values = rows.flatMap(({ v }) => [v.value, v.low, v.high]);
  const marked = [...(bars ? [0] : []), ...lines.map(([x]) => x), ...(band ?? [])];
  const [low, high] = extent(
    values.filter((x) => x !== null && x !== undefined).map(bend),
    marked.map(bend),
  );
  const along = scale(low, high, box.left, box.width - box.right),
    at = (x) => along(bend(x));
  const ticks = warp
    ? warp.ticks.filter((t) => bend(t) >= low && bend(t) <= high)
    : steps(low, high);
  const shade = band
    ? [
        draw("rect", {
          class: "band-good",
          x: tenth(at(band[0])),
          y: box.top,
          width: tenth(at(band[1]) - at(band[0])),
          height: rows.length * step,
        }),
      ]
    : [];
  return figureOf(
    id,
    name,
    box,
    [
      ...shade,
      ...axisBelow(box, ticks, at, axis),
      ...(bars ? [svgLine("axis", at(0), box.top, at(0), box.height - box.bottom)] : []),
      ...lines.flatMap(([x, words]) => [
        svgLine("limit", at(x), box.top - 4, at(x), box.height - box.bottom),
        svgText(tenth(at(x)), box.top - 9, "middle", words),
      ]),
      ...rows.map((row, i) => oneRow(row, box, box.top + (i + 0.5) * step, at, bars)),
    ],
    caption,
  );
}

function oneRow({ name, v, about, attributes = {}, kind = "" }, box, y, at, bars) {
  const parts = [
    draw("title", {}, about),
    svgText(box.left - 8, tenth(y + 4), "end", clipped(name, 26), "label"),
  ];
  if (v.value === null || v.value === undefined)
    return draw("g", attributes, parts, svgText(box.left + 4, tenth(y + 4), "start", "undefined"));
  if (bars) {
    const from = Math.min(at(0), at(v.value)),
      to = Math.max(at(0), at(v.value));
    parts.push(
      draw("rect", {
        class: `bar-fill ${kind}`,
        x: tenth(from),
        y: tenth(y - 5),
        width: tenth(Math.max(to - from, 0.5)),
        height: 10,
      }),
    );
  }
  if (v.low != null && v.high != null) parts.push(svgLine("whisker", at(v.low), y, at(v.high), y));
  if (!bars)
    parts.push(
      draw("circle", { class: `spot ${kind}`, cx: tenth(at(v.value)), cy: tenth(y), r: 4.5 }),
    );
  return draw("g", { class: "row", ...attributes }, parts);
}

/** An axis that is linear up to `unit` on either side of 0 and logarithmic beyond. */
function bent(unit) {
  const bend = (x) => Math.asinh(x / unit);
  const decades = [1, 10, 100, 1000, 1e4, 1e5].map((m) => m * unit);
  return { bend, ticks: [...decades.map((x) => -x).reverse(), 0, ...decades] };
}

/** As rows, but too many to be named: thin columns side by side, each with its title. */
function columnsFigure(id, name, axis, rows, { limit, warp, caption }) {
  const box = { ...FIGURE, height: 260 },
    base = box.height - box.bottom,
    across = box.width - box.left - box.right;
  const [low, high] = extent(
    rows
      .flatMap(({ v }) => [v.value, v.low, v.high])
      .filter((x) => x != null)
      .map(warp.bend),
    [0, warp.bend(limit)],
  );
  const up = scale(low, high, base, box.top),
    at = (x) => up(warp.bend(x)),
    width = across / rows.length;
  const ticks = warp.ticks.filter((t) => warp.bend(t) >= low && warp.bend(t) <= high);
  const x = (i) => box.left + (i + 0.5) * width;
  const whiskers = rows.flatMap(({ v }, i) =>
    v.low == null ? [] : [`M${tenth(x(i))} ${tenth(at(v.low))}V${tenth(at(v.high))}`],
  );
  return figureOf(
    id,
    name,
    box,
    [
      ...axisBeside(box, ticks, at, axis),
      ...rows.map(({ v, about, attributes }, i) =>
        draw(
          "rect",
          {
            class: "bar-fill",
            ...attributes,
            x: tenth(x(i) - width * 0.4),
            width: Math.max(0.3, width * 0.8).toFixed(2),
            y: tenth(Math.min(at(0), at(v.value))),
            height: tenth(Math.max(0.5, Math.abs(at(0) - at(v.value)))),
          },
          draw("title", {}, about),
        ),
      ),
      draw("path", { class: "whisker", d: whiskers.join("") }),
      svgLine("axis", box.left, at(0), box.width - box.right, at(0)),
      svgLine("limit", box.left, at(limit), box.width - box.right, at(limit)),
      svgText(
        (box.left + box.width - box.right) / 2,
        box.height - 6,
        "middle",
        `${counted(rows.length, "edge")}, most needed first`,
        "name",
      ),
    ],
    caption,
  );
}
