// An edge's card: what is known of it by itself, and of what it joins.

const METRIC_UNITS = {
  logit_diff: "logits",
  kl: "nats",
  prob_diff: "probability",
  answer_prob: "probability",
};
/** Of metrics; others have no name for theirs. */

/** What attribution looked at, and its unit. */
const ATTRIBUTED = MAIN.about.init_metric ?? null;
const unitOf = (metric) => METRIC_UNITS[metric] ?? `of ${metric}`;

/** The card of a line, which may stand for several edges. */
function edgeCard(edges) {
  if (edges.length > 1)
    return [
      make("h3", {}, `${counted(edges.length, "edge")} on this line`),
      make(
        "ul",
        { class: "edges-here" },
        edges.slice(0, MOST_LISTED).map((edge) => make("li", {}, edgeButton(edge))),
      ),
    ];
  const [edge] = edges,
    name = edgeName(edge),
    ways = waysOf(endsAt(state.circuit), NONE)(endsOfEdge(edge)),
    [from] = ways[0];
  return [
    make(
      "h3",
      { class: "edge-name" },
      name,
      make("small", {}, PARTS_NAMED ? partTitle(name) : inWords(edge)),
    ),
    make(
      "dl",
      { class: "facts" },
      facts(edge).flatMap(([what, value, note]) => [
        make("dt", {}, what),
        make("dd", {}, make("b", {}, value), note ? make("small", {}, note) : ""),
      ]),
    ),
    ...(harmful(edge)
      ? [make("p", {}, "Dashed: without it the KL surely falls, so it works against the circuit.")]
      : []),
    ...(SHARED
      ? [make("p", {}, isOwn(edge) ? "Dotted: this task's own." : "Shared by all tasks.")]
      : []),
    ...(PARTS_NAMED
      ? [...briefPart(name), make("p", {}, "Of ", nodeButton(from), ".")]
      : ends(ways)),
  ];
}

/** What the nodes that an edge joins write and read. */
function ends(ways) {
  const [from] = ways[0];
  return [
    make("h4", {}, "Writes"),
    make("p", {}, nodeButton(from), writes(from)),
    make("h4", {}, "Reads"),
    ...ways.map(([, to]) => make("p", {}, nodeButton(to), reads(to))),
  ];
}

function inWords(edge) {
  const reader = DATA.edges.reader[edge],
    kind = GRAPH.reader_kind[reader];
  const way = { q: "the queries of ", k: "the keys of ", v: "the values of " }[kind] ?? "";
  const { writer, span } = endsOfEdge(edge),
    where = span === undefined ? "" : ` at ${SPANS[span].name}`;
  return `${titleOf(GRAPH.writers[writer])} into ${way}${titleOf(READER_NODES[reader])}${where}`;
}

/** `[what, value, note]` of each number that there is of an edge. */
function facts(edge) {
  const { score, attribution } = DATA.edges,
    effect = effectOf(edge),
    metric = MAIN.about.metric,
    found = [...spanFacts(edge), ["ranking score", spell(score[edge]), `rank ${spell(edge + 1)}`]];
  if (attribution?.[edge] != null)
    found.push(["attribution", spell(attribution[edge]), attributedWords()]);
  if (!effect) return [...found, ["exact effect", "not measured", whyNot()]];
  return [
    ...found,
    [
      "without it, the KL",
      `${gain(effect.kl.value)} nats`,
      `95 %: ${nats(effect.kl.low)} to ${nats(effect.kl.high)}`,
    ],
    [
      `without it, ${words(metric)}`,
      `${gain(effect.metric.value)}`,
      `95 %: ${spell(effect.metric.low)} to ${spell(effect.metric.high)}, ${unitOf(metric)}`,
    ],
  ];
}

const gain = (x) => `${x > 0 ? "+" : ""}${nats(x)}`;

/** What an attribution's score is of, in a sentence. */
function attributedWords() {
  const of = ATTRIBUTED && ATTRIBUTED !== "none" ? ` of ${words(ATTRIBUTED)}` : "";
  return DATA.signed
    ? `${MAIN.about.init}${of}, an estimate: below 0 it helps`
    : `${MAIN.about.init}${of}: a size without a sign`;
}

function whyNot() {
  if (!HEAD || !EFFECTS.size) return "the run is not verified: circuitprune verify RUN";
  return `only in the verified circuit of ${counted(HEAD.circuit.n_edges, "edge")}`;
}

function writes(node) {
  const id = baseOf(node),
    written = READINGS?.direct.find((row) => row.node === id),
    head = READINGS?.heads.find((row) => row.head === id),
    labels = head?.labels.map((label) => ROLES[label] ?? label) ?? [];
  const said = [
    ...(written ? [`direct share of the logit difference ${signed(written.share)}`] : []),
    ...(head ? [labels.join(", ") || "passes no probe"] : []),
    ...(head
      ? [
          `looks from the answer position ${percent(head.to_answers)} at right, ${percent(head.to_wrong)} at wrong tokens`,
        ]
      : []),
  ];
  return said.length ? `: ${said.join("; ")}.` : unread();
}

function reads(id) {
  const place = placeOf(id),
    row = READINGS?.lens.find((l) => l.at === place),
    best = READINGS?.examples[0]?.lens[place] ?? [];
  if (!row) return unread();
  const tokens = best.flatMap((t) => [make("code", {}, make("bdi", {}, t)), " "]);
  return make(
    "span",
    {},
    `: the logit lens there ranks the answer ${spell(row.answer_rank)} on average (0 is first)`,
    ...(tokens.length ? [", on pair 1 first ", ...tokens] : ["."]),
  );
}

const unread = () => (READINGS ? ": nothing is known." : ": not read yet; verification does.");

const nodeButton = (id) =>
  make("button", { type: "button", class: "plain", onclick: () => walk(id) }, id);

const edgeButton = (edge, text = edgeName(edge)) =>
  make(
    "button",
    {
      type: "button",
      class: "plain",
      "aria-label": `card of ${edgeName(edge)}`,
      onclick: () => selectEdge([edge]),
    },
    text,
  );

// ---------------------------------------------------------------- which edge

/** Shows the card of these edges, the ones of a line; none closes it. */
function selectEdge(edges) {
  state.edges = edges.map(edgeName);
  if (edges.length) state.node = null;
  mark();
  remember();
}

/** Positions of the edges at hand, as far as the circuit that is shown has them. */
function edgesAtHand() {
  if (!state.edges.length) return [];
  const names = new Set(state.edges);
  return circuit().edges.filter((edge) => names.has(edgeName(edge)));
}
