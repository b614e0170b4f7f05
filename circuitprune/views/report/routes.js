// How edges run: straight up where nothing stands in the way, else along a lane between the boxes.

const TIP = 7;
/** Height of an arrow's head. */
const TRACK = 5,
  BOWS = [0, 34, -34, 70, -70];

/**
 * Gives each curve its points: a start, then three for each piece of a Bezier curve.
 * @param {Plan} plan
 * @param {Curve[]} curves the weakest first
 * @param {boolean} around whether to go around boxes; many edges are drawn as they come
 */
function route(plan, curves, around) {
  const lanes = around ? lanesOf(plan) : [];
  for (const curve of [...curves].reverse()) {
    const [from, to] = [plan.nodes.get(curve.from), plan.nodes.get(curve.to)];
    curve.points = around
      ? wayOf(plan, lanes, from, curve.kind, to)
      : bend(from, curve.kind, to, 0);
  }
}

/** From a writer's top to under a port. */
function endsOf(from, kind, to) {
  const side = { q: -4, v: 4 }[kind] ?? 0, // so that q, k and v edges of one pair are seen apart
    end = port(to, kind);
  return [from.x + side, from.y - from.h, end.x, end.y + TIP];
}

/** One piece, bowed to a side. */
function bend(from, kind, to, bow) {
  const [x, y, ex, ey] = endsOf(from, kind, to),
    pull = Math.max(12, (y - ey) * 0.45);
  return [x, y, x + bow, y - pull, ex + bow, ey + pull, ex, ey];
}

function wayOf(plan, lanes, from, kind, to) {
  const rows = plan.rows.slice(from.row + 1, to.row);
  if (rows.length <= 14) {
    for (const bow of BOWS) {
      const points = bend(from, kind, to, bow);
      if (isClear(points, rows, plan.width)) return points;
    }
  }
  return byLane(plan, lanes, from, kind, to);
}

/** Whether a curve touches no box of these rows, and stays within the drawing. */
function isClear(points, rows, width = Infinity) {
  const n = 12 + 6 * rows.length;
  for (let i = 0; i <= n; i++) {
    const [x, y] = pointAt(points, 0, i / n);
    if (x < 8 || x > width - 8) return false;
    for (const row of rows)
      if (y > row.top - 3 && y < row.bottom + 3 && row.taken.some(([a, b]) => x > a && x < b))
        return false;
  }
  return true;
}

/** A place on the piece of a curve that begins at `at`. */
function pointAt(points, at, t) {
  const [a, b, c, d] = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3];
  const of = (i) =>
    a * points[at + i] + b * points[at + i + 2] + c * points[at + i + 4] + d * points[at + i + 6];
  return [of(0), of(1)];
}

// ---------------------------------------------------------------- lanes

/** Upright lanes between columns and along them, and in which rows each is taken by a box. */
function lanesOf({ rows, cell, columns, width }) {
  const found = [LEFT - 2, width - RIGHT / 2].map((x) => laneAt(x, 8, rows));
  for (let half = 0; half <= 2 * columns + 2; half++) {
    const x = LEFT + (half * cell) / 2;
    if (x < width - RIGHT) found.push(laneAt(x, half % 2 ? cell * 0.7 : cell * 0.3, rows));
  }
  return found;
}

function laneAt(x, room, rows) {
  const before = [0];
  for (const row of rows)
    before.push(before[before.length - 1] + Number(row.taken.some(([a, b]) => x > a && x < b)));
  return { x, room, before, tracks: new Map() };
}

/** Along the free lane that costs the least way. */
function byLane(plan, lanes, from, kind, to) {
  const [x, y, ex, ey] = endsOf(from, kind, to),
    free = lanes.filter((lane) => lane.before[to.row] === lane.before[from.row + 1]);
  const cost = (lane) =>
    Math.abs(lane.x - x) + Math.abs(lane.x - ex) + 6 * crowd(lane, from.row, to.row);
  const lane = free.reduce((best, other) => (cost(other) < cost(best) ? other : best));
  const at = lane.x + track(lane, from.row, to.row, (x + ex) / 2);
  const up = upTo(plan, x, y, at, from.row + 1, to.row),
    down = downFrom(plan, at, ex, ey, to.row - 1, up.row);
  const [low, high] = [up.y, Math.min(up.y, down.y)];
  const first = [x, y, x, (y + low) / 2, at, (y + low) / 2, at, low];
  const middle = [at, low, at, high, at, high];
  return [...first, ...middle, at, (high + ey) / 2, ex, (high + ey) / 2, ex, ey];
}

const overlaps = ([a, b], from, to) => a < to && from < b;
const crowd = (lane, from, to) =>
  [...lane.tracks.values()].flat().filter((span) => overlaps(span, from, to)).length;

/** A track of the lane that no other edge has between these rows, the nearest to `wish`. */
function track(lane, from, to, wish) {
  const n = Math.max(0, Math.floor(lane.room / 2 / TRACK)),
    side = Math.sign(wish - lane.x) || 1;
  const offsets = [0];
  for (let i = 1; i <= n; i++) offsets.push(side * i * TRACK, -side * i * TRACK);
  const taken = (offset) =>
    (lane.tracks.get(offset) ?? []).filter((span) => overlaps(span, from, to)).length;
  const best = offsets.reduce((a, b) => (taken(b) < taken(a) ? b : a));
  lane.tracks.set(best, [...(lane.tracks.get(best) ?? []), [from, to]]);
  return best;
}

/** Up to which row an edge may take to reach its lane without touching a box. */
function upTo(plan, x, y, at, first, last) {
  let row = first;
  const free = (r) => {
    const low = plan.rows[r].bottom + 3,
      mid = (y + low) / 2;
    return isClear([x, y, x, mid, at, mid, at, low], plan.rows.slice(first, r));
  };
  while (row + 1 < last && row - first < 3 && free(row + 1)) row++;
  return { row, y: plan.rows[row].bottom + 3 };
}

/** From which row down it may begin to leave its lane. */
function downFrom(plan, at, ex, ey, first, lowest) {
  let row = first;
  const free = (r) => {
    const high = plan.rows[r].top - 3,
      mid = (high + ey) / 2;
    return isClear([at, high, at, mid, ex, mid, ex, ey], plan.rows.slice(r + 1, first + 1));
  };
  while (row - 1 >= lowest && first - row < 3 && free(row - 1)) row--;
  return { row, y: plan.rows[row].top - 3 };
}

// ---------------------------------------------------------------- what is done with points

/** Points as a path's `d`. */
function pathOf(points) {
  const text = points.map((p) => Number(p.toFixed(1)));
  let d = `M${text[0]} ${text[1]}`;
  for (let i = 2; i < text.length; i += 6) d += `C${text.slice(i, i + 6).join(" ")}`;
  return d;
}

/** How far a place is from a curve. */
function distance(points, x, y) {
  let least = Infinity;
  for (let at = 0; at + 7 < points.length; at += 6)
    for (let i = 0; i <= 12; i++) {
      const [px, py] = pointAt(points, at, i / 12),
        [qx, qy] = pointAt(points, at, Math.min(1, (i + 1) / 12));
      least = Math.min(least, toSegment(x, y, px, py, qx, qy));
    }
  return least;
}

function toSegment(x, y, ax, ay, bx, by) {
  const [dx, dy] = [bx - ax, by - ay],
    t = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - ax - t * dx, y - ay - t * dy);
}

/** The head of an arrow into a port: three corners. */
function arrow(node, kind) {
  const { x, y } = port(node, kind);
  return [
    [x - 4, y + TIP],
    [x, y],
    [x + 4, y + TIP],
  ];
}
