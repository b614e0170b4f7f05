// The circuit as a drawing: layers from bottom to top, every head and MLP in a place of its own.

const GRAPH = DATA.graph;
const GROUPED = GRAPH.n_kv_readers < GRAPH.n_heads;
const KINDS = ["q", "k", "v", "mlp", "logits"];
const LEFT = 74, MLP_WIDTH = 54;
const CELL = Math.min(84, Math.max(40, 940 / GRAPH.n_heads));
const BAND = GRAPH.n_heads * CELL;
const WIDTH = LEFT + BAND + 150;
const STEP = GRAPH.n_layers > 16 ? 92 : 116;
const HEIGHT = 70 + GRAPH.n_layers * STEP + 56;
const MIDDLE = LEFT + BAND / 2, MLP_X = LEFT + BAND + 62;

/** Nodes by name: centre, half sizes, label; heads of collapsed layers share one. */
function layout(collapsed) {
  const nodes = new Map();
  const add = (id, x, y, w, h, label, kind, layer) =>
    nodes.set(id, { id, x, y, w, h, label, kind, layer });
  add("input", MIDDLE, HEIGHT - 28, 46, 13, "input", "input", -1);
  for (let layer = 0; layer < GRAPH.n_layers; layer++) {
    const y = HEIGHT - 70 - layer * STEP - 34;
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
    add(`m${layer}`, MLP_X, y - (GRAPH.parallel ? 0 : 46), MLP_WIDTH / 2, 13, `MLP ${layer}`, "mlp", layer);
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

const nodeOfWriter = (writer, collapsed) => inLayer(GRAPH.writers[writer], collapsed);
const nodeOfReader = (reader, collapsed) =>
  inLayer(GRAPH.readers[reader].replace(/<.>$/, ""), collapsed);

function inLayer(name, collapsed) {
  const head = /^a(\d+)\./.exec(name);
  return head && collapsed.has(Number(head[1])) ? `a${head[1]}` : name;
}

/** Where edges of a kind enter a node. */
function port(node, kind) {
  const apart = { q: -1, k: 0, v: 1 }[kind] ?? 0;
  const step = node.kind === "kv" ? Math.min(node.w * 0.5, 14) : Math.min(node.w * 0.55, 11);
  const shift = node.kind === "kv" ? (kind === "k" ? -0.5 : 0.5) : apart;
  return { x: node.x + shift * step, y: node.y + node.h };
}

/** A curve from the top of a writer to a port; nodes in one column are joined around it. */
function curve(from, kind, to) {
  const end = port(to, kind), x = from.x, y = from.y - from.h;
  const rise = y - end.y, pull = Math.max(16, rise * 0.45);
  const far = Math.abs(end.x - x) < 20 && rise > STEP * 0.7;
  const bow = far ? Math.min(20 + rise * 0.12, 84) : 0;
  const points = [x, y, x + bow, y - pull, end.x + bow, end.y + pull, end.x, end.y];
  const [a, b, c, d, e, f, g, h] = points.map((p) => p.toFixed(1));
  return `M${a} ${b}C${c} ${d} ${e} ${f} ${g} ${h}`;
}

/** Drawn edges of a circuit: one for each writer node, kind and reader node, strongest last. */
function bundles(circuit, collapsed, column) {
  const found = new Map();
  for (const edge of circuit.edges) {
    const from = nodeOfWriter(DATA.edges.writer[edge], collapsed);
    const reader = DATA.edges.reader[edge], kind = GRAPH.reader_kind[reader];
    const to = nodeOfReader(reader, collapsed), key = `${from} ${kind} ${to}`;
    if (!found.has(key)) found.set(key, { from, to, kind, edges: [] });
    found.get(key).edges.push(edge);
  }
  const share = shares(circuit, column);
  const all = [...found.values()];
  for (const bundle of all) bundle.share = Math.max(...bundle.edges.map(share));
  return all.sort((a, b) => a.share - b.share);
}

/** For an edge its place from 0 to 1 between the weakest and the strongest of the circuit. */
function shares(circuit, column) {
  const values = DATA.edges[column] ?? DATA.edges.score;
  const size = (edge) => (column === "score" ? values[edge] : Math.abs(values[edge] ?? 0)) ?? 0;
  let low = Infinity, high = -Infinity;
  for (const edge of circuit.edges) {
    low = Math.min(low, size(edge));
    high = Math.max(high, size(edge));
  }
  if (column !== "score") low = 0;
  return (edge) => (high > low ? Math.sqrt((size(edge) - low) / (high - low)) : 0.6);
}

const edgeName = (edge) =>
  `${GRAPH.writers[DATA.edges.writer[edge]]}->${GRAPH.readers[DATA.edges.reader[edge]]}`;
const harmful = (edge) => DATA.signed && DATA.edges.attribution[edge] > 0;

/** Draws a circuit; `data-from`, `data-to` and `data-node` say what is what. */
function drawCircuit(svg, circuit, collapsed, column) {
  const nodes = layout(collapsed), drawn = bundles(circuit, collapsed, column);
  const used = new Set(drawn.flatMap((bundle) => [bundle.from, bundle.to]));
  heads(circuit, collapsed).forEach((name) => used.add(name));
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("class", drawn.length > 400 ? "dense" : drawn.length > 120 ? "many" : "few");
  svg.replaceChildren(
    draw("g", { class: "layers" }, bands(collapsed)),
    draw("g", { class: "edges" }, drawn.map((bundle) => path(nodes, bundle))),
    draw("g", { class: "ports" }, ports(nodes, drawn)),
    draw("g", { class: "nodes" }, [...nodes.values()].map((node) => box(node, used, drawn))),
  );
  return drawn;
}

/** Heads whose shared key or value reader has an edge. */
function heads(circuit, collapsed) {
  const fed = circuit.edges.flatMap((edge) => GRAPH.feeds[DATA.edges.reader[edge]]);
  const writing = new Set(circuit.edges.map((edge) => DATA.edges.writer[edge]));
  return fed.filter((w) => writing.has(w)).map((w) => nodeOfWriter(w, collapsed));
}

function bands(collapsed) {
  return [...Array(GRAPH.n_layers).keys()].flatMap((layer) => {
    const top = HEIGHT - 70 - (layer + 1) * STEP + 10, closed = collapsed.has(layer);
    const label = `${closed ? "show" : "fold"} the heads of layer ${layer}`;
    const text = draw("text", { x: 12, y: top + STEP / 2 }, `${closed ? "▸" : "▾"} ${layer}`);
    const hit = draw("rect", { x: 2, y: top + STEP / 2 - 20, width: 46, height: 32, rx: 5 });
    const key = { class: "fold", "data-layer": layer, role: "button", tabindex: 0 };
    return [
      draw("rect", { class: layer % 2 ? "band odd" : "band", x: 50, y: top, width: WIDTH - 54, height: STEP - 6, rx: 8 }),
      draw("g", { ...key, "aria-label": label, "aria-pressed": String(closed) }, hit, text),
    ];
  });
}

function path(nodes, bundle) {
  const { from, to, kind, edges } = bundle;
  const marks = edges.every(harmful) ? " harmful" : "";
  const score = (edge) => `${edgeName(edge)}  ${spell(DATA.edges.score[edge])}`;
  const names = edges.slice(0, 8).map(score).join(", ");
  return draw(
    "path",
    {
      class: `edge ${kind}${marks}`,
      d: curve(nodes.get(from), kind, nodes.get(to)),
      "stroke-width": (0.7 + 4.8 * bundle.share).toFixed(2),
      "data-from": from,
      "data-to": to,
    },
    draw("title", {}, edges.length > 8 ? `${edges.length} edges` : names),
  );
}

function ports(nodes, drawn) {
  const seen = new Map();
  for (const { kind, to } of drawn) seen.set(`${kind} ${to}`, [kind, to]);
  return [...seen.values()].map(([kind, to]) => {
    const { x, y } = port(nodes.get(to), kind);
    return draw("circle", { class: `port ${kind}`, cx: x, cy: y, r: 3.2, "data-to": to });
  });
}

function box(node, used, drawn) {
  const { id, x, y, w, h } = node, kept = used.has(id);
  const into = drawn.filter((b) => b.to === id).length;
  const out = drawn.filter((b) => b.from === id).length;
  const about = `${title(id)}: ${into} edges in, ${out} out`;
  const rect = { x: x - w, y: y - h, width: 2 * w, height: 2 * h, rx: node.kind === "head" ? 5 : Math.min(13, h) };
  return draw(
    "g",
    {
      class: `node ${node.kind}${kept ? "" : " cut"}`,
      "data-node": id,
      role: "button",
      tabindex: kept ? 0 : -1,
      "aria-label": kept ? about : `${title(id)}: not in the circuit`,
    },
    draw("rect", rect),
    draw("text", { x, y: y + 4 }, node.label),
  );
}

/** Nodes whose in-edges a node reads: itself and, for a head, its group's keys and values. */
function readersOf(id) {
  const head = GROUPED && /^a(\d+)\.h(\d+)$/.exec(id ?? "");
  const group = head && Math.floor((Number(head[2]) * GRAPH.n_kv_readers) / GRAPH.n_heads);
  return head ? [id, `a${head[1]}.kv${group}`] : [id];
}

/** A node's name in words. */
function title(id) {
  const head = /^a(\d+)\.(h|kv)(\d+)$/.exec(id), folded = /^a(\d+)$/.exec(id);
  if (head) return `${head[2] === "h" ? "head" : "keys and values of group"} ${head[3]} of layer ${head[1]}`;
  if (folded) return `all heads of layer ${folded[1]}`;
  return /^m\d+$/.test(id) ? `MLP of layer ${id.slice(1)}` : id;
}
