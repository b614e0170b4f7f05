// The panel at the side: a card for the node at hand and for each pinned one, and what is hidden.

const MOST_LISTED = 200;

/** @type {{ key?: string, drawn?: Curve[] }} */
let listed = {};
/** What the panel shows, so that it's left alone, with what the reader does in it, if that is unchanged. */

function showPanel(id) {
  const pinned = [...state.pinned].filter((name) => picture.has(name) && name !== id),
    edges = id === null ? edgesAtHand() : [];
  const named = [...state.names, ...state.groups];
  const key = JSON.stringify([
    id,
    state.node,
    state.pinned.has(id),
    pinned,
    [...state.hidden],
    edges,
    named,
  ]);
  if (listed.key === key && listed.drawn === picture.curves) return;
  listed = { key, drawn: picture.curves };
  const hint = make(
    "p",
    { class: "hint" },
    "Point at a node, or select one by a click or Enter, to see its edges; click an edge for its card. Escape lets go.",
  );
  byId("node").replaceChildren(
    ...(id !== null ? card(id) : edges.length ? edgeCard(edges) : pinned.length ? [] : [hint]),
    ...pinned.flatMap(card),
    ...(state.hidden.size ? [hiddenOnes()] : []),
  );
}

function card(id) {
  const { into, out } = picture.edgesOf(id),
    pinned = state.pinned.has(id);
  const left = edgesAt(id) - countOf(into) - countOf(out);
  const button = (text, key, act) =>
    make(
      "button",
      {
        type: "button",
        "aria-label": `${text} ${id}`,
        "aria-keyshortcuts": key,
        title: `key ${key}`,
        onclick: () => act(id),
      },
      text,
    );
  return [
    make("h3", {}, id, " ", make("small", {}, title(id))),
    make(
      "p",
      { class: "acts" },
      button(pinned ? "unpin" : "pin", "p", pin),
      " ",
      button("hide", "h", hide),
    ),
    ...brief(id),
    ...(id === state.node || pinned ? [naming(id)] : []),
    ...edgeList("in", into, "from"),
    ...edgeList("out", out, "to"),
    ...(left > 0
      ? [
          make(
            "p",
            { class: "hint" },
            `${spell(left)} more are not drawn: filtered out, or their other end is hidden.`,
          ),
        ]
      : []),
  ];
}

/** How many edges of the whole circuit a node has. */
function edgesAt(id) {
  const own = new Set(readersOf(id)),
    ends = endsAt(state.circuit),
    ways = waysOf(ends, state.collapsed);
  return ends.reduce((n, edge) => {
    const found = ways(edge);
    return n + Number(found[0][0] === id) + Number(found.some(([, to]) => own.has(to)));
  }, 0);
}

function edgeList(name, curves, other) {
  const all = curves.flatMap((curve) => curve.edges.map((edge) => [edge, curve]));
  const rows = [...new Map(all)]; // one that leads to several places stands once
  rows.sort(([a], [b]) => a - b); // edges stand in the order of their rank
  const more =
    rows.length > MOST_LISTED
      ? [make("p", { class: "hint" }, `The strongest ${MOST_LISTED}; the table has all.`)]
      : [];
  return [
    make("h4", {}, `${name} (${spell(rows.length)})`),
    make(
      "ul",
      {},
      rows.slice(0, MOST_LISTED).map(([edge, curve]) => item(edge, curve, other)),
    ),
    ...more,
  ];
}

function item(edge, curve, other) {
  const { writer, reader, score, part, span } = DATA.edges;
  const end = other === "from" ? GRAPH.writers[writer[edge]] : GRAPH.readers[reader[edge]];
  const name = span ? placed(end, span[edge]) : (part?.[edge] ?? end);
  const port = other === "from" && "qkv".includes(curve.kind) ? ` → ${curve.kind}` : "";
  const notes = ["attribution", "exact"]
    .filter((c) => DATA.edges[c]?.[edge] != null)
    .map((c) => `${WIDTHS[c]} ${spell(DATA.edges[c][edge])}`);
  return make(
    "li",
    {},
    make(
      "button",
      {
        type: "button",
        class: curve.kind,
        title: notes.join("; "),
        onclick: () => (PARTS_NAMED ? selectEdge([edge]) : walk(curve[other])),
      },
      make("i", { class: `swatch ${curve.kind}` }),
      `${name}${port}`,
      make("span", {}, spell(score[edge])),
    ),
    make("div", {}, edgeButton(edge, "…")),
  );
}

function hiddenOnes() {
  const back = (id) =>
    make("button", { type: "button", "aria-label": `show ${id}`, onclick: () => unhide([id]) }, id);
  const all = make(
    "button",
    { type: "button", id: "show-all", onclick: () => unhide([...state.hidden]) },
    "show all",
  );
  return make(
    "div",
    { id: "hidden" },
    make("h4", {}, `hidden (${state.hidden.size})`),
    make(
      "p",
      { class: "acts" },
      [...state.hidden].flatMap((id) => [back(id), " "]),
      all,
    ),
  );
}

// ---------------------------------------------------------------- select, pin, hide

function select(id) {
  state.node = state.node === id ? null : id;
  state.edges = [];
  mark();
  remember();
}

/** Goes on to a node from the list of another; the keyboard stays in the list. */
function walk(id) {
  if (state.node !== id) select(id);
  /** @type {HTMLElement | null} */ (byId("node").querySelector("li button"))?.focus();
}

function pin(id) {
  if (!state.pinned.delete(id)) state.pinned.add(id);
  mark();
  say(`${id} ${state.pinned.has(id) ? "pinned" : "unpinned"}`);
  remember();
}

/** Takes a node with its edges from the drawing; the keyboard goes on at the next one. */
function hide(id) {
  const boxes = [...picture.svg.querySelectorAll(".node:not(.cut)")],
    at = boxes.findIndex((box) => box.dataset.node === id);
  const next = (boxes[at + 1] ?? boxes[at - 1])?.dataset.node;
  state.hidden.add(id);
  state.pinned.delete(id);
  if (state.node === id) state.node = null;
  showCircuit();
  if (next) picture.boxOf(next)?.focus();
  say(`${id} hidden`);
  remember();
}

function unhide(ids) {
  for (const id of ids) state.hidden.delete(id);
  showCircuit();
  say(`${ids.join(", ")} shown`);
  remember();
}

/** Tells those who listen rather than look what was done. */
const say = (text) => {
  byId("said").textContent = text;
};
