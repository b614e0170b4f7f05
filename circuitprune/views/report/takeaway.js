// What the reader takes away: the drawing as an SVG file, the circuit as EAP-IG's JSON.

const WRITTEN = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-opacity",
  "stroke-dasharray",
  "stroke-linecap",
  "opacity",
  "font-size",
  "font-family",
  "font-weight",
  "text-anchor",
];

/** The drawing as it is seen, as a file of its own: colours and fonts written into it. */
function figure(picture) {
  const live = picture.svg,
    copy = live.cloneNode(true),
    look = getComputedStyle(live);
  const [from, to] = [live, copy].map((svg) => [...svg.querySelectorAll("*")]);
  from.forEach((element, i) => {
    const own = getComputedStyle(element);
    for (const name of WRITTEN) to[i].setAttribute(name, own.getPropertyValue(name));
  });
  for (const key of copy.querySelectorAll(".fold")) key.lastChild.textContent = key.dataset.layer;
  const [x, y, width, height] = live.getAttribute("viewBox").split(" ");
  copy.prepend(draw("rect", { x, y, width, height, fill: look.getPropertyValue("--paper") }));
  if (live.classList.contains("painted"))
    copy.querySelector(".edges").before(painted(picture, look));
  copy.setAttribute("width", picture.plan.width);
  copy.setAttribute("height", picture.plan.height);
  copy.removeAttribute("style");
  return new XMLSerializer().serializeToString(copy);
}

/** What the canvas shows, as elements. */
function painted(picture, look) {
  const band = ({ opacity, layer, middle, ...place }) =>
    draw("rect", { ...place, opacity, fill: look.getPropertyValue("--panel") });
  const path = (curve) => {
    const { points, width, opacity, dash, style } = picture.stroke(curve);
    const looks = {
      d: pathOf(points),
      fill: "none",
      stroke: look.getPropertyValue(style),
      "stroke-width": width.toFixed(2),
      "stroke-opacity": opacity.toFixed(3),
    };
    return draw("path", {
      class: `edge ${curve.kind}`,
      ...looks,
      "stroke-dasharray": dash.join(" ") || null,
    });
  };
  const opacity = getComputedStyle(picture.paint.canvas).opacity;
  return draw(
    "g",
    {},
    picture.plan.bands.map(band),
    draw("g", { opacity }, picture.curves.map(path)),
  );
}

/** The circuit in the form of EAP-IG and MIB, by query head; what they can't say is under `circuitprune`. */
function asJson() {
  const { edges, n_edges } = circuit(),
    evidence = MAIN.points[state.circuit],
    { n_kv_readers } = GRAPH;
  const named = edges.flatMap((edge) =>
    readerNames(DATA.edges.reader[edge]).map((reader) => ({
      writer: GRAPH.writers[DATA.edges.writer[edge]],
      reader,
      score: DATA.edges.score[edge],
    })),
  );
  const nodes = new Set(
    named.flatMap(({ writer, reader }) => [writer, reader.replace(/<.>$/, "")]),
  );
  const part =
    edges.length < n_edges
      ? { part: `the strongest ${edges.length} of ${counted(n_edges, "edge")}` }
      : {};
  return {
    cfg: {
      n_layers: GRAPH.n_layers,
      n_heads: GRAPH.n_heads,
      parallel_attn_mlp: GRAPH.parallel,
      d_model: GRAPH.d_model,
    },
    nodes: Object.fromEntries(
      [...GRAPH.writers, "logits"].map((name) => [name, { in_graph: nodes.has(name) }]),
    ),
    edges: Object.fromEntries(
      named.map(({ writer, reader, score }) => [`${writer}->${reader}`, { score, in_graph: true }]),
    ),
    circuitprune: {
      schema: 1,
      graph: { n_kv_readers },
      score_dtype: "float32",
      provenance: { ...MAIN.about, ...part, ...ownWords(), evidence },
    },
  };
}

/** The reader's names and groups, as a file keeps them. */
function ownWords() {
  const groups = groupNames().map((name) => [
    name,
    [...state.groups].filter(([, group]) => group === name).map(([id]) => id),
  ]);
  return {
    ...(state.names.size ? { names: Object.fromEntries(state.names) } : {}),
    ...(groups.length ? { groups: Object.fromEntries(groups) } : {}),
  };
}

/** A reader's names by query head: one for each head that shares it. */
function readerNames(reader) {
  const kind = GRAPH.reader_kind[reader];
  return "qkv".includes(kind)
    ? GRAPH.feeds[reader].map((head) => `${GRAPH.writers[head]}<${kind}>`)
    : [GRAPH.readers[reader]];
}
