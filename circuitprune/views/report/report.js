// What the reader sees and does: the state of the view, kept in the address, and its controls.

const WIDTHS = {
  score: "ranking score",
  attribution: "attribution score",
  exact: "exact rise of the KL",
};
/** @type {State} */
const state = {
  circuit: MAIN.chosen,
  node: null,
  column: "score",
  collapsed: new Set(),
  search: "",
  hidden: new Set(),
  pinned: new Set(),
  strongest: null,
  sides: null,
  all: false,
  edges: [],
  names: new Map(),
  groups: new Map(),
  view: null,
};

const circuit = () => DATA.circuits[state.circuit];

// ---------------------------------------------------------------- the circuit

/** A circuit's edges as drawings want them, the strongest by what is width first. */
function edgesToDraw(at, column) {
  const { edges } = DATA.circuits[at],
    share = shares(DATA.edges, edges, column);
  const found = edges.map((id) => ({
    id,
    ...endsOfEdge(id),
    share: share(id),
    look: harmful(id, at) ? "harmful" : isOwn(id, at) ? "own" : "usual",
  }));
  if (column !== "score") found.sort((a, b) => b.share - a.share);
  return found;
}

/** As many of the circuit's edges as the filter lets through. */
const drawnEdges = () =>
  edgesToDraw(state.circuit, state.column).slice(0, state.strongest ?? circuit().edges.length);

function showCircuit() {
  const { collapsed, hidden } = state,
    ends = endsAt(state.circuit),
    ways = waysOf(ends, collapsed);
  const curves = bundles(drawnEdges(), ways, edgeName).filter(
    ({ from, to }) => !hidden.has(from) && !hidden.has(to),
  );
  const used = nodesOf(ends, ways);
  const tags = tagsOf(used);
  picture.show({ curves, used, all: state.all, hidden, collapsed, tags, mark: groupMark });
  showLegend(curves.length, used);
  showSizes(countOf(curves));
  for (const dot of /** @type {NodeListOf<SVGElement>} */ (
    document.querySelectorAll("[data-point]")
  ))
    dot.classList.toggle("now", Number(dot.dataset.point) === state.circuit);
  if (byId("table-box").open) showEdges();
  mark();
}

/** The numbers beside the sliders and above the drawing, of which `n` edges are drawn. */
function showSizes(n) {
  const { n_edges, n_nodes, edges } = circuit(),
    { kl, faithfulness } = MAIN.points[state.circuit];
  byId("size").value = String(order().indexOf(state.circuit));
  byId("size").setAttribute("aria-valuetext", counted(n_edges, GRAPH.unit));
  byId("size-text").textContent =
    `${counted(n_edges, GRAPH.unit)}${state.circuit === MAIN.chosen ? " (chosen)" : ""}`;
  const most = edges.length,
    strongest = Math.min(state.strongest ?? most, most);
  byId("strongest").value = String(
    most > 1 ? Math.round((1000 * Math.log(strongest)) / Math.log(most)) : 1000,
  );
  byId("strongest-text").textContent = strongest < most ? `strongest ${spell(strongest)}` : "all";
  byId("strongest").setAttribute("aria-valuetext", byId("strongest-text").textContent);
  const held = most < n_edges ? ` The report holds the ${spell(most)} strongest.` : "";
  const part =
    n < most
      ? ` Drawn: ${spell(n)}${strongest < most ? `, of the ${spell(strongest)} strongest` : ""}${state.hidden.size ? `, without ${counted(state.hidden.size, "hidden node")}` : ""}.`
      : "";
  byId("drawn").textContent =
    `${counted(n_edges, GRAPH.unit)} among ${counted(n_nodes, "node")}, KL ${nats(kl)} nats, faithfulness ${spell(faithfulness)}.${held}${part}`;
}

/** Positions of circuits, from the smallest. */
const order = () =>
  DATA.circuits
    .map((_, i) => i)
    .sort((a, b) => DATA.circuits[a].n_edges - DATA.circuits[b].n_edges || a - b);

/** Highlights the edges of pinned nodes and of `hover`, while the pointer is on it, else of the selected one. */
function mark(hover = null) {
  const id = hover ?? (picture.has(state.node) ? state.node : null);
  const pinned = [...state.pinned].filter((name) => picture.has(name));
  const [edge] = id === null ? edgesAtHand() : [];
  const lines = picture.curves.filter((curve) => curve.edges.includes(edge));
  picture.light([...new Set([...pinned, ...(id === null ? [] : [id])])], lines);
  for (const box of picture.svg.querySelectorAll(".node")) {
    const name = box.dataset.node;
    box.classList.toggle("found", Boolean(state.search && matches(name)));
    box.classList.toggle("pinned", state.pinned.has(name));
    if (box.hasAttribute("aria-pressed"))
      box.setAttribute("aria-pressed", String(name === state.node));
  }
  showPanel(id);
  showReading(picture.has(state.node) ? state.node : null, partAtHand());
}

const matches = (text) => text.toLowerCase().includes(state.search.toLowerCase());

function showEdges() {
  const columns = Object.keys(WIDTHS).filter((c) => DATA.edges[c]),
    { writer, reader, part, span } = DATA.edges;
  const found = circuit().edges.filter((edge) => !state.search || matches(edgeName(edge)));
  const row = (i) => {
    const edge = found[i],
      at = reader[edge];
    return [
      edgeButton(edge, (span ? null : part?.[edge]) ?? GRAPH.writers[writer[edge]]),
      GRAPH.readers[at],
      GRAPH.reader_kind[at],
      ...(span ? [SPANS[span[edge]].name] : []),
      ...columns.map((c) => spell(DATA.edges[c][edge])),
    ];
  };
  pages(
    ["from", "to", "kind", ...(span ? ["at"] : []), ...columns.map((c) => WIDTHS[c])],
    found.length,
    row,
    byId("edges"),
    byId("edges-pages"),
  );
}

const KIND_NAMES = { q: "query", k: "key", v: "value", mlp: "MLP", logits: "logits" };

/** What the colours of a circuit's edges mean. */
function readsKey(at) {
  const kinds = new Set(
    DATA.circuits[at].edges.map((edge) => GRAPH.reader_kind[DATA.edges.reader[edge]]),
  );
  return KINDS.filter((kind) => kinds.has(kind)).map((kind) =>
    make("span", {}, make("i", { class: `swatch ${kind}` }), KIND_NAMES[kind]),
  );
}

/** What colour, width and dashes of `n` lines mean, and what the columns of nodes are. */
function showLegend(n, used) {
  byId("legend").replaceChildren(
    make("span", {}, "Reads:"),
    ...readsKey(state.circuit),
    widthKey(n),
    signKey(),
    ...sharedKey(),
    ...spanKey(used),
    ...groupKeys(),
  );
}

/** Three widths with what they stand for, and its unit. */
function widthKey(n) {
  const { column } = state,
    { about } = MAIN,
    [low, high] = rangeOf(DATA.edges, circuit().edges, column);
  const line = (share) => [
    draw(
      "svg",
      { class: "key", viewBox: "0 0 34 6", "aria-hidden": "true" },
      draw("path", { class: "edge", d: "M1 3H33", "stroke-width": ink({ share }, n).width }),
    ),
    make("span", { class: "number" }, spell(low + share * share * (high - low), 2)),
  ];
  const unit = {
    score: about.learner
      ? `ranking score of ${about.learner}, no unit`
      : `ranking score, ${attributedUnit()}`,
    attribution: `size of the ${about.init} score, ${attributedUnit()}`,
    exact: "rise of the KL without the edge, nats",
  }[column];
  const ends = high > low ? [0, 0.6, 1] : [0.6];
  return make("span", { id: "width-key" }, `Width, ${unit}: `, ends.flatMap(line));
}

const attributedUnit = () => (ATTRIBUTED && ATTRIBUTED !== "none" ? unitOf(ATTRIBUTED) : "no unit");

/** Whether lines have a sign: only an exact effect gives them one. */
function signKey() {
  const dash = make("i", { class: "swatch dashed" });
  if (!isVerified())
    return make("span", { id: "sign-key" }, `No signs: not verified. ${attributedSign()}`);
  return circuit().edges.some((edge) => harmful(edge))
    ? make("span", { id: "sign-key" }, dash, "without it the KL surely falls")
    : make("span", { id: "sign-key" }, "No edge works against the circuit for sure.");
}

/** What dots mean where several tasks were learned together. */
function sharedKey() {
  if (!SHARED) return [];
  const n = SHARED[state.circuit].size,
    own = make("i", { class: "swatch dotted" });
  const text = `this task's own (${spell(circuit().edges.length - n)}); whole lines are shared by all tasks (${spell(n)})`;
  return [make("span", { id: "shared-key" }, own, text)];
}

const attributedSign = () =>
  DATA.edges.attribution
    ? `Attributed: ${MAIN.about.init}${ATTRIBUTED ? ` of ${words(ATTRIBUTED)}` : ""}.`
    : "";

// ---------------------------------------------------------------- the reader's hand

function choose(position) {
  state.circuit = position;
  showCircuit();
  remember();
}

function fold(layer) {
  if (!state.collapsed.delete(layer)) state.collapsed.add(layer);
  showCircuit();
  /** @type {SVGElement | null} */ (
    byId("drawing").querySelector(`[data-layer="${layer}"]`)
  )?.focus();
  remember();
}

/** Draws the strongest edges only: the slider's thousand steps are even on a log scale. */
function filter(step) {
  const most = circuit().edges.length;
  state.strongest = step >= 1000 ? null : Math.max(1, Math.round(most ** (step / 1000)));
  showCircuit();
  rememberSoon();
}

/** `p` pins and `h` hides the node that has the focus, else the selected one; `H` shows all again. */
function key(event) {
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    event.target.closest?.("input, select, textarea")
  )
    return;
  /** @type {HTMLElement | null | undefined} */
  const focused = document.activeElement?.closest("#drawing .node:not(.cut)");
  const id = focused?.dataset.node ?? (picture.has(state.node) ? state.node : null);
  if (event.key === "Escape" && state.node) select(state.node);
  else if (event.key === "Escape" && state.edges.length) selectEdge([]);
  else if (event.key === "Escape" && chosenNode) chooseInBoth(chosenNode);
  else if (event.key === "H" && state.hidden.size) unhide([...state.hidden]);
  else if (event.key === "p" && id) pin(id);
  else if (event.key === "h" && id) hide(id);
}

function listen() {
  const find = (event) => {
    state.search = typed(event).trim();
    mark();
    if (byId("table-box").open) showEdges();
  };
  document.addEventListener("keydown", key);
  byId("node").addEventListener("focusout", (event) => {
    if (!staysIn(event)) mark();
  });
  byId("size").addEventListener("input", (event) => choose(order()[Number(typed(event))]));
  byId("strongest").addEventListener("input", (event) => filter(Number(typed(event))));
  byId("width").addEventListener("change", (event) => {
    state.column = typed(event);
    showCircuit();
    remember();
  });
  byId("all").addEventListener("change", () => {
    state.all = byId("all").checked;
    showCircuit();
    remember();
  });
  byId("search").addEventListener("input", find);
  byId("search").addEventListener("keydown", (event) => {
    const hit =
      event.key === "Enter" && state.search && picture.svg.querySelector(".node.found:not(.cut)");
    if (hit) select(hit.dataset.node);
  });
  byId("table-box").addEventListener("toggle", () => {
    if (byId("table-box").open) showEdges();
  });
  byId("save-svg").addEventListener("click", () =>
    save(`${fileName()}.svg`, figure(picture), "image/svg+xml"),
  );
  byId("save-json").hidden = Boolean(DATA.edges.part); // the two ends do not say what is kept
  byId("save-json").addEventListener("click", () =>
    save(`${fileName()}.json`, JSON.stringify(asJson()), "application/json"),
  );
  for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", jump);
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("size=")) {
      recall();
      showAll();
    }
  });
}

/** Goes to a section without giving the view in the address away. */
function jump(event) {
  const link = event.target.closest("a");
  event.preventDefault();
  goTo(document.querySelector(link.getAttribute("href")));
}

function goTo(section) {
  section.scrollIntoView();
  section.setAttribute("tabindex", "-1");
  section.focus({ preventScroll: true });
}

/** Whether the focus or the pointer goes on into the panel. */
const staysIn = (event) => byId("node").contains(event?.relatedTarget ?? null);
const fileName = () => `circuit-${circuitName(0, state.circuit)}`;

function showAll() {
  byId("width").value = state.column;
  byId("all").checked = state.all;
  showCircuit();
  const { width, height } = picture.plan,
    { view } = state;
  picture.look(view ? { k: view.k, x: view.x * width, y: view.y * height } : picture.whole());
  showComparison();
}

const picture = new Picture(byId("drawing"), {
  point: (id, event) => {
    if (id || !staysIn(event)) mark(id);
  },
  pick: select,
  edge: (curve) => selectEdge(curve?.edges ?? []),
  fold,
  moved: rememberSoon,
  drawn: () => mark(),
});

// ---------------------------------------------------------------- first what is seen first

/** Draws all below the first screen, once. */
function showRest() {
  const page = document.querySelector("main");
  if (!page?.hasAttribute("aria-busy")) return;
  page.removeAttribute("aria-busy");
  byId("size").max = String(DATA.circuits.length - 1);
  for (const column of Object.keys(WIDTHS).filter((c) => DATA.edges[c]))
    byId("width").append(make("option", { value: column }, WIDTHS[column]));
  showFrontier(choose);
  showEvidence();
  showPairs();
  showSettings();
  listen();
  listenComparison();
  showAll();
}

recall();
showSummary();
showOverview();
window.addEventListener("beforeprint", showRest);
window.addEventListener("click", showRest, true); // it may lead there
const [visit] = performance.getEntriesByType("navigation");
// opened at its top, a page shows that before it draws the rest; elsewhere the rest is what is seen
if (location.hash || /** @type {PerformanceNavigationTiming} */ (visit).type !== "navigate")
  showRest();
else requestAnimationFrame(() => setTimeout(showRest));
