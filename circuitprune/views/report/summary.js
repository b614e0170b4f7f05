// The first screen: what the circuit is, why to believe it, a prompt, and the whole of it in one picture.

const VERDICT_MARKS = { pass: "✓", fail: "✗", undecided: "?", none: "–" };
const EXAMPLE_TOKENS = 60;

/** What the strip asks: the section that answers, the word for a pass, and its number. */
const ASKED = [
  {
    section: "faithfulness",
    name: "faithful",
    number: (s) => `faithfulness ${interval(s.circuit.faithfulness)}`,
  },
  {
    section: "completeness",
    name: "complete",
    number: (s) => `gap to the model ${interval(s.mean_relative_gap)} of its span`,
  },
  {
    section: "minimality",
    name: "minimal",
    number: (s) => `${spell(s.n_needed)} of ${counted(s.n_edges, "edge")} surely needed`,
  },
  {
    section: "random_circuits",
    name: "beats random",
    number: (s) =>
      `p ≤ ${spell(Math.max(...Object.values(s.families).map((f) => f.kl.p)), 2)} by KL`,
  },
  {
    section: "adversarial",
    name: "under attack",
    number: (s) => `worst KL found ${nats(s.circuit.worst_kl)} nats`,
  },
].filter(({ section }) => Object.hasOwn(SCHEMA.$defs.Sections.properties ?? {}, section));

function showSummary() {
  const { about, full } = MAIN,
    point = MAIN.points[MAIN.chosen];
  document.title = shown(
    `${about.task} in ${about.model}: a circuit of ${counted(point.n_edges, GRAPH.unit)}`,
  );
  byId("title").textContent = shown(`${about.task} in ${about.model}`);
  byId("about").textContent = shown(
    `Judged exactly on ${counted(full.n, `${about.split} pair`)}. Ablation: ${about.ablation}. Task metric: ${about.metric}.`,
  );
  byId("sentence").append(...claim());
  byId("strip").append(...ASKED.map(oneVerdict));
  byId("strip-note").append(...stripNote());
  byId("example").append(...example());
  showCards();
  if (DATA.command) byId("command-line").append("Made by ", make("code", {}, DATA.command));
}

// ---------------------------------------------------------------- one sentence

/** Whether the evidence is of the chosen circuit. */
const ofChosen = () => HEAD !== null && HEAD.circuit.file === MAIN.points[MAIN.chosen].file;

const whole = (x) => `${(100 * x).toFixed(x > 0.995 && x < 1 ? 1 : 0)} %`;

/** What the chosen circuit is and does, with its numbers; and what chance does. */
function claim() {
  const { about, full } = MAIN,
    point = MAIN.points[MAIN.chosen],
    ends = endsAt(MAIN.chosen),
    nodes = [...new Set([...nodesOf(ends, waysOf(ends, NONE))].map(baseOf))],
    heads = nodes.filter((id) => id.includes(".h")).length,
    mlps = nodes.filter((id) => /^m\d/.test(id)).length;
  const pairs =
    about.split === "train"
      ? `${spell(full.n)} of the pairs that it was found on`
      : counted(full.n, "held-out pair");
  return [
    `${counted(heads, "head")} and ${counted(mlps, "MLP")}, `,
    make("b", {}, `${spell(point.n_edges)} of ${counted(GRAPH.n_edges, GRAPH.unit)}`),
    ", answer as the model does on ",
    make("b", {}, whole(point.exact_match)),
    ` of ${pairs}; ${chance()}`,
  ];
}

/** How often random circuits of the same size answer as the model does, by the means of their families. */
function chance() {
  const found = ofChosen() ? computed(SECTIONS.random_circuits) : null;
  if (!found) return "how often a random circuit of that size does is not measured yet.";
  const means = Object.values(found.families).map((family) => family.exact_match.mean),
    [low, high] = [Math.min(...means), Math.max(...means)].map(whole);
  return `random circuits of that size: ${low === high ? low : `${low} to ${high}`}.`;
}

// ---------------------------------------------------------------- the strip

/** A verdict that leads to its section. */
function oneVerdict({ section, name, number }) {
  const found = ALL_SECTIONS?.[section],
    fits = computed(SECTIONS[section]);
  const [kind, says] = found ? verdictOf(found) : ["none", "not verified yet"];
  const link = make(
    "a",
    { href: found ? `#evidence-${section}` : "#evidence", class: `verdict ${kind}`, onclick: jump },
    make("i", { "aria-hidden": "true" }, VERDICT_MARKS[kind] ?? "–"),
    make("b", {}, name),
    make("span", {}, says),
    make("small", {}, fits ? number(fits) : ""),
  );
  return make("li", { "data-verdict": section }, link);
}

/** Of which circuit the verdicts are, or the command that gets them. */
function stripNote() {
  const missing = ASKED.filter(({ section }) => !ALL_SECTIONS?.[section]);
  const note =
    HEAD && !ofChosen()
      ? [`The verdicts are of ${HEAD.circuit.file}, ${counted(HEAD.circuit.n_edges, "edge")}. `]
      : [];
  if (!missing.length) return note;
  return [
    ...note,
    HEAD ? "For all verdicts: " : "For verdicts: ",
    make("code", {}, `circuitprune verify ${runFolder()}`),
  ];
}

/** The run's folder as its settings name it, if that is still its name. */
function runFolder() {
  const folder = /^output_dir: *(\S.*)$/m.exec(DATA.config ?? "")?.[1] ?? "";
  return folder.split("/").at(-1) === MAIN.name ? folder : "RUN";
}

// ---------------------------------------------------------------- a prompt

/** The first pair: what is asked, what the corrupt prompt has instead, what is right, what follows. */
function example() {
  const pair = FIRST_PAIR;
  if (!pair) return [];
  const from = Math.max(0, pair.clean.length - EXAMPLE_TOKENS),
    spaced = spacing(pair.clean);
  const token = (t, i) => {
    const other = pair.corrupt[from + i],
      word = make("bdi", {}, spaced(t));
    return other === t
      ? make("span", { class: "token" }, word)
      : make(
          "mark",
          { class: "token", title: `corrupt: ${shown(other)}` },
          word,
          make("small", {}, make("bdi", {}, spaced(other))),
        );
  };
  const code = (t) => make("code", {}, make("bdi", {}, spaced(t)));
  const row = (name, ...what) => (what.length ? [make("dt", {}, name), make("dd", {}, what)] : []);
  const isRight = ([t]) => pair.answers.includes(t);
  const likely = (next = []) =>
    next
      .filter((one, i) => i === 0 || one === next.find(isRight))
      .flatMap((one, i) => [
        i ? ", " : "",
        code(one[0]),
        ` ${percent(one[1])}${isRight(one) ? " ✓" : ""}`,
      ]);
  const few = (tokens) => tokens.slice(0, 6).flatMap((t) => [code(t), " "]);
  return [
    make(
      "p",
      { class: "tokens", "aria-label": "The first pair's prompt" },
      from ? "… " : "",
      pair.clean.slice(from).map(token),
    ),
    make(
      "dl",
      { class: "follow" },
      row(
        "right",
        ...few(pair.answers),
        ...(pair.wrong.length ? ["not ", ...few(pair.wrong)] : []),
      ),
      row("the model says", ...likely(pair.next?.model)),
      row("the circuit says", ...likely(pair.next?.circuit)),
    ),
  ];
}

// ---------------------------------------------------------------- the numbers

function showCards() {
  const { about, full } = MAIN,
    point = MAIN.points[MAIN.chosen];
  const grouped =
    GRAPH.n_edges !== GRAPH.n_edges_ungrouped
      ? `; ${spell(point.n_edges_ungrouped)} of ${spell(GRAPH.n_edges_ungrouped)} by query head`
      : "";
  const near = (name) => {
    const v = intervalAt(point, name);
    const told = name === "kl" ? nats : spell;
    return v ? `95 %: ${told(v.low)} to ${told(v.high)}` : "";
  };
  const cards = [
    [
      UNITS,
      spell(point.n_edges),
      `of ${spell(GRAPH.n_edges)}, ${percent(point.n_edges / GRAPH.n_edges)}${grouped}`,
    ],
    ["KL from the model", `${nats(point.kl)} nats`, near("kl")],
    [
      "faithfulness",
      spell(point.faithfulness),
      near("faithfulness") || "1 is the model, 0 no circuit",
    ],
    ["accuracy", percent(point.accuracy), `the model: ${percent(full.accuracy)}`],
    ["same top answer", percent(point.exact_match), "as the model"],
    [about.metric, spell(point.metric), `the model: ${spell(full.metric)}`],
  ];
  /** @param {any[]} card */
  const one = ([name, value, note]) =>
    make(
      "div",
      {},
      make("dt", {}, words(String(name))),
      make("dd", {}, make("b", {}, value), " ", make("small", {}, note)),
    );
  byId("cards").append(make("dl", {}, cards.map(one)));
}

// ---------------------------------------------------------------- the whole circuit

const WIDE = 900,
  ROOM_BESIDE = 720,
  ROOM_BELOW = 420;
/** Pixels: from which the picture stands beside the words, and its height there and below them. */

/** The chosen circuit, so large that all of it is seen; a click leads to it in the drawing below. */
function showOverview() {
  const edges = edgesToDraw(MAIN.chosen, "score"),
    ends = endsAt(MAIN.chosen),
    ways = waysOf(ends, NONE),
    curves = bundles(edges, ways, edgeName),
    used = nodesOf(ends, ways),
    figure = byId("overview").closest("figure");
  const fit = () => {
    const wide = innerWidth >= WIDE,
      above = wide ? 180 : byId("overview").getBoundingClientRect().top + scrollY + 4,
      room = Math.min(wide ? ROOM_BESIDE : ROOM_BELOW, innerHeight - above);
    return { width: Math.max(300, (figure?.clientWidth ?? 0) - 2), height: Math.max(300, room) };
  };
  const overview = new Picture(byId("overview"), { whole: openAt }, fit);
  const tries = [
    { tags: tagsOf(used), tight: false },
    { tags: new Map(), tight: false },
    { tags: new Map(), tight: true },
  ];
  overview.showFirst(tries.map((more) => ({ curves, used, mark: groupMark, ...more })));
  const { n_edges } = DATA.circuits[MAIN.chosen];
  const held =
    edges.length < n_edges
      ? `, the ${spell(edges.length)} strongest of ${counted(n_edges, "edge")}`
      : "";
  byId("overview-note").replaceChildren(
    `The whole circuit${held}: input below, logits above${SPANS.length ? ", columns are spans of tokens" : ""}. Click to open it below.`,
    make("div", {}, "Reads:", readsKey(MAIN.chosen)),
  );
}

/** Goes to the drawing, at a node if one was clicked. */
function openAt(id) {
  if (state.circuit !== MAIN.chosen) choose(MAIN.chosen);
  if (id && state.node !== id && picture.has(id)) select(id);
  goTo(byId("circuit"));
}
