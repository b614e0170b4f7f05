// The view in the address, so that it can be shared and comes back.

const SOON = 250;
/** @type {number | undefined} */
let later;

function remember() {
  clearTimeout(later);
  const { view } = picture,
    parts = new URLSearchParams({ size: circuitName(0, state.circuit) });
  const put = (name, value) => {
    if (value) parts.set(name, value);
  };
  put("node", state.node);
  put("folded", [...state.collapsed].sort((a, b) => a - b).join("-"));
  put("hide", [...state.hidden].join("-"));
  put("pin", [...state.pinned].join("-"));
  put("strongest", state.strongest);
  put("width", state.column === "score" ? null : state.column);
  put(
    "view",
    view.k > 1 ? [view.k.toFixed(2), view.x.toFixed(0), view.y.toFixed(0)].join("_") : null,
  );
  put("compare", state.sides && spellSides(state.sides));
  history.replaceState(null, "", `#${parts}`);
}

/** For what changes many times a second, of which browsers allow an address only some. */
function rememberSoon() {
  clearTimeout(later);
  later = setTimeout(remember, SOON);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (!parts.has("size")) return;
  const list = (name) => (parts.get(name) ?? "").split("-").filter((part) => part !== "");
  const names = (name) => new Set(list(name).filter((id) => NODE_NAMES.has(id)));
  const at = DATA.circuits.findIndex((_, i) => circuitName(0, i) === parts.get("size"));
  state.circuit = at < 0 ? MAIN.chosen : at;
  const node = parts.get("node"),
    width = parts.get("width");
  state.node = node && NODE_NAMES.has(node) ? node : null;
  state.collapsed = new Set(
    list("folded")
      .map(Number)
      .filter((layer) => Number.isInteger(layer) && layer >= 0 && layer < GRAPH.n_layers),
  );
  [state.hidden, state.pinned] = [names("hide"), names("pin")];
  state.strongest = Math.floor(Number(parts.get("strongest"))) || null;
  state.column = width && width in WIDTHS && DATA.edges[width] ? width : "score";
  const [k, x, y] = (parts.get("view") ?? "").split("_").map(Number);
  picture.look([k, x, y].every(Number.isFinite) ? { k, x, y } : WHOLE);
  state.sides = readSides(parts.get("compare") ?? "");
}
