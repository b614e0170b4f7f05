// Where the boxes of a drawing stand: layers from bottom to top, heads in columns, MLPs in the last one.
// Columns go through all rows, so that edges find lanes between them.

const LEFT = 46,
  RIGHT = 12,
  BAR = 12,
  ENDS = 24;
/** Pixels: beside the columns, a bar of keys and values, above and below everything. */
const LOOSE = { half: 13, tagged: 20, corridor: 30, narrow: 16, gap: 20 };
const TIGHT = { half: 9, tagged: 17, corridor: 15, narrow: 9, gap: 13 };
/** Half a box, half a box of two lines, between rows, under a row of an MLP, where layers are left out. */
const CELLS = { least: 58, tagged: 96, all: 46, most: 116 };

/**
 * Places of boxes in a width of `room` pixels.
 * @param {object} what
 * @param {Set<string>} what.used nodes of the circuit
 * @param {boolean} what.all whether those that it cuts are drawn, too
 * @param {Set<string>} what.hidden nodes left out
 * @param {Set<number>} what.collapsed layers whose heads are one box
 * @param {Map<string, string>} what.tags second lines of boxes
 * @param {{ from: string, to: string, share: number }[]} what.links
 * @param {boolean} what.tight
 * @param {number} what.room
 * @param {boolean} what.spread whether columns take all of it
 * @returns {Plan}
 */
function planOf({ used, all, hidden, collapsed, tags, links, tight, room, spread }) {
  const wanted = (id) => (all || used.has(id)) && !hidden.has(id);
  const space = tight ? TIGHT : LOOSE,
    half = tags.size ? space.tagged : space.half;
  const least = tags.size ? CELLS.tagged : all ? CELLS.all : CELLS.least;
  const most = Math.max(2, Math.floor((room - LEFT - RIGHT) / least) - 1); // one is the MLPs'
  const rows = layerRows(wanted, collapsed, most);
  const hasMlp = rows.some((row) => row.mlp);
  const columns = Math.max(
    all ? 1 : 2,
    ...rows.map((row) => row.blocks.reduce((n, block) => n + block.length, 0)),
  );
  const cell = Math.min(
    spread ? room : CELLS.most,
    (room - LEFT - RIGHT) / (columns + Number(hasMlp)),
  );
  const column = arranged(rows, columns, all ? [] : links);
  const width = LEFT + (columns + Number(hasMlp)) * cell + RIGHT;
  const height = stack(rows, half, space);
  /** @type {Plan} */
  const plan = { width, height, cell, columns, nodes: new Map(), rows, bands: [], gaps: [] };
  const wide = Math.min(cell / 2 - (all ? 4 : 10), tags.size ? 44 : 25);
  for (const [at, row] of rows.entries()) boxesOf(plan, row, at, column, { wide, half, wanted });
  plan.bands = bandsOf(rows, width);
  plan.gaps = gapsOf(rows);
  return plan;
}

/** Rows from the input up: a layer's heads in one or more, its MLP above them or, in parallel blocks, beside. */
function layerRows(wanted, collapsed, most) {
  /** @type {Row[]} */
  const rows = [rowOf(-1, [["input"]])];
  for (const layer of LAYERS) {
    const heads = chunks(blocksOf(layer, wanted, collapsed), most);
    const mlp = wanted(`m${layer}`) ? `m${layer}` : null;
    rows.push(...heads.map((blocks) => rowOf(layer, blocks)));
    if (mlp && GRAPH.parallel && heads.length) rows[rows.length - 1].mlp = mlp;
    else if (mlp) rows.push(rowOf(layer, [], mlp));
  }
  rows.push(rowOf(GRAPH.n_layers, [["logits"]]));
  return rows;
}

/**
 * @param {number} layer
 * @param {string[][]} blocks
 * @param {string | null} mlp
 * @returns {Row}
 */
const rowOf = (layer, blocks, mlp = null) => ({
  layer,
  blocks,
  mlp,
  y: 0,
  top: 0,
  bottom: 0,
  taken: [],
});

/** The heads of a layer by group; a group stands for its heads where none of them is drawn. */
function blocksOf(layer, wanted, collapsed) {
  if (collapsed.has(layer)) return wanted(`a${layer}`) ? [[`a${layer}`]] : [];
  const heads = Array.from({ length: GRAPH.n_heads }, (_, head) => `a${layer}.h${head}`);
  if (!GROUPED) return heads.filter(wanted).map((id) => [id]);
  return Array.from({ length: GRAPH.n_kv_readers }, (_, group) => {
    const id = `a${layer}.kv${group}`,
      own = heads.filter((head) => groupOf(head) === id && wanted(head));
    return own.length ? own : wanted(id) ? [id] : [];
  }).filter((block) => block.length);
}

/** Blocks over as many rows as they need, about as many boxes in each. */
function chunks(blocks, most) {
  const n = blocks.flat().length,
    each = Math.max(1, Math.ceil(n / Math.max(1, Math.ceil(n / most))));
  /** @type {string[][][]} */
  const rows = [];
  let left = 0;
  for (const block of blocks.flatMap((b) => split(b, most))) {
    if (left < block.length) {
      rows.push([]);
      left = Math.max(each, block.length);
    }
    rows[rows.length - 1].push(block);
    left -= block.length;
  }
  return rows;
}

const split = (block, most) =>
  Array.from({ length: Math.ceil(block.length / most) }, (_, i) =>
    block.slice(i * most, (i + 1) * most),
  );

// ---------------------------------------------------------------- columns

/** For each head its column: near what it is joined with, or, without links, in the order of the model. */
function arranged(rows, columns, links) {
  /** @type {Map<string, number>} */
  const column = new Map();
  const heads = rows.filter((row) => row.blocks.length);
  for (const row of heads) {
    let at = (columns - row.blocks.flat().length) / 2;
    if (row.layer >= 0 && row.layer < GRAPH.n_layers) at = Math.floor(at);
    for (const id of row.blocks.flat()) column.set(id, at++);
  }
  if (!links.length) return column;
  const near = neighbours(links, columns);
  for (let sweep = 0; sweep < 8; sweep++)
    for (const row of sweep % 2 ? [...heads].reverse() : heads)
      if (row.layer >= 0 && row.layer < GRAPH.n_layers) settle(row, near, column, columns);
  return column;
}

/** By node what it is joined with, and how strongly; a group's links are its heads', too. */
function neighbours(links, columns) {
  const near = new Map();
  const add = (id, other, weight) => {
    for (const own of id.includes(".kv") ? [id, ...headsOf(id)] : [id])
      near
        .set(own, near.get(own) ?? [])
        .get(own)
        .push([other, weight]);
  };
  for (const { from, to, share } of links) {
    add(from, to, 0.3 + share);
    add(to, from, 0.3 + share);
  }
  return { near, columns };
}

/** Heads of a group of shared keys and values. */
const headsOf = (group) => MEMBERS.get(group) ?? [];
/** @type {Map<string, string[]>} */
const MEMBERS = new Map();
for (const name of GRAPH.writers) {
  const group = groupOf(name) ?? "";
  MEMBERS.set(group, [...(MEMBERS.get(group) ?? []), name]);
}

/** Puts the blocks of a row where their neighbours are on average, none over another. */
function settle(row, { near, columns }, column, most) {
  const placeOf = (id) => (/^m\d/.test(id) ? columns : (column.get(id) ?? column.get(firstOf(id))));
  const firstOf = (id) => (id.includes(".kv") ? headsOf(id).find((h) => column.has(h)) : id);
  const wish = (id) => {
    const known = (near.get(id) ?? []).map(([other, w]) => [placeOf(other), w]);
    const found = known.filter(([at]) => at !== undefined),
      sum = found.reduce((s, [, w]) => s + w, 0);
    return sum ? found.reduce((s, [at, w]) => s + at * w, 0) / sum : column.get(id);
  };
  const wishes = row.blocks.map((block) => {
    const middle = block.reduce((s, id) => s + wish(id), 0) / block.length;
    return { block, at: middle - (block.length - 1) / 2 };
  });
  wishes.sort((a, b) => a.at - b.at);
  let room = most - row.blocks.flat().length,
    at = 0;
  for (const { block, at: wished } of wishes) {
    const skip = Math.max(0, Math.min(room, Math.round(wished) - at));
    at += skip;
    room -= skip;
    for (const id of block) column.set(id, at++);
  }
  row.blocks = wishes.map(({ block }) => block);
}

// ---------------------------------------------------------------- heights

/** Gives each row its height, and says how high all are together. */
function stack(rows, half, { corridor, narrow, gap }) {
  let up = ENDS / 2,
    last = -1;
  for (const row of rows) {
    const low = GROUPED && row.blocks.flat().some((id) => id.startsWith("a")) ? BAR + 6 : 0;
    if (row.layer - last > 1) up += gap;
    row.bottom = up;
    row.y = up + low + half;
    row.top = row.y + half;
    up =
      row.top + (row.layer === GRAPH.n_layers ? ENDS / 2 : row.blocks.length ? corridor : narrow);
    last = row.layer;
  }
  for (const row of rows) {
    for (const key of ["bottom", "y", "top"]) row[key] = up - row[key]; // downwards, as SVG counts
  }
  return up;
}

function boxesOf(plan, row, at, column, { wide, half, wanted }) {
  const xOf = (c) => LEFT + (c + 0.5) * plan.cell;
  const add = (id, x, y, w, h, kind) => {
    plan.nodes.set(id, { id, x, y, w, h, kind, label: labelOf(id), layer: row.layer, row: at });
    row.taken.push([x - w - 3, x + w + 3]);
  };
  for (const block of row.blocks) {
    for (const id of block) {
      const end = id === "input" || id === "logits";
      if (!id.includes(".kv"))
        add(id, xOf(column.get(id)), row.y, end ? 46 : wide, half, end ? id : "head");
    }
    const group = block[0].includes(".kv") ? block[0] : groupOf(block[0]);
    if (!group || !wanted(group) || plan.nodes.has(group)) continue;
    const [first, last] = [xOf(column.get(block[0])), xOf(column.get(block[block.length - 1]))];
    add(group, (first + last) / 2, row.y + half + BAR - 3, (last - first) / 2 + wide, 4, "kv");
  }
  if (row.mlp)
    add(row.mlp, xOf(plan.columns), row.y, Math.min(wide + 3, plan.cell / 2 - 2), half, "mlp");
}

/** A shaded strip for each layer that has boxes. */
function bandsOf(rows, width) {
  const found = [];
  for (const layer of LAYERS) {
    const own = rows.filter((row) => row.layer === layer);
    if (!own.length) continue;
    const top = Math.min(...own.map((row) => row.top)) - 7,
      bottom = Math.max(...own.map((row) => row.bottom)) + 7;
    const place = { x: 38, y: top, width: width - 42, height: bottom - top, rx: 8 };
    found.push({ layer, middle: own[0].y, ...place, opacity: found.length % 2 ? 0.45 : 1 });
  }
  return found;
}

/** Where layers are left out, with their numbers. */
function gapsOf(rows) {
  return rows.slice(1).flatMap((row, i) => {
    const [first, last] = [rows[i].layer + 1, row.layer - 1];
    const y = (rows[i].top + row.bottom) / 2;
    return last < first ? [] : [{ y, first, last }];
  });
}

/** Where edges of a kind enter a node: q, k, v from left to right. */
function port(node, kind) {
  const apart = { q: -1, k: 0, v: 1 }[kind] ?? 0;
  const step = node.kind === "kv" ? Math.min(node.w * 0.5, 14) : Math.min(node.w * 0.55, 13);
  const shift = node.kind === "kv" ? (kind === "k" ? -0.5 : 0.5) : apart;
  return { x: node.x + shift * step, y: node.y + node.h };
}
