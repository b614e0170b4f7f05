// What the reader sees and does: the state of the view, kept in the address, and its controls.

const WIDTHS = {
  score: "ranking score",
  attribution: "attribution score",
  exact: "exact rise of the KL",
};
const MAIN = DATA.runs[0];
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
};

const circuit = () => DATA.circuits[state.circuit];

function showSummary() {
  const { about, full } = MAIN,
    point = MAIN.points[MAIN.chosen];
  document.title = shown(`${about.task} in ${about.model}: a circuit of ${point.n_edges} edges`);
  byId("title").textContent = shown(`${about.task} in ${about.model}`);
  byId("about").textContent = shown(
    `Judged exactly on ${spell(full.n)} ${about.split} pairs. Cut edges carry: ${about.ablation}. Task metric: ${about.metric}.`,
  );
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
      "edges",
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
  byId("cards").append(
    make(
      "dl",
      {},
      cards.map(([name, value, note]) =>
        make(
          "div",
          {},
          make("dt", {}, words(String(name))),
          make("dd", {}, make("b", {}, value), " ", make("small", {}, note)),
        ),
      ),
    ),
  );
  if (DATA.command) byId("command-line").append(make("code", {}, DATA.command));
}

// ---------------------------------------------------------------- the circuit

/** The circuit's edges as the drawing wants them: the strongest by what is width, as many as the filter lets through. */
function drawnEdges() {
  const { edges } = circuit(),
    { writer, reader } = DATA.edges,
    share = shares(DATA.edges, edges, state.column);
  const found = edges.map((id) => ({
    id,
    writer: writer[id],
    reader: reader[id],
    share: share(id),
    look: harmful(id) ? "harmful" : "usual",
  }));
  if (state.column !== "score") found.sort((a, b) => b.share - a.share);
  return found.slice(0, state.strongest ?? edges.length);
}

function showCircuit() {
  const { edges } = circuit(),
    { collapsed, hidden } = state,
    strongest = drawnEdges();
  const curves = bundles(strongest, collapsed, edgeName).filter(
    ({ from, to }) => !hidden.has(from) && !hidden.has(to),
  );
  const whole = edges.map((id) => ({
    writer: DATA.edges.writer[id],
    reader: DATA.edges.reader[id],
  }));
  picture.show({ curves, used: nodesOf(whole, collapsed), hidden, collapsed });
  showSizes(curves.reduce((n, curve) => n + curve.edges.length, 0));
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
  byId("size").setAttribute("aria-valuetext", `${n_edges} edges`);
  byId("size-text").textContent =
    `${spell(n_edges)} edges${state.circuit === MAIN.chosen ? " (chosen)" : ""}`;
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
      ? ` Drawn: ${spell(n)}${strongest < most ? `, of the ${spell(strongest)} strongest` : ""}${state.hidden.size ? `, without ${state.hidden.size} hidden nodes` : ""}.`
      : "";
  byId("drawn").textContent =
    `${spell(n_edges)} edges among ${spell(n_nodes)} nodes, KL ${nats(kl)} nats, faithfulness ${spell(faithfulness)}.${held}${part}`;
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
  picture.light([...new Set([...pinned, ...(id === null ? [] : [id])])]);
  for (const box of picture.svg.querySelectorAll(".node")) {
    const name = box.dataset.node;
    box.classList.toggle("found", Boolean(state.search && matches(name)));
    box.classList.toggle("pinned", state.pinned.has(name));
    if (box.hasAttribute("aria-pressed"))
      box.setAttribute("aria-pressed", String(name === state.node));
  }
  showPanel(id);
  showReading(picture.has(state.node) ? state.node : null);
}

const matches = (text) => text.toLowerCase().includes(state.search.toLowerCase());

function showEdges() {
  const columns = Object.keys(WIDTHS).filter((c) => DATA.edges[c]),
    { writer, reader } = DATA.edges;
  const found = circuit().edges.filter((edge) => !state.search || matches(edgeName(edge)));
  const row = (i) => {
    const edge = found[i],
      at = reader[edge];
    return [
      GRAPH.writers[writer[edge]],
      GRAPH.readers[at],
      GRAPH.reader_kind[at],
      ...columns.map((c) => spell(DATA.edges[c][edge])),
    ];
  };
  pages(
    ["from", "to", "kind", ...columns.map((c) => WIDTHS[c])],
    found.length,
    row,
    byId("edges"),
    byId("edges-pages"),
  );
}

function showLegend() {
  const names = { q: "query", k: "key", v: "value", mlp: "MLP", logits: "logits" };
  byId("legend").replaceChildren(
    ...KINDS.map((kind) => make("span", {}, make("i", { class: `swatch ${kind}` }), names[kind])),
    ...(DATA.signed
      ? [make("span", {}, make("i", { class: "swatch dashed" }), "works against the metric")]
      : []),
    make("span", {}, "Colour: what reads. Width: the score."),
  );
}

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
  const section = document.querySelector(event.target.getAttribute("href"));
  event.preventDefault();
  section.scrollIntoView();
  section.setAttribute("tabindex", "-1");
  section.focus({ preventScroll: true });
}

/** Whether the focus or the pointer goes on into the panel. */
const staysIn = (event) => byId("node").contains(event?.relatedTarget ?? null);
const fileName = () => `circuit-${circuitName(0, state.circuit)}`;

function showAll() {
  byId("width").value = state.column;
  showCircuit();
  showComparison();
}

const picture = new Picture(byId("drawing"), {
  point: (id, event) => {
    if (id || !staysIn(event)) mark(id);
  },
  pick: select,
  fold,
  moved: rememberSoon,
});
byId("size").max = String(DATA.circuits.length - 1);
for (const column of Object.keys(WIDTHS).filter((c) => DATA.edges[c]))
  byId("width").append(make("option", { value: column }, WIDTHS[column]));
showSummary();
showFrontier(choose);
showEvidence();
showPairs();
showSettings();
showLegend();
recall();
listen();
listenComparison();
showAll();
