// The model's graph: names of nodes, what reads for which, and what they are called in words.

const GRAPH = DATA.graph;
/** What is counted as edges: of parts, each is its own edge into the stream. */
const UNITS = `${GRAPH.unit}s`;
const GROUPED = GRAPH.n_kv_readers < GRAPH.n_heads;
const KINDS = ["q", "k", "v", "mlp", "logits"];
const LAYERS = Array.from({ length: GRAPH.n_layers }, (_, layer) => layer);

const READER_NODES = GRAPH.readers.map((name) => name.replace(/<.>$/, ""));
const nodeOfWriter = (writer, collapsed) => inLayer(GRAPH.writers[writer], collapsed);
const nodeOfReader = (reader, collapsed) => inLayer(READER_NODES[reader], collapsed);

function inLayer(name, collapsed) {
  const head = collapsed.size ? /^a(\d+)\./.exec(name) : null;
  return head && collapsed.has(Number(head[1])) ? `a${head[1]}` : name;
}

/** The group of a head whose keys and values are shared; null elsewhere. */
function groupOf(id) {
  const head = GROUPED && /^a(\d+)\.h(\d+)$/.exec(id ?? "");
  return head
    ? `a${head[1]}.kv${Math.floor((Number(head[2]) * GRAPH.n_kv_readers) / GRAPH.n_heads)}`
    : null;
}

/** Nodes whose in-edges a node reads: itself and, for a head, its group's keys and values. */
function readersOf(id) {
  const group = groupOf(id);
  return group ? [id, group] : [id];
}

/** What stands in a node's box. */
function labelOf(id) {
  const head = /^a(\d+)\.h(\d+)$/.exec(id);
  if (head) return `${head[1]}.${head[2]}`;
  if (/^a\d+$/.test(id)) return "heads";
  if (/\.kv\d+$/.test(id)) return "";
  return /^m\d+$/.test(id) ? `MLP ${id.slice(1)}` : id;
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
  ...LAYERS.map((layer) => `a${layer}`),
]);
