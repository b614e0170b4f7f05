// The card of a neuron or feature: where it is strongest, what it promotes, which other parts it moves.

const PART_READINGS = READINGS?.parts ?? null;
const PART_FAULT = DATA.part_edges && faultIn(DATA.part_edges, "PartEdgeFile", "part_edges.json");
/** Edges between parts, where `part-edges` found them and the file fits. */
const PART_EDGES = PART_FAULT ? null : DATA.part_edges;
const FINE = /^(.*)\.([nf])(\d+)$/;
const AROUND = 10;
/** Tokens of a prompt that are shown at each side of the one at which a part is strong. */
const MOST_MOVED = 10;

/** A part's name in words, and where it stands. */
const partTitle = (name) =>
  `${titleOfPart(baseOf(name))}${spanOf(name) ? ` at ${spanOf(name)}` : ""}`;

function titleOfPart(name) {
  const fine = FINE.exec(name),
    left = /^(.*)\.error$/.exec(name);
  const of = (site) =>
    /^a\d+$/.test(site)
      ? `the heads of layer ${site.slice(1)}`
      : /^resid\d+$/.test(site)
        ? `the stream behind layer ${site.slice(5)}`
        : titleOf(site);
  if (left) return `what the dictionary leaves out of ${of(left[1])}`;
  return fine
    ? `${fine[2] === "n" ? "neuron" : "feature"} ${fine[3]} of ${of(fine[1])}`
    : titleOf(name);
}

/** Names of parts, where gates stand on them. */
const PARTS_NAMED = OF_PARTS ? DATA.edges.part : null;

/** The name of the part at hand, if one is. */
function partAtHand() {
  const [edge, other] = edgesAtHand();
  return other === undefined && edge !== undefined ? (PARTS_NAMED?.[edge] ?? null) : null;
}

/** What was read of a part, at all tokens alike. */
const readingOfPart = (name) => PART_READINGS?.parts.find((row) => row.part === baseOf(name));

/** What a part does, in the panel under the drawing. */
function partReading(name) {
  const found = readingOfPart(name),
    unread = found ? [] : whyUnread(name);
  return [
    make("h3", {}, `What ${partTitle(name)} does`),
    ...unread,
    make(
      "div",
      { class: "part" },
      found ? make("div", { id: "part-examples" }, examplesOf(found)) : "",
      found ? make("div", { id: "part-logits" }, logitsOf(found)) : "",
      make("div", { id: "part-edges" }, movesOf(name)),
    ),
  ];
}

function whyUnread(name) {
  if (!FINE.test(baseOf(name))) return [];
  const why = FAULTS.function ?? HEAD_FAULT ?? (READINGS ? null : SECTIONS.function?.sentence);
  if (why) return [make("p", { class: "hint" }, why)];
  const kept = PART_READINGS
    ? `Verification read ${spell(PART_READINGS.parts.length)} of the ${spell(PART_READINGS.n_parts)} neurons and features of the verified circuit, and this is none of them.`
    : `This run is not verified: \`circuitprune verify ${runFolder()}\` finds where this is strongest and what it promotes.`;
  return [make("p", { class: "hint" }, withCode(kept))];
}

// ---------------------------------------------------------------- examples

/** @param {Json.PartReading} found */
function examplesOf({ examples, on }) {
  const { prompts, n_pairs } = /** @type {Json.PartReadings} */ (PART_READINGS);
  const often = `On at ${percent(on)} of the tokens of ${counted(n_pairs, "clean prompt")}.`;
  if (!examples.length) return [make("h4", {}, "Strongest at"), make("p", {}, `Nowhere. ${often}`)];
  const most = Math.max(...examples.map(({ value }) => Math.abs(value)));
  return [
    make("h4", {}, "Strongest at"),
    make("p", { class: "hint" }, `${often} Of each prompt its strongest token is marked.`),
    make(
      "ul",
      { class: "peaks" },
      examples.map(({ prompt, at, value }) =>
        make("li", {}, make("b", {}, spell(value)), context(prompts[prompt], at, value, most)),
      ),
    ),
  ];
}

/** A prompt's tokens around the one that is marked, which says how strong it is by its shade. */
function context(tokens, at, value, most) {
  const from = Math.max(0, at - AROUND),
    to = Math.min(tokens.length, at + AROUND + 1),
    spaced = spacing(tokens);
  const word = (token, i) => {
    const text = make("bdi", {}, spaced(token));
    if (from + i !== at) return text;
    const share = Math.abs(value) / most,
      level = share > 0.67 ? "strong" : share > 0.33 ? "middle" : "weak";
    return make("mark", { class: level, title: `position ${at}` }, text);
  };
  return make(
    "span",
    { class: "context" },
    from ? "… " : "",
    tokens.slice(from, to).map(word),
    to < tokens.length ? " …" : "",
  );
}

// ---------------------------------------------------------------- logits

/** @param {Json.PartReading} found */
function logitsOf({ promotes, demotes }) {
  const most = Math.max(...[...promotes, ...demotes].map(([, by]) => Math.abs(by)), 1e-9);
  const rows = (found) =>
    found.map(([token, by]) =>
      make(
        "tr",
        {},
        make("td", {}, make("code", {}, make("bdi", {}, token))),
        make("td", {}, signed(by)),
        make("td", {}, share(Math.abs(by) / most)),
      ),
    );
  const list = (name, found) =>
    make("div", {}, make("h4", {}, name), make("table", { "aria-label": name }, rows(found)));
  return [
    make("div", { class: "sides" }, list("Promotes", promotes), list("Demotes", demotes)),
    make(
      "p",
      { class: "hint" },
      "Directly, through the unembedding alone: logits for one unit of it at the answer position, relative to the mean over all tokens.",
    ),
  ];
}

// ---------------------------------------------------------------- edges between parts

/** Which parts move this one, and which it moves. */
function movesOf(name) {
  const head = make("h4", {}, "Edges to other parts");
  if (PART_FAULT) return [head, make("p", { class: "hint" }, PART_FAULT)];
  if (!PART_EDGES)
    return [
      head,
      make(
        "p",
        { class: "hint" },
        withCode(`Not measured: \`circuitprune part-edges ${runFolder()}\`.`),
      ),
    ];
  const { edges, threshold, metric } = PART_EDGES,
    into = edges.filter((edge) => edge.into === name),
    out = edges.filter((edge) => edge.part === name);
  const unit = `Effect on ${words(metric)} when this end is ablated and only that way counts, first order; below 0 it helps. At least ${spell(threshold)}.`;
  return [
    head,
    moves("Moved by", into, "part"),
    moves("Moves", out, "into"),
    make("p", { class: "hint" }, unit),
  ];
}

function moves(name, edges, end) {
  const known = new Set(circuit().edges.map(edgeName));
  const to = (part) =>
    known.has(part)
      ? make("button", { type: "button", class: "plain", onclick: () => selectPart(part) }, part)
      : part;
  const rows = edges.slice(0, MOST_MOVED).map((edge) => [to(edge[end]), signed(edge.effect)]);
  const more = edges.length - rows.length;
  return make(
    "div",
    { class: "moves", "data-way": end },
    make("h5", {}, `${name} (${spell(edges.length)})`),
    rows.length ? pairsTable(name, rows) : make("p", {}, "none"),
    more > 0 ? make("p", { class: "hint" }, `and ${spell(more)} weaker`) : "",
  );
}

const pairsTable = (name, rows) =>
  make(
    "table",
    { "aria-label": name },
    rows.map(([part, effect]) => make("tr", {}, make("td", {}, part), make("td", {}, effect))),
  );

/** Shows the card of a part by its name. */
function selectPart(name) {
  selectEdge(circuit().edges.filter((edge) => edgeName(edge) === name));
}

// ---------------------------------------------------------------- in short

/** A line on a part in the card at the side, and the way to all of it. */
function briefPart(name) {
  const found = readingOfPart(name),
    top = found?.examples[0];
  const token = (text) => make("code", {}, make("bdi", {}, text));
  const said =
    found && top
      ? [
          make(
            "p",
            {},
            "strongest at ",
            token(PART_READINGS?.prompts[top.prompt][top.at] ?? ""),
            "; promotes ",
            found.promotes.slice(0, 3).flatMap(([text]) => [token(text), " "]),
          ),
        ]
      : [];
  const down = () => byId("reading").scrollIntoView({ block: "nearest" });
  const more = make(
    "button",
    { type: "button", "aria-label": `what ${name} does`, onclick: down },
    "what it does ↓",
  );
  return [...said, make("p", { class: "acts" }, more)];
}
