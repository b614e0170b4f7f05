// The position axis: spans of tokens as columns in the order of prompts, and what crosses from one to another.

/** Pixels: below the input for a span's name and its tokens, above the logits of a long drawing for the name. */
const AXIS = { foot: 38, head: 22, long: 620, letter: 6.3 };

/**
 * For an edge `{writer, reader, span}` of a circuit the nodes that it joins on a drawing, as `[from, to]`.
 * It begins at its own span. Queries, MLPs and logits read it there; keys and values are read there by all
 * that the head does at spans that see this one, so such an edge may lead to several. A part's edge is into
 * the stream, which all read that follows; it ends where the answer is, at the last span.
 */
function waysOf(edges, collapsed) {
  if (!SPANS.length)
    return ({ writer, reader }) => [
      [nodeOfWriter(writer, collapsed), nodeOfReader(reader, collapsed)],
    ];
  const writes = new Set(edges.map(({ writer, span }) => `${writer} ${span}`));
  const acts = (reader, at) => GRAPH.feeds[reader].some((head) => writes.has(`${head} ${at}`));
  const readAt = (reader, span) => {
    if (OF_PARTS) return [SPANS.length - 1];
    if (!"kv".includes(GRAPH.reader_kind[reader])) return [span];
    const places = SPANS.map((_, at) => at);
    const found = places.filter((at) => SPANS[at].sees.includes(span) && acts(reader, at));
    return found.length ? found : [span]; // nothing that it feeds writes: it dangles where it stands
  };
  return ({ writer, reader, span }) => {
    const from = placed(nodeOfWriter(writer, collapsed), span),
      to = nodeOfReader(reader, collapsed);
    return readAt(reader, span).map((at) => [from, placed(to, at)]);
  };
}

/** The nodes of a drawing that these edges of a circuit join. */
const nodesOf = (edges, ways) => new Set(edges.flatMap((edge) => ways(edge).flat()));

/** How many edges some curves stand for; one that leads to several places counts once. */
const countOf = (curves) => new Set(curves.flatMap((curve) => curve.edges)).size;

/** Ends of an edge of the first run. */
const endsOfEdge = (edge) => ({
  writer: DATA.edges.writer[edge],
  reader: DATA.edges.reader[edge],
  span: DATA.edges.span?.[edge],
});

/** Writers, readers and spans of a circuit's edges. */
const endsAt = (at) => DATA.circuits[at].edges.map(endsOfEdge);

/** Spans at which something writes the answer. */
const ANSWERED = new Set(
  DATA.edges.reader.flatMap((reader, edge) =>
    GRAPH.reader_kind[reader] !== "logits"
      ? []
      : [OF_PARTS ? SPANS.length - 1 : DATA.edges.span?.[edge]],
  ),
);

// ---------------------------------------------------------------- zones

/**
 * The columns of each span that has a node, or one zone without a name; `needs` says how many heads a layer
 * has there at most, and there is room for `total` columns. A zone of one column has its MLPs among the heads.
 * @param {{ name: string, heads: number, mlp: boolean }[]} needs
 * @param {number} total
 * @returns {Zone[]}
 */
function zonesOf(needs, total) {
  const apart = needs.filter(({ heads, mlp }) => heads && mlp).length;
  const own = needs.length + apart <= total;
  const heads = needs.map(() => 1);
  let left = total - needs.length - (own ? apart : 0);
  for (; left > 0; left--) {
    const rates = needs.map((need, i) => need.heads / heads[i]),
      most = rates.indexOf(Math.max(...rates));
    if (rates[most] <= 1) break;
    heads[most]++;
  }
  let first = 0;
  return needs.map((need, i) => {
    const zone = zoneAt(need.name, first, heads[i], own && need.heads && need.mlp ? 1 : 0);
    first += zone.n;
    return zone;
  });
}

/** A zone of so many columns of heads, and one of MLPs if they have one to themselves. */
function zoneAt(name, first, heads, apart) {
  const n = heads + apart,
    middle = first + ((name ? n : heads) - 1) / 2; // of the ends, input and logits
  const among = first + Math.floor((heads - 1) / 2); // in a column, so that lanes between them are free
  return { name, first, n, heads, mlp: apart ? first + heads : among, middle };
}

// ---------------------------------------------------------------- the axis

/** The tokens of the first pair that are dealt to a span, as they are read. */
function tokensAt(name) {
  const pair = FIRST_PAIR,
    spans = pair?.spans;
  if (!pair || !spans) return [];
  const spaced = spacing(pair.clean);
  return pair.clean.filter((_, i) => spans[i] === name).map((token) => spaced(token).trim());
}

/** A line between spans, and under each its name and tokens of the first pair. */
function axisOf(plan) {
  const { zones, cell, height } = plan,
    most = (zone, letter) => Math.max(3, Math.floor((zone.n * cell - 6) / letter));
  return zones.flatMap((zone, i) => {
    if (!zone.name) return [];
    const x = LEFT + zone.first * cell,
      middle = x + (zone.n * cell) / 2,
      tokens = tokensAt(zone.name);
    const about = tokens.length ? `${zone.name}, on pair 1: ${tokens.join(" ")}` : zone.name;
    const name = (y) =>
      draw("text", { class: "name", x: middle, y }, clipped(zone.name, most(zone, 7.2)));
    return draw(
      "g",
      { class: "span", "data-span": zone.name },
      draw("title", {}, about),
      i ? draw("path", { d: `M${tenth(x)} 6V${tenth(height - 6)}` }) : "",
      plan.headed ? name(18) : "",
      name(height - 24),
      draw(
        "text",
        { class: "said", x: middle, y: height - 9 },
        clipped(tokens.join(" "), most(zone, AXIS.letter)),
      ),
    );
  });
}

/** What the columns are, and at which spans nothing of the circuit stands. */
function spanKey(used) {
  if (!SPANS.length) return [];
  const standing = new Set([...used].map(spanOf)),
    empty = SPANS.map((span) => span.name).filter((name) => !standing.has(name));
  const none = empty.length ? ` The circuit keeps nothing at ${empty.join(", ")}.` : "";
  const across = OF_PARTS
    ? "What is written at a span is read there by all that follows, and looked back at from later ones: lines lead to where the answer is."
    : "An edge from one column into another is a key or value that the head looks back at.";
  const text = `Columns are spans of tokens, in the order of prompts. ${across}${none}`;
  return [make("span", { id: "span-key" }, text)];
}

/** Where an edge is: its span with tokens of the first pair, and from where keys and values are looked at. */
function spanFacts(edge) {
  const { reader, span } = endsOfEdge(edge);
  if (span === undefined) return [];
  const { name } = SPANS[span],
    tokens = tokensAt(name),
    said = tokens.length ? `on pair 1: ${clipped(tokens.join(" "), 60)}` : "";
  const ends = waysOf(endsAt(state.circuit), NONE)(endsOfEdge(edge)).map(([, to]) => spanOf(to));
  const looked = "kv".includes(GRAPH.reader_kind[reader])
    ? [["looked at from", ends.join(", ")]]
    : [];
  return [["at", name, said], ...looked];
}
