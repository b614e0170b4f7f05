// A circuit as what is drawn of it: one curve for each writer node, kind of reader and reader node.

const MOST_ELEMENTS = 3000;

/** What of an edge is its width: its score, or the size of another number. */
const sizeOf = (edges, column) => (edge) =>
  (column === "score" ? edges.score[edge] : Math.abs(edges[column]?.[edge] ?? 0)) ?? 0;

/** The least and the largest of them in a circuit; only a score may begin elsewhere than at 0. */
function rangeOf(edges, positions, column) {
  const size = sizeOf(edges, column);
  let low = Infinity,
    high = -Infinity;
  for (const edge of positions) {
    low = Math.min(low, size(edge));
    high = Math.max(high, size(edge));
  }
  return column === "score" ? [low, high] : [0, high];
}

/** For an edge its place from 0 to 1 between the weakest and the strongest of a circuit. */
function shares(edges, positions, column) {
  const size = sizeOf(edges, column),
    [low, high] = rangeOf(edges, positions, column);
  return (edge) => (high > low ? Math.sqrt((size(edge) - low) / (high - low)) : 0.6);
}

/** Edges `{id, writer, reader, span, share, look}` as curves, strongest last; those of folded heads are one. */
function bundles(edges, ways, name) {
  const found = new Map();
  for (const edge of edges)
    for (const [from, to] of ways(edge)) {
      const kind = GRAPH.reader_kind[edge.reader],
        key = `${from} ${kind} ${to}`;
      const { look } = edge,
        fresh = { from, to, kind, look, share: 0, edges: [], name, points: [] };
      const bundle = found.get(key) ?? fresh;
      bundle.edges.push(edge.id);
      bundle.share = Math.max(bundle.share, edge.share);
      if (look === "usual") bundle.look = "usual"; // dashed only if every edge is
      found.set(key, bundle);
    }
  return [...found.values()].sort((a, b) => a.share - b.share);
}

/** How a curve is inked among `n`: where they crowd, the weak ones are thin and let others through. */
function ink({ share }, n) {
  const crowd = Math.max(0, Math.log10(n / 150)),
    faint = 0.8 * 10 ** -crowd;
  return {
    width: 0.6 / (1 + crowd / 2) + (4.8 / (1 + crowd / 2)) * share,
    opacity: Math.max(0.012, faint + (0.9 - faint) * share ** (1.2 + 1.3 * crowd)),
  };
}

const edgeName = (edge) =>
  DATA.edges.part?.[edge] ??
  `${GRAPH.writers[DATA.edges.writer[edge]]}->${GRAPH.readers[DATA.edges.reader[edge]]}`;
