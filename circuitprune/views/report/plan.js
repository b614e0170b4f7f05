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
const CELLS = { least: 58, tagged: 96, all: 46, fits: 40, most: 116 };
/** A column's width: at least, of boxes of two lines, of all boxes, of many spans, at most. */

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
  const names = SPANS.map((span) => span.name).filter((name) => standsAt(used, name)),
    spans = names.length ? names : [""],
    inner = room - LEFT - RIGHT;
  const wanted = (id) => (all || used.has(id)) && !hidden.has(id);
  const tagged = tags.size > 0 && (!SPANS.length || inner >= spans.length * CELLS.tagged);
  const space = tight ? TIGHT : LOOSE,
    half = tagged ? space.tagged : space.half;
  const least = tagged ? CELLS.tagged : all ? CELLS.all : CELLS.least;
  const most = Math.max(SPANS.length ? spans.length : 3, Math.floor(inner / least));
  const found = spans.map((span) => needOf(span, wanted, collapsed)),
    zones = zonesOf(found, most),
    rows = layerRows(zones, wanted, collapsed);
  fitZones(zones, rows, all);
  const columns = zones.reduce((n, zone) => n + zone.n, 0),
    cell = Math.min(spread ? room : CELLS.most, Math.max(CELLS.fits, inner / columns));
  const column = arranged(rows, zones, all ? [] : links);
  const width = LEFT + columns * cell + RIGHT,
    headed = SPANS.length > 0 && rows.length * 2 * half > AXIS.long / 2;
  const height = stack(rows, half, space, SPANS.length ? AXIS.foot : 0, headed ? AXIS.head : 0);
  const size = { width, height, cell, columns };
  /** @type {Plan} */
  const plan = { ...size, nodes: new Map(), rows, bands: [], gaps: [], zones, tagged, headed };
  const wide = Math.min(cell / 2 - (all || cell < CELLS.least ? 4 : 10), tagged ? 44 : 25);
  for (const [at, row] of rows.entries()) boxesOf(plan, row, at, column, { wide, half, wanted });
  plan.bands = bandsOf(rows, width);
  plan.gaps = gapsOf(rows);
  return plan;
}

const standsAt = (used, span) => [...used].some((id) => spanOf(id) === span);
/** A node at a span, which without spans is none. */
const named = (name, span) => (span ? `${name}@${span}` : name);

/** How many heads a layer has at a span at most, and whether there are MLPs. */
function needOf(name, wanted, collapsed) {
  const counts = LAYERS.map((layer) => blocksOf(layer, name, wanted, collapsed).flat().length);
  return {
    name,
    heads: Math.max(0, ...counts),
    mlp: LAYERS.some((layer) => wanted(named(`m${layer}`, name))),
  };
}

/** Rows from the input up: a layer's heads in one or more, its MLPs above them or, in parallel blocks, beside. */
function layerRows(zones, wanted, collapsed) {
  const ends = (name) => zones.map((zone) => named(name, zone.name)).filter(wanted);
  const beside = GRAPH.parallel && zones.every((zone) => zone.n > zone.heads);
  /** @type {Row[]} */
  const rows = [
    rowOf(
      -1,
      ends("input").map((id) => [id]),
    ),
  ];
  for (const layer of LAYERS) {
    const heads = zones.map((zone) =>
      chunks(blocksOf(layer, zone.name, wanted, collapsed), zone.heads),
    );
    const mlps = ends(`m${layer}`),
      n = Math.max(...heads.map((own) => own.length));
    for (let i = 0; i < n; i++)
      rows.push(
        rowOf(
          layer,
          heads.flatMap((own) => own[i] ?? []),
        ),
      );
    if (mlps.length && beside && n) rows[rows.length - 1].mlps = mlps;
    else if (mlps.length) rows.push(rowOf(layer, [], mlps));
  }
  rows.push(
    rowOf(
      GRAPH.n_layers,
      ends("logits").map((id) => [id]),
    ),
  );
  return rows;
}

/**
 * @param {number} layer
 * @param {string[][]} blocks
 * @param {string[]} mlps
 * @returns {Row}
 */
const rowOf = (layer, blocks, mlps = []) => ({
  layer,
  blocks,
  mlps,
  y: 0,
  top: 0,
  bottom: 0,
  taken: [],
});

/** The heads of a layer by group; a group stands for its heads where none of them is drawn. */
function blocksOf(layer, span, wanted, collapsed) {
  const folded = named(`a${layer}`, span);
  if (collapsed.has(layer)) return wanted(folded) ? [[folded]] : [];
  const heads = Array.from({ length: GRAPH.n_heads }, (_, head) =>
    named(`a${layer}.h${head}`, span),
  );
  if (!GROUPED) return heads.filter(wanted).map((id) => [id]);
  return Array.from({ length: GRAPH.n_kv_readers }, (_, group) => {
    const id = named(`a${layer}.kv${group}`, span),
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

/** Takes from zones the columns that no row needs. */
function fitZones(zones, rows, all) {
  let first = 0;
  for (const zone of zones) {
    const own = rows.map((row) => inZone(row, zone).flat().length),
      apart = zone.n - zone.heads;
    const heads = Math.max(zone.name || all ? 1 : 2, ...own);
    Object.assign(zone, zoneAt(zone.name, first, heads, apart));
    first += zone.n;
  }
}

/** Blocks of a row that stand in a zone. */
const inZone = (row, zone) => row.blocks.filter((block) => spanOf(block[0]) === zone.name);
const isEnd = (row) => row.layer < 0 || row.layer === GRAPH.n_layers;

/** For each head its column: near what it is joined with, or, without links, in the order of the model. */
function arranged(rows, zones, links) {
  /** @type {Map<string, number>} */
  const column = new Map();
  for (const zone of zones)
    for (const row of rows) {
      const own = inZone(row, zone).flat();
      let at = isEnd(row) ? zone.middle : zone.first + Math.floor((zone.heads - own.length) / 2);
      for (const id of own) column.set(id, at++);
    }
  if (!links.length) return column;
  for (const row of rows) for (const id of row.mlps) column.set(id, zoneOf(zones, id).mlp);
  const near = neighbours(links),
    heads = rows.filter((row) => row.blocks.length && !isEnd(row));
  for (let sweep = 0; sweep < 8; sweep++)
    for (const row of sweep % 2 ? [...heads].reverse() : heads)
      for (const zone of zones) settle(inZone(row, zone), near, column, zone);
  return column;
}

const zoneOf = (zones, id) => zones.find((zone) => zone.name === spanOf(id));

/** By node what it is joined with, and how strongly; a group's links are its heads', too. */
function neighbours(links) {
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
  return near;
}

/** Heads of a group of shared keys and values. */
const headsOf = (group) => (MEMBERS.get(baseOf(group)) ?? []).map((head) => beside(head, group));
/** @type {Map<string, string[]>} */
const MEMBERS = new Map();
for (const name of GRAPH.writers) {
  const group = groupOf(name) ?? "";
  MEMBERS.set(group, [...(MEMBERS.get(group) ?? []), name]);
}

/** Puts the blocks of a row where their neighbours are on average, none over another. */
function settle(blocks, near, column, zone) {
  const firstOf = (id) => (id.includes(".kv") ? headsOf(id).find((h) => column.has(h)) : id);
  const placeOf = (id) => column.get(id) ?? column.get(firstOf(id));
  const wish = (id) => {
    const known = (near.get(id) ?? []).map(([other, w]) => [placeOf(other), w]);
    const found = known.filter(([at]) => at !== undefined),
      sum = found.reduce((s, [, w]) => s + w, 0);
    return sum ? found.reduce((s, [at, w]) => s + at * w, 0) / sum : column.get(id);
  };
  const wishes = blocks.map((block) => {
    const middle = block.reduce((s, id) => s + wish(id), 0) / block.length;
    return { block, at: middle - (block.length - 1) / 2 };
  });
  wishes.sort((a, b) => a.at - b.at);
  let room = zone.heads - blocks.flat().length,
    at = zone.first;
  for (const { block, at: wished } of wishes) {
    const skip = Math.max(0, Math.min(room, Math.round(wished) - at));
    at += skip;
    room -= skip;
    for (const id of block) column.set(id, at++);
  }
}

// ---------------------------------------------------------------- heights

/** Gives each row its height over a foot and under a head, and says how high all are together. */
function stack(rows, half, { corridor, narrow, gap }, foot, head) {
  let up = ENDS / 2 + foot,
    last = -1;
  for (const row of rows) {
    const low = GROUPED && row.blocks.flat().some((id) => id.startsWith("a")) ? BAR + 6 : 0;
    if (row.layer - last > 1) up += gap;
    row.bottom = up;
    row.y = up + low + half;
    row.top = row.y + half;
    up =
      row.top +
      (row.layer === GRAPH.n_layers ? ENDS / 2 + head : row.blocks.length ? corridor : narrow);
    last = row.layer;
  }
  for (const row of rows) {
    for (const key of ["bottom", "y", "top"]) row[key] = up - row[key]; // downwards, as SVG counts
  }
  return up;
}

function boxesOf(plan, row, at, column, { wide, half, wanted }) {
  const xOf = (c) => LEFT + (c + 0.5) * plan.cell;
  const endWide = (id) => Math.min(46, (zoneOf(plan.zones, id).n * plan.cell) / 2 - 4);
  const add = (id, x, y, w, h, kind) => {
    plan.nodes.set(id, { id, x, y, w, h, kind, label: labelOf(id), layer: row.layer, row: at });
    row.taken.push([x - w - 3, x + w + 3]);
  };
  for (const block of row.blocks) {
    for (const id of block) {
      const kind = isEnd(row) ? baseOf(id) : "head";
      if (!id.includes(".kv"))
        add(id, xOf(column.get(id)), row.y, isEnd(row) ? endWide(id) : wide, half, kind);
    }
    const group = block[0].includes(".kv") ? block[0] : groupOf(block[0]);
    if (!group || !wanted(group) || plan.nodes.has(group)) continue;
    const [first, last] = [xOf(column.get(block[0])), xOf(column.get(block[block.length - 1]))];
    add(group, (first + last) / 2, row.y + half + BAR - 3, (last - first) / 2 + wide, 4, "kv");
  }
  for (const id of row.mlps) {
    const { mlp } = zoneOf(plan.zones, id);
    add(id, xOf(mlp), row.y, Math.min(wide + 3, plan.cell / 2 - 2), half, "mlp");
  }
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
