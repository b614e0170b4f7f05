// The model's graph: names of nodes, what reads for which, and what they are called in words.

const GRAPH = DATA.graph;
/** What is counted as edges: of parts, each is its own edge into the stream. */
const UNITS = `${GRAPH.unit}s`;
const OF_PARTS = GRAPH.unit !== "edge";
const GROUPED = GRAPH.n_kv_readers < GRAPH.n_heads;
const KINDS = ["q", "k", "v", "mlp", "logits"];
const LAYERS = Array.from({ length: GRAPH.n_layers }, (_, layer) => layer);
/** Spans of tokens in the order of prompts; none where an edge has one gate for all tokens. */
const SPANS = GRAPH.spans ?? [];

const READER_NODES = GRAPH.readers.map((name) => name.replace(/<.>$/, ""));
const nodeOfWriter = (writer, collapsed) => inLayer(GRAPH.writers[writer], collapsed);
const nodeOfReader = (reader, collapsed) => inLayer(READER_NODES[reader], collapsed);

function inLayer(name, collapsed) {
  const head = collapsed.size ? /^a(\d+)\./.exec(name) : null;
  return head && collapsed.has(Number(head[1])) ? `a${head[1]}` : name;
}

// ---------------------------------------------------------------- nodes at spans

/** A node as it stands at a span, the one at this place; without spans, the node. */
const placed = (name, span) => (SPANS.length ? `${name}@${SPANS[span].name}` : name);
/** The node of one that stands at a span, and the span's name, if there is one. */
const baseOf = (id) => id.split("@")[0];
const spanOf = (id) => id.split("@")[1] ?? "";
/** A node at the span of another. */
const beside = (name, id) => (spanOf(id) ? `${name}@${spanOf(id)}` : name);
/** All that a node is drawn as, over the spans. */
const standingsOf = (name) => (SPANS.length ? SPANS.map((_, i) => placed(name, i)) : [name]);

/** The group of a head whose keys and values are shared; null elsewhere. */
function groupOf(id) {
  const head = GROUPED && /^a(\d+)\.h(\d+)$/.exec(baseOf(id ?? ""));
  return head
    ? beside(
        `a${head[1]}.kv${Math.floor((Number(head[2]) * GRAPH.n_kv_readers) / GRAPH.n_heads)}`,
        id,
      )
    : null;
}

/** Nodes whose in-edges a node reads: itself and, for a head, its group's keys and values. */
function readersOf(id) {
  const group = groupOf(id);
  return group ? [id, group] : [id];
}

/** What stands in a node's box. */
function labelOf(id) {
  const name = baseOf(id),
    head = /^a(\d+)\.h(\d+)$/.exec(name);
  if (head) return `${head[1]}.${head[2]}`;
  if (/^a\d+$/.test(name)) return "heads";
  if (/\.kv\d+$/.test(name)) return "";
  return /^m\d+$/.test(name) ? `MLP ${name.slice(1)}` : name;
}

/** A node's name in words, and where it stands. */
const title = (id) => `${titleOf(baseOf(id))}${spanOf(id) ? ` at ${spanOf(id)}` : ""}`;

function titleOf(id) {
  const head = /^a(\d+)\.(h|kv)(\d+)$/.exec(id),
    folded = /^a(\d+)$/.exec(id);
  if (head)
    return `${head[2] === "h" ? "head" : "keys and values of group"} ${head[3]} of layer ${head[1]}`;
  if (folded) return `all heads of layer ${folded[1]}`;
  return /^m\d+$/.test(id) ? `MLP of layer ${id.slice(1)}` : id;
}

/** Every name that a node of the model can have, folded or not; and every node of a drawing. */
const BASE_NAMES = new Set([
  ...GRAPH.writers,
  ...READER_NODES,
  ...LAYERS.map((layer) => `a${layer}`),
]);
const NODE_NAMES = new Set([...BASE_NAMES].flatMap(standingsOf));
