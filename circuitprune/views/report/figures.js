// A figure for each kind of evidence that has one, from verification.json.

const FAMILIES = {
  none: ["nothing", "diamond"],
  class: ["a class of nodes", "circle"],
  random: ["random nodes", "triangle"],
  greedy: ["greedy search", "square"],
};
/** What was knocked out, and its mark; the figures' are the same. */
const FAITHFUL = [0.8, 1.2]; // circuitprune/evidence/faithfulness.py, BAND
const NAMED_ROWS = 40;

/** Figures of a section by its name; each takes the section. */
const FIGURES = {
  faithfulness: faithfulnessFigure,
  cross_ablation: ablationsFigure,
  mib: mibFigure,
  function: directFigure,
  minimality: minimalityFigure,
  completeness: completenessFigure,
  random_circuits: randomFigure,
};

/**
 * The figures of a section, or a message that says why there are none; its tables are still shown.
 * @param {string} name
 * @param {any} section
 * @returns {HTMLElement[]}
 */
function figuresOf(name, section) {
  if (Object.hasOwn(FAULTS, name)) return [broken("Not drawn", FAULTS[name])];
  if (!Object.hasOwn(FIGURES, name)) return [];
  try {
    return [FIGURES[name](section)].flat();
  } catch (error) {
    return [broken("Not drawn, for an error in this page", error)];
  }
}

/** @param {Json.FaithfulnessCurve} section */
function faithfulnessFigure({ sizes, circuit }) {
  /** @param {"faithfulness" | "mean_of_ratios"} name */
  const points = (name) =>
    sizes
      .filter((s) => s.n_edges > 0)
      .sort((a, b) => a.n_edges - b.n_edges)
      .map((s) => ({
        x: s.n_edges,
        v: s[name],
        about: `${counted(s.n_edges, "edge")}: ${interval(s[name])}`,
      }));
  const series = [
    { name: "ratio of means", mark: "circle", points: points("faithfulness") },
    { name: "mean of each pair's ratio", mark: "square", points: points("mean_of_ratios") },
  ];
  return curvesFigure(
    "faithfulness",
    "Faithfulness over the number of edges, with intervals",
    "faithfulness",
    series,
    {
      band: FAITHFUL,
      ring: ringAt(circuit),
      caption: `Bars: 95 % intervals. Shaded: counts as faithful. Ring: this circuit.`,
    },
  );
}

/** Where a circuit stands on the curve; null if it has no edge, or its faithfulness is undefined. */
function ringAt({ n_edges, faithfulness: { value } }) {
  return n_edges > 0 && value !== null ? { x: n_edges, y: value } : null;
}

/** @param {Json.CrossAblation} section */
function ablationsFigure({ kinds }) {
  const rows = Object.entries(kinds).flatMap(([name, k]) =>
    "error" in k
      ? []
      : [
          {
            name,
            v: k.faithfulness,
            about: `${name}: ${interval(k.faithfulness)}`,
            attributes: { "data-kind": name },
          },
        ],
  );
  return rowsFigure(
    "cross_ablation",
    "Faithfulness by what cut edges carry",
    "faithfulness",
    rows,
    {
      bars: false,
      band: FAITHFUL,
      caption: "By what cut edges carry. Shaded: counts as faithful.",
    },
  );
}

/** @param {Json.Mib} section */
function mibFigure({ curves, cpr, cmd }) {
  const marks = ["circle", "square", "triangle", "diamond"];
  const series = Object.entries(curves).map(([name, curve], i) => ({
    name: words(name),
    mark: marks[i % 4],
    points: curve.points.map((p) => ({
      x: p.size * 100,
      v: p.faithfulness,
      about: `${words(name)}, ${spell(p.size * 100)} % of all, ${counted(p.n_edges, "edge")}: ${interval(p.faithfulness)}`,
    })),
  }));
  return curvesFigure("mib", "Faithfulness at MIB's ten sizes", "faithfulness", series, {
    across: "size asked for, % of all edges",
    caption: `CPR ${interval(cpr)}, CMD ${interval(cmd)}.`,
  });
}

/** @param {Json.Function} section */
function directFigure({ direct, lens }) {
  const rows = direct.slice(0, NAMED_ROWS).map((d) => ({
    name: d.node,
    v: { value: d.share },
    about: `${d.node}: ${spell(d.share)}`,
    kind: d.edge_to_logits_kept ? "" : "hollow",
    attributes: { "data-node-share": d.node },
  }));
  const stages = lens.flatMap((l) =>
    Object.entries({ clean: l.logit_diff, corrupt: l.logit_diff_corrupt }).map(
      ([prompt, value]) => ({
        name: `${l.at} ${prompt}`,
        v: { value },
        about: `at ${l.at}, ${prompt} prompt: ${spell(value)}; the answer's mean rank ${spell(l.answer_rank)}`,
        kind: prompt === "clean" ? "" : "hollow",
      }),
    ),
  );
  return [
    ...(rows.length
      ? [
          rowsFigure(
            "direct",
            "Direct shares of the logit difference",
            "direct share of the logit difference",
            rows,
            {
              caption:
                "What each kept writer adds through its edge to the logits; hollow where the circuit cuts that edge.",
            },
          ),
        ]
      : []),
    ...(stages.some((s) => s.v.value !== null)
      ? [
          rowsFigure(
            "lens",
            "The logit lens at each reader's stream",
            "logit difference of the answer",
            stages,
            {
              caption:
                "The logit lens at what each layer's readers see, on clean prompts, and hollow on corrupt ones.",
            },
          ),
        ]
      : []),
  ];
}

/** @param {Json.Minimality} section */
function minimalityFigure({ edges, tolerance }) {
  const rows = edges.map((e) => ({
    name: e.edge,
    v: e.kl,
    about: `without ${e.edge} the KL rises by ${natsInterval(e.kl)} nats`,
    attributes: { "data-edge": e.edge },
  }));
  const name = "By how much the KL rises when an edge is removed, with intervals",
    axis = "rise of the KL without the edge (nats)";
  const caption = `The axis is linear up to the tolerance of ${spell(tolerance)} nats and logarithmic beyond. An edge is needed if its whole interval lies beyond.`;
  const warp = bent(tolerance || 0.01);
  if (rows.length > NAMED_ROWS)
    return columnsFigure("minimality", name, axis, rows, { limit: tolerance, warp, caption });
  return rowsFigure("minimality", name, axis, rows, {
    lines: [[tolerance, "tolerance"]],
    warp,
    caption,
  });
}

/**
 * The circuit against the model, both under the same knock-out: equal on the diagonal.
 * @param {Json.Completeness} section
 */
function completenessFigure({ points, span, tolerance }) {
  const box = {
      width: Math.min(520, ROOM),
      height: Math.min(500, ROOM),
      left: 58,
      right: 18,
      top: 26,
      bottom: 42,
    },
    room = Math.abs(tolerance * span);
  const [low, high] = extent(
    points.flatMap((p) => [p.circuit, p.model, p.model + p.gap.low, p.model + p.gap.high]),
  );
  const px = scale(low, high, box.left, box.width - box.right),
    py = scale(low, high, box.height - box.bottom, box.top);
  const corner = (x, y) =>
    `${tenth(px(Math.min(high, Math.max(low, x))))},${tenth(py(Math.min(high, Math.max(low, y))))}`;
  const within = [
    [low, low + room],
    [high - room, high],
    [high, high],
    [high, high - room],
    [low + room, low],
    [low, low],
  ]
    .map(([x, y]) => corner(x, y))
    .join(" ");
  const mark = (p) =>
    draw(
      "g",
      {
        class: `point family-${p.family}${p.telling ? "" : " faint"}`,
        "data-family": p.family,
      },
      draw(
        "title",
        {},
        `${p.name}: circuit ${spell(p.circuit)}, model ${spell(p.model)}, gap ${interval(p.gap)}${p.telling ? "" : "; not telling"}${p.nodes.length ? `; ${p.nodes.slice(0, 12).join(", ")}${p.nodes.length > 12 ? ", ..." : ""}` : ""}`,
      ),
      svgLine(
        "whisker",
        px(p.model),
        py(p.model + p.gap.low),
        px(p.model),
        py(p.model + p.gap.high),
      ),
      svgShape(FAMILIES[p.family][1], px(p.model), py(p.circuit), 5),
    );
  const shownFamilies = Object.entries(FAMILIES).filter(([family]) =>
    points.some((p) => p.family === family),
  );
  return figureOf(
    "completeness",
    "The circuit against the model under the same knock-outs",
    box,
    [
      draw("polygon", { class: "band-good", points: within }),
      ...axisBeside(box, steps(low, high), py, "the circuit's metric"),
      ...axisBelow(box, steps(low, high), px, "the model's metric"),
      svgLine("model", px(low), py(low), px(high), py(high)),
      ...points.map(mark),
    ],
    [
      ...shownFamilies.map(([family, [name, form]]) => legendKey(name, form, `family-${family}`)),
      `A complete circuit lies on the diagonal; shaded: within ${spell(tolerance)} of the span. Pale: not telling, both do nothing. Bars: 95 % intervals of the gap.`,
    ],
  );
}

/** @param {Json.RandomCircuits} section */
function randomFigure({ families, circuit, n_random }) {
  const known = Object.entries(families).map(([name, f]) => ({ name, values: f.kl_of_each }));
  return spreadFigure(
    "random_circuits",
    "KL of random circuits and of this one",
    "KL from the model (nats)",
    known,
    circuit.kl,
    `${counted(n_random, "random circuit")} of each family; the height is how many. The line is this circuit, on the same pairs.`,
  );
}

const describes = () => make("span", { class: "badge" }, "describes");
const numbers = (...tables) => make("details", {}, make("summary", {}, "Numbers"), ...tables);
