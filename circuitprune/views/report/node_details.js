// What a node reads, writes and looks at, and what its edges are worth: shown for the node selected.

const UNREAD =
  "This run has not been verified. `circuitprune verify RUN` adds what each node looks at, reads and writes, and what each edge is worth.";
const PROBED = {
  previous: "the position before",
  duplicate: "the same token before",
  induction: "the token after that one",
  copying: "writes what it sees",
  anticopying: "writes against what it sees",
};
let readingOf = null;

/** Fills the panel under the drawing; hides it where no node is selected, and no neuron or feature. */
function showReading(id, part) {
  const key = JSON.stringify([id, part, state.circuit]);
  if (readingOf === key) return;
  readingOf = key;
  const into = byId("reading");
  into.hidden = id === null && part === null;
  const found = id !== null ? reading(baseOf(id)) : part !== null ? partReading(part) : [];
  into.replaceChildren(...found);
}

function reading(id) {
  const head = make("h3", {}, `What ${title(id)} does`);
  if (!READINGS || !HEAD) {
    const why = FAULTS.function ?? HEAD_FAULT ?? SECTIONS.function?.sentence ?? UNREAD;
    return [head, make("p", { class: "hint" }, withCode(why))];
  }
  const parts = [
    direct(READINGS, id),
    probes(READINGS, id),
    lens(READINGS, id),
    effects(id),
  ].flat();
  const n = HEAD.circuit.n_edges;
  const none = `The verified circuit of ${counted(n, "edge")} does not keep this node, so verification says nothing of it.`;
  return [
    head,
    ...(parts.length
      ? [
          make(
            "p",
            { class: "hint" },
            `Of the untouched model, on the pairs of the verification; effects are in the verified circuit of ${counted(n, "edge")}.`,
          ),
        ]
      : [make("p", {}, none)]),
    make("div", { class: "reading" }, make("div", {}, parts), ...patterns(READINGS, id)),
  ];
}

// ---------------------------------------------------------------- numbers

/** @param {Json.Function} found */
function direct(found, id) {
  const at = found.direct.findIndex((row) => row.node === id);
  if (at < 0) return [];
  const { share, edge_to_logits_kept } = found.direct[at];
  const cut = edge_to_logits_kept ? "" : " The circuit cuts that edge.";
  return [
    make("h4", {}, "Writes"),
    make(
      "p",
      {},
      `Direct share of the logit difference: `,
      make("b", {}, signed(share)),
      `, number ${at + 1} by size of the kept writers.${cut}`,
    ),
  ];
}

/** @param {Json.Function} readings */
function probes({ heads }, id) {
  const found = heads.find((row) => row.head === id);
  if (!found) return [];
  const known = Object.entries(PROBED).filter(([name]) => name in found);
  const rows = known.map(([name, what]) => [name, what, spell(found[name])]);
  const label = found.labels.length
    ? found.labels.join(", ")
    : known.length
      ? "passes no probe"
      : "not probed";
  return [
    make("h4", {}, "Looks at"),
    make(
      "p",
      {},
      "From the answer position: ",
      make("b", {}, percent(found.to_answers)),
      " of its attention at right tokens, ",
      make("b", {}, percent(found.to_wrong)),
      " at wrong ones.",
    ),
    make("p", {}, "By probes on random tokens: ", make("b", {}, label), "."),
    ...(rows.length
      ? [make("details", {}, make("summary", {}, "Probes"), table(["probe", "", "score"], rows))]
      : []),
  ];
}

/** The place where a node reads the stream, as the lens names it. */
const placeOf = (id) => /^(a\d+|m\d+|logits)/.exec(id)?.[1] ?? "";

/** @param {Json.Function} readings */
function lens(readings, id) {
  const place = placeOf(id),
    row = readings.lens.find((l) => l.at === place);
  if (!row) return [];
  const tokens = (example) =>
    (example.lens[place] ?? []).flatMap((t) => [make("code", {}, make("bdi", {}, t)), " "]);
  return [
    make("h4", {}, "Reads"),
    make(
      "p",
      {},
      `The logit lens at ${place}: the answer's mean rank is ${spell(row.answer_rank)} (0 is first), its logit difference ${signed(row.logit_diff)}, on corrupt prompts ${signed(row.logit_diff_corrupt)}.`,
    ),
    ...readings.examples.map((example, i) =>
      make("p", {}, `Pair ${i + 1}, best tokens: `, tokens(example)),
    ),
  ];
}

/** What the removal of each of a node's edges did, one at a time. */
function effects(id) {
  const own = readersOf(id),
    edges = computed(SECTIONS.minimality)?.edges ?? [];
  const touches = ({ edge }) => {
    if (PARTS_NAMED) return baseOf(edge) === id || edge.startsWith(`${id}.`);
    const [from, to] = baseOf(edge).split("->");
    return from === id || own.includes(to.replace(/<.>$/, ""));
  };
  const found = edges.filter(touches),
    few = found.slice(0, 12);
  if (!found.length) return [];
  const rows = few.map((e) => [e.edge, natsInterval(e.kl), signed(e.metric.value)]);
  return [
    make("h4", {}, "Each of its edges removed"),
    table(["edge", "KL rises (nats)", "metric"], rows),
    ...(found.length > few.length
      ? [make("p", {}, `And ${found.length - few.length} more in verification.json.`)]
      : []),
  ];
}

// ---------------------------------------------------------------- attention

/** A grid for each example pair: who looks (rows) at whom (columns). */
function patterns(/** @type {Json.Function} */ { examples }, id) {
  return examples.flatMap((example, i) => {
    const rows = example.attention[id];
    return rows ? [attentionFigure(id, example.clean, rows, i + 1)] : [];
  });
}

function attentionFigure(id, tokens, rows, number) {
  const n = tokens.length,
    side = Math.max(14, Math.min(20, 400 / n)),
    first = n - rows.length;
  const left = 92,
    top = 8,
    base = top + rows.length * side,
    box = { width: left + n * side + 10, height: base + 84 };
  const name = (i) => clipped(tokens[i], 12);
  const cells = rows.flatMap((weights, i) =>
    weights.map((weight, j) =>
      draw(
        "rect",
        {
          class: "heat",
          x: tenth(left + j * side),
          y: tenth(top + i * side),
          width: tenth(side - 1),
          height: tenth(side - 1),
          "fill-opacity": weight.toFixed(3),
          "data-query": first + i,
          "data-key": j,
        },
        draw(
          "title",
          {},
          `${shown(tokens[first + i])} (${first + i}) looks at ${shown(tokens[j])} (${j}): ${percent(weight)}`,
        ),
      ),
    ),
  );
  const queries = rows.map((_, i) =>
    svgText(
      left - 6,
      tenth(top + (i + 0.5) * side + 4),
      "end",
      name(first + i),
      i === rows.length - 1 ? "label strong" : "label",
    ),
  );
  const keys = tokens.map((_, j) =>
    draw(
      "text",
      {
        class: "label",
        "text-anchor": "end",
        transform: `translate(${tenth(left + (j + 0.5) * side + 4)} ${base + 8}) rotate(-60)`,
      },
      name(j),
    ),
  );
  const frame = draw("path", {
    class: "axis frame",
    d:
      rows.length > 1
        ? `M${left} ${top}V${tenth(base)}H${tenth(left + n * side)}`
        : `M${left} ${tenth(base)}H${tenth(left + n * side)}`,
  });
  const best = rows
    .at(-1)
    .map((weight, j) => [weight, j])
    .sort(([a], [b]) => b - a)
    .slice(0, 8);
  const figure = figureOf(
    `attention-${number}`,
    `Attention of ${id} on pair ${number}`,
    box,
    [frame, ...cells, ...queries, ...keys],
    [
      `Attention on clean pair ${number}: rows look at columns. ${rows.length > 1 ? "The last row is the answer position." : "The row is the answer position."}`,
    ],
  );
  figure.append(
    numbers(
      table(
        ["from the answer position to", "position", "weight"],
        best.map(([weight, j]) => [make("bdi", {}, tokens[j]), j, percent(weight)]),
      ),
    ),
  );
  return figure;
}

// ---------------------------------------------------------------- in short, in the node's card

/** A line on what is known of a node, and for the selected one the way to all of it. */
function brief(node) {
  const id = baseOf(node),
    written = READINGS?.direct.find((row) => row.node === id);
  const labels = READINGS?.heads.find((row) => row.head === id)?.labels;
  const facts = [
    ...(written ? [`direct share ${signed(written.share)}`] : []),
    ...(labels ? [labels.join(", ") || "passes no probe"] : []),
  ];
  const down = () => byId("reading").scrollIntoView({ block: "nearest" });
  const more = make(
    "button",
    { type: "button", "aria-label": `what ${id} does`, onclick: down },
    "what it does ↓",
  );
  return [
    ...(facts.length ? [make("p", {}, facts.join("; "))] : []),
    ...(node === state.node ? [make("p", { class: "acts" }, more)] : []),
  ];
}
