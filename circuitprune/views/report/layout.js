// Where things stand in a drawing: layers from bottom to top, every head and MLP in a place of its own.

const GRAPH = DATA.graph;
const GROUPED = GRAPH.n_kv_readers < GRAPH.n_heads;
const KINDS = ["q", "k", "v", "mlp", "logits"];
const LEFT = 74,
  MLP_WIDTH = 54;
const CELL = Math.min(84, Math.max(40, 940 / GRAPH.n_heads));
const BAND = GRAPH.n_heads * CELL;
const WIDTH = LEFT + BAND + 150;
const STEP = GRAPH.n_layers > 8 ? 84 : 116;
const HEIGHT = 70 + GRAPH.n_layers * STEP + 56;
const MIDDLE = LEFT + BAND / 2,
  MLP_X = LEFT + BAND + 62;
const BANDS = Array.from({ length: GRAPH.n_layers }, (_, layer) => ({
  x: 50,
  y: HEIGHT - 60 - (layer + 1) * STEP,
  width: WIDTH - 54,
  height: STEP - 6,
  rx: 8,
  opacity: layer % 2 ? 0.45 : 1,
}));

/** Nodes by name: centre, half sizes, label; heads of collapsed layers share one. */
function layout(collapsed) {
  const nodes = new Map();
  const add = (id, x, y, w, h, label, kind, layer) =>
    nodes.set(id, { id, x, y, w, h, label, kind, layer });
  add("input", MIDDLE, HEIGHT - 28, 46, 13, "input", "input", -1);
  for (let layer = 0; layer < GRAPH.n_layers; layer++) {
    const y = HEIGHT - 70 - layer * STEP - 30;
    const wide = Math.min(CELL / 2 - 4, 21);
    if (collapsed.has(layer)) {
      add(`a${layer}`, MIDDLE, y, 60, 13, `${GRAPH.n_heads} heads`, "head", layer);
    } else {
      for (let head = 0; head < GRAPH.n_heads; head++) {
        const x = LEFT + (head + 0.5) * CELL;
        add(`a${layer}.h${head}`, x, y, wide, 13, `${layer}.${head}`, "head", layer);
      }
      if (GROUPED) addGroups(add, layer, y);
    }
    add(
      `m${layer}`,
      MLP_X,
      y - (GRAPH.parallel ? 0 : STEP - 56),
      MLP_WIDTH / 2,
      13,
      `MLP ${layer}`,
      "mlp",
      layer,
    );
  }
  add("logits", MIDDLE, 28, 46, 13, "logits", "logits", GRAPH.n_layers);
  return nodes;
}

/** Under the heads that share them: a bar for each pair of key and value readers. */
function addGroups(add, layer, y) {
  const size = GRAPH.n_heads / GRAPH.n_kv_readers;
  for (let group = 0; group < GRAPH.n_kv_readers; group++) {
    const x = LEFT + (group + 0.5) * size * CELL;
    add(`a${layer}.kv${group}`, x, y + 24, (size * CELL) / 2 - 4, 4, "", "kv", layer);
  }
}

const READER_NODES = GRAPH.readers.map((name) => name.replace(/<.>$/, ""));
const nodeOfWriter = (writer, collapsed) => inLayer(GRAPH.writers[writer], collapsed);
const nodeOfReader = (reader, collapsed) => inLayer(READER_NODES[reader], collapsed);

function inLayer(name, collapsed) {
  const head = collapsed.size ? /^a(\d+)\./.exec(name) : null;
  return head && collapsed.has(Number(head[1])) ? `a${head[1]}` : name;
}

/** Where edges of a kind enter a node. */
function port(node, kind) {
  const apart = { q: -1, k: 0, v: 1 }[kind] ?? 0;
  const step = node.kind === "kv" ? Math.min(node.w * 0.5, 14) : Math.min(node.w * 0.55, 11);
  const shift = node.kind === "kv" ? (kind === "k" ? -0.5 : 0.5) : apart;
  return { x: node.x + shift * step, y: node.y + node.h };
}

/** The four points of a curve from a writer's top to a port; in one column it goes around what is between. */
function bend(from, kind, to) {
  const side = { q: -1, v: 1 }[kind] ?? 0; // so that q, k and v edges of one pair are seen apart
  const end = port(to, kind),
    x = from.x + 4 * side,
    y = from.y - from.h;
  const rise = y - end.y,
    pull = Math.max(18 + 7 * side, rise * (0.45 + 0.07 * side));
  const far = Math.abs(end.x - x) < 20 && rise > STEP * 0.7;
  const bow = far ? Math.min(20 + rise * 0.12, 84) : 0;
  return [x, y, x + bow, y - pull, end.x + bow, end.y + pull, end.x, end.y];
}

/** Those points as a path's `d`. */
function pathOf(points) {
  const [a, b, c, d, e, f, g, h] = points.map((p) => p.toFixed(1));
  return `M${a} ${b}C${c} ${d} ${e} ${f} ${g} ${h}`;
}

/** Nodes whose in-edges a node reads: itself and, for a head, its group's keys and values. */
function readersOf(id) {
  const head = GROUPED && /^a(\d+)\.h(\d+)$/.exec(id ?? "");
  const group = head && Math.floor((Number(head[2]) * GRAPH.n_kv_readers) / GRAPH.n_heads);
  return head ? [id, `a${head[1]}.kv${group}`] : [id];
}

/** A node's name in words. */
function title(id) {
  const head = /^a(\d+)\.(h|kv)(\d+)$/.exec(id),
    folded = /^a(\d+)$/.exec(id);
  if (head)
    return `${head[2] === "h" ? "head" : "keys and values of group"} ${head[3]} of layer ${head[1]}`;
  if (folded) return `all heads of layer ${folded[1]}`;
  return /^m\d+$/.test(id) ? `MLP of layer ${id.slice(1)}` : id;
}

/** Every name that a node can have, folded or not. */
const NODE_NAMES = new Set([
  ...GRAPH.writers,
  ...READER_NODES,
  ...BANDS.map((_, layer) => `a${layer}`),
]);
