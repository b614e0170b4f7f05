// The frontier: how close circuits come to the model, over their number of edges.

const PLOT = {
  width: Math.max(300, Math.min(470, document.documentElement.clientWidth - 50)),
  height: 300,
  left: 58,
  right: 14,
  top: 28,
  bottom: 44,
};
const KL_FLOOR = 1e-5;
const RUN_MARKS = 6;
const RUN_SHAPES = ["circle", "square", "triangle", "diamond", "down", "plus"];
/** Marks of the runs, those of figures/style.py. */

/**
 * A quantity at a point of the first run with its interval, if the evidence has it.
 * @param {Json.PointRow} point
 * @param {"kl" | "faithfulness"} name
 */
function intervalAt(point, name) {
  const sizes = computed(SECTIONS.faithfulness)?.sizes ?? [];
  return sizes.find((s) => s.n_edges === point.n_edges && s.size === point.size)?.[name];
}

function scale(low, high, from, to) {
  return (x) => from + ((x - low) / (high - low || 1)) * (to - from);
}

/** Powers of ten from `low` to `high`. */
function decades(low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-9),
    last = Math.floor(Math.log10(high) + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => 10 ** (first + i));
}

function steps(low, high) {
  const rough = (high - low) / 5,
    unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5].map((m) => m * unit).find((s) => s >= rough) ?? 10 * unit;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

/**
 * One plot; `log` says whether its vertical axis is.
 * @param {"kl" | "faithfulness"} name
 * @param {string} label
 * @param {boolean} log
 * @param {(position: number) => void} choose
 */
function plot(name, label, log, choose) {
  const shownRuns = DATA.runs.map(
    (run) => run.points.filter((p) => p.n_edges > 0 && Number.isFinite(p[name])), // or undefined on the pairs
  );
  const xs = shownRuns.flat().map((p) => p.n_edges);
  const lift = (v) => (log ? Math.log10(Math.max(v, KL_FLOOR)) : v);
  const ends = shownRuns[0]
    .map((p) => intervalAt(p, name))
    .flatMap((v) => (v ? [v.low, v.high] : []))
    .filter((x) => x !== null);
  const ys = [...shownRuns.flat().map((p) => p[name]), ...ends, ...(log ? [] : [0, 1])].map(lift);
  const [low, high] = [Math.min(...ys), Math.max(...ys)],
    pad = (high - low || 1) * 0.06;
  const { width, height, left, right, top, bottom } = PLOT;
  const most = Math.max(...xs, 10);
  const px = scale(Math.log10(Math.min(...xs, 1)), Math.log10(most), left + 8, width - right - 8);
  const py = scale(low - pad, high + pad, height - bottom, top);
  const at = { x: (n) => px(Math.log10(n)), y: (v) => py(lift(v)) };
  const ticks = log ? decades(10 ** low, 10 ** high) : steps(low, high);
  const svg = draw("svg", {
    viewBox: `0 0 ${width} ${height}`,
    class: "plot",
    role: "group",
    "aria-label": `${label} over the number of ${UNITS}`,
  });
  svg.append(...axes(label, ticks, decades(1, most), at, log));
  if (!log)
    svg.append(
      draw("line", { class: "model", x1: left, x2: width - right, y1: at.y(1), y2: at.y(1) }),
    );
  for (let run = shownRuns.length - 1; run >= 0; run--)
    svg.append(...series(run, shownRuns[run], name, at, choose)); // the first on top, to be clicked
  return svg;
}

function axes(label, ticks, counts, at, log) {
  const { width, height, left, right, top, bottom } = PLOT,
    base = height - bottom;
  const tick = (v) => (log && v <= KL_FLOOR * 1.01 ? `≤${spell(v, 1)}` : spell(v, log ? 1 : 2));
  return [
    draw("text", { class: "name", x: left - 44, y: 16 }, label),
    ...ticks.flatMap((v) => [
      draw("line", { class: "grid", x1: left, x2: width - right, y1: at.y(v), y2: at.y(v) }),
      draw("text", { class: "tick", x: left - 6, y: at.y(v) + 4, "text-anchor": "end" }, tick(v)),
    ]),
    ...counts.flatMap((n) => [
      draw("line", { class: "grid", x1: at.x(n), x2: at.x(n), y1: top, y2: base }),
      draw("text", { class: "tick", x: at.x(n), y: base + 16, "text-anchor": "middle" }, spell(n)),
    ]),
    draw("line", { class: "axis", x1: left, x2: width - right, y1: base, y2: base }),
    draw(
      "text",
      { class: "name", x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" },
      `${UNITS} kept`,
    ),
  ];
}

function series(run, points, name, at, choose) {
  const sorted = [...points].sort((a, b) => a.n_edges - b.n_edges);
  const line = sorted.map((p) => `${at.x(p.n_edges).toFixed(1)},${at.y(p[name]).toFixed(1)}`);
  const chosen = DATA.runs[run].points[DATA.runs[run].chosen];
  const bars = run
    ? []
    : sorted.flatMap((p) => {
        const v = intervalAt(p, name),
          x = at.x(p.n_edges);
        return v
          ? [draw("line", { class: "bar run0", x1: x, x2: x, y1: at.y(v.low), y2: at.y(v.high) })]
          : [];
      });
  const dots = sorted.map((p) => {
    const about = `${DATA.runs[run].name}: ${counted(p.n_edges, GRAPH.unit)}, ${name} ${name === "kl" ? nats(p.kl) : spell(p[name])}`;
    const mark = {
      class: `dot run${run % RUN_MARKS}`,
      cx: at.x(p.n_edges),
      cy: at.y(p[name]),
      r: 4,
    };
    if (run)
      return draw(
        "g",
        { class: mark.class },
        draw("title", {}, about),
        svgShape(RUN_SHAPES[run % RUN_MARKS], mark.cx, mark.cy, mark.r),
      );
    const pick = () => choose(DATA.runs[0].points.indexOf(p));
    const key = (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        pick();
      }
    };
    const button = {
      role: "button",
      tabindex: 0,
      "aria-label": `${about}; show it`,
      onclick: pick,
      onkeydown: key,
    };
    return draw(
      "circle",
      { ...mark, ...button, "data-point": DATA.runs[0].points.indexOf(p) },
      draw("title", {}, about),
    );
  });
  const ring = {
    class: `ring run${run % RUN_MARKS}`,
    cx: at.x(chosen.n_edges),
    cy: at.y(chosen[name]),
    r: 8,
  };
  return [
    draw("polyline", { class: `curve run${run % RUN_MARKS}`, points: line.join(" ") }),
    ...bars,
    ...(sorted.includes(chosen) ? [draw("circle", ring)] : []),
    ...dots,
  ];
}

/** Fills the section; `choose` is called with the position of a circuit that was picked. */
function showFrontier(choose) {
  byId("plots").append(
    plot("kl", "KL from the model (nats)", true, choose),
    plot("faithfulness", "faithfulness", false, choose),
  );
  const names = DATA.runs.map((run, i) =>
    make(
      "span",
      { class: "run" },
      make("i", { class: `swatch run${i % RUN_MARKS}` }),
      `${run.name} (${run.about.init}${run.about.learner ? `, ${run.about.learner}` : ""})`,
    ),
  );
  const bars = computed(SECTIONS.faithfulness) ? " Bars are 95 % intervals over pairs." : "";
  byId("runs").append(
    ...names,
    make(
      "span",
      {},
      `The ring marks the chosen circuit: the smallest within 0.1 nats whose faithfulness is within 0.8 to 1.2, else the closest.${bars} A click on a point shows its circuit above.`,
    ),
  );
  const rows = DATA.runs.flatMap((run) =>
    run.points.map((p) => [
      run.name,
      spell(p.n_edges),
      percent(p.n_edges / Number(run.about.n_edges_total)),
      nats(p.kl),
      ...["faithfulness", "metric", "accuracy", "exact_match"].map((k) => spell(p[k])),
    ]),
  );
  byId("points").append(
    table(
      ["run", UNITS, "share", "KL (nats)", "faithfulness", "metric", "accuracy", "exact match"],
      rows,
    ),
  );
}
