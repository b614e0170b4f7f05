// What the reader sees and does: the state of the view, kept in the address, and its controls.

const WIDTHS = { score: "ranking score", attribution: "attribution score", exact: "exact rise of the KL" };
const MAIN = DATA.runs[0];
const state = { circuit: MAIN.chosen, node: null, column: "score", collapsed: new Set(), search: "" };
let drawn = [];
let listed = {};  // what the panel shows; built anew only when that changes, else a click in it is lost

const circuit = () => DATA.circuits[state.circuit];

function showSummary() {
  const { about, full } = MAIN, point = MAIN.points[MAIN.chosen];
  document.title = shown(`${about.task} in ${about.model}: a circuit of ${point.n_edges} edges`);
  byId("title").textContent = shown(`${about.task} in ${about.model}`);
  byId("about").textContent = shown(`Judged exactly on ${spell(full.n)} ${about.split} pairs. Cut edges carry: ${about.ablation}. Task metric: ${about.metric}.`);
  const grouped = GRAPH.n_edges !== GRAPH.n_edges_ungrouped ? `; ${spell(point.n_edges_ungrouped)} of ${spell(GRAPH.n_edges_ungrouped)} by query head` : "";
  const near = (name) => { const v = intervalAt(point, name); return v ? `95 %: ${spell(v.low)} to ${spell(v.high)}` : ""; };
  const cards = [
    ["edges", spell(point.n_edges), `of ${spell(GRAPH.n_edges)}, ${percent(point.n_edges / GRAPH.n_edges)}${grouped}`],
    ["KL from the model", `${spell(point.kl)} nats`, near("kl")],
    ["faithfulness", spell(point.faithfulness), near("faithfulness") || "1 is the model, 0 no circuit"],
    ["accuracy", percent(point.accuracy), `the model: ${percent(full.accuracy)}`],
    ["same top answer", percent(point.exact_match), "as the model"],
    [about.metric, spell(point.metric), `the model: ${spell(full.metric)}`],
  ];
  byId("cards").append(make("dl", {}, cards.map(([name, value, note]) =>
    make("div", {}, make("dt", {}, words(String(name))), make("dd", {}, make("b", {}, value), " ", make("small", {}, note))))));
  if (DATA.command) byId("command-line").append(make("code", {}, DATA.command));
}

// ---------------------------------------------------------------- the circuit

function showCircuit() {
  const { n_edges, n_nodes, edges } = circuit();
  drawn = drawCircuit(byId("drawing"), circuit(), state.collapsed, state.column);
  byId("size").value = order().indexOf(state.circuit);
  byId("size").setAttribute("aria-valuetext", `${n_edges} edges`);
  byId("size-text").textContent = `${spell(n_edges)} edges${state.circuit === MAIN.chosen ? " (chosen)" : ""}`;
  const { kl, faithfulness } = MAIN.points[state.circuit];
  const part = edges.length < n_edges ? ` Drawn are the ${spell(edges.length)} strongest.` : "";
  byId("drawn").textContent = `${spell(n_edges)} edges among ${spell(n_nodes)} nodes, KL ${spell(kl)} nats, faithfulness ${spell(faithfulness)}.${part}`;
  for (const dot of document.querySelectorAll("[data-point]")) dot.classList.toggle("now", Number(dot.dataset.point) === state.circuit);
  if (byId("table-box").open) showEdges();
  mark();
}

/** Positions of circuits, from the smallest. */
const order = () => DATA.circuits.map((_, i) => i).sort((a, b) => DATA.circuits[a].n_edges - DATA.circuits[b].n_edges || a - b);

/** A node of the drawing as it is now; a head of a folded layer is in the layer's node. */
const visible = (id) => (id && document.querySelector(`[data-node="${CSS.escape(id)}"]`) ? id : null);

/** Highlights a node's edges, those of `hover` while the pointer is on it, else the selected one's. */
function mark(hover = null) {
  const id = hover ?? visible(state.node), svg = byId("drawing");
  const own = readersOf(id);
  const near = new Set(drawn.flatMap((b) => (b.from === id ? [b.to] : own.includes(b.to) ? [b.from, b.to] : [])));
  svg.classList.toggle("focused", id !== null);
  for (const edge of svg.querySelectorAll(".edge")) edge.classList.toggle("on", edge.dataset.from === id || own.includes(edge.dataset.to));
  for (const port of svg.querySelectorAll(".port")) port.classList.toggle("on", own.includes(port.dataset.to) || near.has(port.dataset.to));
  for (const node of svg.querySelectorAll(".node")) {
    const name = node.dataset.node, wanted = state.search && matches(name);
    node.classList.toggle("on", name === id || near.has(name));
    node.classList.toggle("found", Boolean(wanted));
    node.setAttribute("aria-pressed", String(name === state.node));
  }
  showNode(id);
}

const matches = (text) => text.toLowerCase().includes(state.search.toLowerCase());

function showNode(id) {
  if (listed.id === id && listed.drawn === drawn) return;
  listed = { id, drawn };
  const into = byId("node");
  if (id === null) {
    into.replaceChildren(make("p", { class: "hint" }, "Point at a node, or select one by a click or Enter, to see its edges. Escape lets go."));
    return;
  }
  const list = (title, bundles, other) => [
    make("h4", {}, `${title} (${bundles.reduce((n, b) => n + b.edges.length, 0)})`),
    make("ul", {}, bundles.flatMap((b) => b.edges.map((edge) => [edge, b])).sort(([a], [b]) => (DATA.edges.score[b] ?? 0) - (DATA.edges.score[a] ?? 0)).slice(0, 200).map(([edge, b]) => item(edge, b, other))),
  ];
  into.replaceChildren(
    make("h3", {}, id, " ", make("small", {}, title(id))),
    ...list("in", drawn.filter((b) => readersOf(id).includes(b.to)), "from"),
    ...list("out", drawn.filter((b) => b.from === id), "to"),
  );
}

function item(edge, bundle, other) {
  const { writer, reader, score } = DATA.edges;
  const name = other === "from" ? GRAPH.writers[writer[edge]] : GRAPH.readers[reader[edge]];
  const port = other === "from" && "qkv".includes(bundle.kind) ? ` → ${bundle.kind}` : "";
  const notes = ["attribution", "exact"].filter((c) => DATA.edges[c]?.[edge] != null).map((c) => `${WIDTHS[c]} ${spell(DATA.edges[c][edge])}`);
  return make("li", {}, make("button", { type: "button", class: bundle.kind, title: notes.join("; "), onclick: () => walk(bundle[other]) },
    make("i", { class: `swatch ${bundle.kind}` }), `${name}${port}`, make("span", {}, spell(score[edge]))));
}

function showEdges() {
  const columns = Object.keys(WIDTHS).filter((c) => DATA.edges[c]);
  const rows = circuit().edges.filter((edge) => !state.search || matches(edgeName(edge))).map((edge) => {
    const reader = DATA.edges.reader[edge];
    return [GRAPH.writers[DATA.edges.writer[edge]], GRAPH.readers[reader], GRAPH.reader_kind[reader], ...columns.map((c) => spell(DATA.edges[c][edge]))];
  });
  table(["from", "to", "kind", ...columns.map((c) => WIDTHS[c])], rows, byId("edges"));
}

function showLegend() {
  const names = { q: "query", k: "key", v: "value", mlp: "MLP", logits: "logits" };
  byId("legend").replaceChildren(
    ...KINDS.map((kind) => make("span", {}, make("i", { class: `swatch ${kind}` }), names[kind])),
    ...(DATA.signed ? [make("span", {}, make("i", { class: "swatch dashed" }), "works against the metric")] : []),
    make("span", {}, "Colour: what reads. Width: the score."),
  );
}

// ---------------------------------------------------------------- the reader's hand

function select(id) {
  state.node = state.node === id ? null : id;
  mark();
  remember();
}

/** Goes on to a node from the list of another; the keyboard stays in the list. */
function walk(id) {
  select(id);
  byId("node").querySelector("button")?.focus();
}

function choose(position) {
  state.circuit = position;
  showCircuit();
  remember();
}

function fold(layer) {
  if (!state.collapsed.delete(layer)) state.collapsed.add(layer);
  showCircuit();
  byId("drawing").querySelector(`[data-layer="${layer}"]`).focus();
  remember();
}

function listen() {
  const svg = byId("drawing"), nodeAt = (event) => event.target.closest?.("[data-node]")?.dataset.node ?? null;
  const act = (event) => {
    const layer = event.target.closest?.("[data-layer]")?.dataset.layer;
    if (layer !== undefined) fold(Number(layer));
    else if (nodeAt(event)) select(nodeAt(event));
    return layer !== undefined || nodeAt(event);
  };
  svg.addEventListener("click", act);
  svg.addEventListener("keydown", (event) => { if ((event.key === "Enter" || event.key === " ") && act(event)) event.preventDefault(); });
  for (const name of ["pointerover", "focusin"]) svg.addEventListener(name, (event) => { if (nodeAt(event)) mark(nodeAt(event)); });
  const stays = (event) => byId("node").contains(event.relatedTarget);  // on the way into the list of the node
  for (const name of ["pointerout", "focusout"]) svg.addEventListener(name, (event) => { if (nodeAt(event) && !stays(event)) mark(); });
  byId("node").addEventListener("focusout", (event) => { if (!stays(event)) mark(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.node) select(state.node); });
  byId("size").addEventListener("input", (event) => choose(order()[Number(event.target.value)]));
  byId("width").addEventListener("change", (event) => { state.column = event.target.value; showCircuit(); remember(); });
  byId("search").addEventListener("input", (event) => { state.search = event.target.value.trim(); mark(); if (byId("table-box").open) showEdges(); });
  byId("search").addEventListener("keydown", (event) => { const hit = event.key === "Enter" && state.search && [...svg.querySelectorAll(".node.found")][0]; if (hit) select(hit.dataset.node); });
  byId("table-box").addEventListener("toggle", () => { if (byId("table-box").open) showEdges(); });
  byId("save-svg").addEventListener("click", () => save(`${fileName()}.svg`, figure(), "image/svg+xml"));
  byId("save-json").addEventListener("click", () => save(`${fileName()}.json`, JSON.stringify(asJson(), null, 2), "application/json"));
  window.addEventListener("hashchange", () => { recall(); showCircuit(); });
}

const fileName = () => `circuit-${circuit().n_edges}`;

/** The circuit that is shown, as names with scores. */
function asJson() {
  const scores = circuit().edges.map((edge) => [edgeName(edge), DATA.edges.score[edge]]);
  return { ...MAIN.about, n_edges: circuit().n_edges, evidence: MAIN.points[state.circuit], edges: Object.fromEntries(scores) };
}

/** The drawing as a file of its own: colours and fonts written into it. */
function figure() {
  const live = byId("drawing"), copy = live.cloneNode(true), names = ["fill", "stroke", "stroke-width", "opacity", "stroke-dasharray", "font-size", "font-family", "font-weight", "text-anchor"];
  const [from, to] = [live, copy].map((svg) => [...svg.querySelectorAll("*")]);
  from.forEach((element, i) => { const look = getComputedStyle(element); for (const name of names) to[i].setAttribute(name, look.getPropertyValue(name)); });
  copy.querySelectorAll(".fold").forEach((key) => key.remove());
  copy.setAttribute("width", WIDTH);
  copy.setAttribute("height", HEIGHT);
  return new XMLSerializer().serializeToString(copy);
}

// ---------------------------------------------------------------- the address

function remember() {
  const parts = new URLSearchParams({ size: circuit().n_edges });
  if (state.node) parts.set("node", state.node);
  if (state.collapsed.size) parts.set("folded", [...state.collapsed].sort((a, b) => a - b).join("-"));
  if (state.column !== "score") parts.set("width", state.column);
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const at = DATA.circuits.findIndex((c) => String(c.n_edges) === parts.get("size"));
  if (!parts.has("size")) return;
  state.circuit = at < 0 ? MAIN.chosen : at;
  state.node = parts.get("node");
  state.collapsed = new Set((parts.get("folded") ?? "").split("-").filter((x) => x !== "").map(Number).filter((x) => x >= 0 && x < GRAPH.n_layers));
  state.column = DATA.edges[parts.get("width")] && parts.get("width") in WIDTHS ? parts.get("width") : "score";
  byId("width").value = state.column;
}

byId("size").max = DATA.circuits.length - 1;
for (const column of Object.keys(WIDTHS).filter((c) => DATA.edges[c])) byId("width").append(make("option", { value: column }, WIDTHS[column]));
showSummary();
showFrontier(choose);
showEvidence();
showPairs();
showSettings();
showLegend();
recall();
listen();
showCircuit();
