// The view in the address, so that it can be shared and comes back.

const SOON = 250;
/** Between names of nodes; a span's own name may have a dash. */
const BETWEEN = SPANS.length ? " " : "-";
/** @type {number | undefined} */
let later;

function remember() {
  clearTimeout(later);
  const { view, plan } = picture,
    parts = new URLSearchParams({ size: circuitName(0, state.circuit) });
  const put = (name, value) => {
    if (value) parts.set(name, value);
  };
  put("node", state.node);
  put("folded", [...state.collapsed].sort((a, b) => a - b).join("-"));
  put("hide", [...state.hidden].join(BETWEEN));
  put("pin", [...state.pinned].join(BETWEEN));
  put("strongest", state.strongest);
  put("boxes", state.all ? "all" : null);
  for (const name of state.edges.slice(0, 1)) put("edge", name);
  for (const [id, name] of state.names) parts.append("name", `${id}~${name}`);
  for (const [id, name] of state.groups) parts.append("group", `${id}~${name}`);
  put("width", state.column === "score" ? null : state.column);
  put(
    "view",
    view.k > 1
      ? [
          view.k.toFixed(2),
          (view.x / plan.width).toFixed(3),
          (view.y / plan.height).toFixed(3),
        ].join("_")
      : null,
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
  const list = (name, between = "-") =>
    (parts.get(name) ?? "").split(between).filter((part) => part !== "");
  const names = (name) => new Set(list(name, BETWEEN).filter((id) => NODE_NAMES.has(id)));
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
  state.all = parts.get("boxes") === "all";
  state.edges = parts.getAll("edge");
  [state.names, state.groups] = [called(parts, "name"), called(parts, "group")];
  const [k, x, y] = (parts.get("view") ?? "").split("_").map(Number);
  state.view = [k, x, y].every(Number.isFinite) && x <= 1 && y <= 1 ? { k, x, y } : null;
  state.sides = readSides(parts.get("compare") ?? "");
}

/** Names by node, as `a1.h2~previous token`. */
function called(parts, key) {
  const pairs = parts
    .getAll(key)
    .map((text) => [text.split("~")[0], text.split("~").slice(1).join("~")]);
  const known = pairs.filter(([id, name]) => BASE_NAMES.has(id) && name);
  return new Map(known.map(([id, name]) => [id, name.slice(0, LONGEST_NAME)]));
}
