// A drawing of a circuit: its boxes and edges as elements or painted, lit, and what of it is seen.

const LOOKS = {
  usual: { dash: [] },
  harmful: { dash: [5, 4] },
  own: { dash: [1.5, 3] },
  a: { style: "--only-a", dash: [9, 4] },
  b: { style: "--only-b", dash: [2, 3.5] },
  both: { style: "--both", dash: [] },
};
/** How curves are told apart beyond what they lead to; a style is a colour's name. */
const CLOSEST = 16,
  STRIDE = 0.15,
  REACH = 7,
  SMALLEST = 11;
/** Enlargement at most, share moved by a key, pixels from an edge that count as on it, of letters at least. */
/** @type {Set<any>} */
const NONE = new Set();

class Picture {
  /**
   * Draws into `svg`; `hooks` are `point(id or null, event)`, `pick(id)`, `edge(curve)`, `fold(layer)`
   * and `moved()`. With `fit`, a function, it is as large as fits that width and height in pixels.
   * @param {any} svg
   * @param {any} hooks
   * @param {(() => { width: number, height: number }) | null} fit
   */
  constructor(svg, hooks, fit = null) {
    this.svg = svg;
    this.hooks = hooks;
    this.fit = fit;
    this.replacing = false;
    this.dragged = false;
    /** @type {Map<number, { x: number, y: number }>} */
    this.fingers = new Map();
    /** @type {Curve[]} */
    this.curves = [];
    /** @type {any} */
    this.what = null;
    this.room = 0;
    /** @type {any[] | null} */
    this.forms = null;
    /** @type {Plan} */
    this.plan = {
      width: 1,
      height: 1,
      cell: 1,
      columns: 0,
      nodes: new Map(),
      rows: [],
      bands: [],
      gaps: [],
      zones: [],
      tagged: false,
      headed: false,
    };
    this.view = this.whole();
    /** @type {Map<string, { into: Curve[], out: Curve[] }>} */
    this.touching = new Map();
    const canvas = make("canvas", { "aria-hidden": "true" });
    svg.before(canvas, ...(fit ? [] : [this.buttons()]));
    svg.parentNode.classList.toggle("spanned", SPANS.length > 0); // the buttons give way to the axis
    this.paint = new Paint(canvas);
    listenTo(this);
    new ResizeObserver(() => this.resized()).observe(svg.parentNode.parentNode);
    for (const media of ["(prefers-color-scheme: dark)", "print"])
      matchMedia(media).addEventListener("change", () => this.paint.paint(this.view));
  }

  /** What is seen when all is seen. */
  whole() {
    return { x: this.plan.width / 2, y: this.plan.height / 2, k: 1 };
  }

  /**
   * Draws curves between nodes.
   * @param {object} what
   * @param {Curve[]} what.curves
   * @param {Set<string>} what.used names of the nodes in the circuit
   * @param {boolean} [what.all] whether the boxes of all others are drawn, too
   * @param {Set<string>} [what.hidden] names of the nodes left out
   * @param {Set<number>} [what.collapsed] layers whose heads are one box
   * @param {Map<string, string>} [what.tags] second lines of boxes
   * @param {boolean} [what.tight] whether boxes stand close
   * @param {(id: string) => string} [what.mark] class of a node's box
   */
  show(what) {
    const before = this.plan;
    this.lay(what);
    this.put(before);
  }

  /** Shows the first of several forms whose letters can be read where all of it has to fit. */
  showFirst(forms) {
    const before = this.plan;
    this.forms = forms;
    if (!forms.some((form) => this.lay(form))) {
      const { width, height } = this.fit?.() ?? this.plan; // letters are too small: use all the width
      this.lay({ ...forms[forms.length - 1], room: (width * this.plan.height) / height });
    }
    this.put(before);
  }

  /** Finds places for all of it without drawing anything, and says whether its letters can be read. */
  lay(what) {
    this.what = {
      all: false,
      hidden: NONE,
      collapsed: NONE,
      tags: new Map(),
      tight: false,
      mark: () => "",
      ...what,
    };
    this.curves = this.what.curves;
    this.room = this.roomNow();
    this.plan = planOf({
      ...this.what,
      links: this.isPainted() ? [] : this.curves,
      room: this.what.room ?? this.room,
      spread: this.what.room > 0,
    });
    return 12 * this.scaleNow() >= SMALLEST;
  }

  /** Whether there are too many curves for elements. */
  isPainted() {
    return this.curves.length > MOST_ELEMENTS;
  }

  /** Draws what was laid, with the view of what was seen `before`. */
  put(before) {
    const { curves, plan } = this,
      many = this.isPainted();
    route(plan, curves, !many);
    this.touching = new Map([...plan.nodes.keys()].map((id) => [id, { into: [], out: [] }]));
    for (const curve of curves) {
      this.edgesAt(curve.from).out.push(curve);
      this.edgesAt(curve.to).into.push(curve);
    }
    this.resize();
    this.fill(many);
    const { x, y, k } = this.view;
    const rate = { x: plan.width / before.width, y: plan.height / before.height };
    this.look(k > 1 ? { x: x * rate.x, y: y * rate.y, k } : this.whole());
    this.paint.show(many ? curves.map((curve) => this.stroke(curve)) : [], plan, this.view);
  }

  fill(many) {
    const { used, collapsed, mark } = this.what,
      { bands, gaps, nodes } = this.plan;
    this.svg.setAttribute("class", many ? "painted" : "");
    this.replacing = true; // the focused node says that it loses the focus as it goes
    this.svg.replaceChildren(
      draw(
        "g",
        { class: "layers" },
        bands.flatMap((band) => this.layer(band, collapsed.has(band.layer))),
        gaps.map((gap) => this.gap(gap)),
        axisOf(this.plan),
      ),
      draw("g", { class: "edges" }, many ? [] : this.curves.map((curve) => this.path(curve))),
      draw("g", { class: "ports" }, this.ports()),
      draw(
        "g",
        { class: "nodes" },
        [...nodes.values()].map((node) => this.box(node, used.has(node.id), mark(node.id))),
      ),
    );
    this.replacing = false;
  }

  /** Edges of the one box that is drawn for `id`; a node that is not drawn has none. */
  edgesAt(id) {
    return this.touching.get(id) ?? { into: [], out: [] };
  }

  /** Edges into and out of a node; the shared keys and values of its group are its own, too. */
  edgesOf(id) {
    const into = readersOf(id).flatMap((own) => this.edgesAt(own).into);
    return { into, out: this.edgesAt(id).out };
  }

  /**
   * Lights the edges of nodes, and some lines by themselves, and dims the rest.
   * @param {string[]} ids
   * @param {Curve[]} lines
   */
  light(ids, lines = []) {
    const near = new Set(ids),
      lit = new Set();
    for (const id of ids) {
      const { into, out } = this.edgesOf(id);
      for (const curve of [...into, ...out]) lit.add(curve);
    }
    for (const line of lines) lit.add(line);
    for (const curve of lit) near.add(curve.from).add(curve.to);
    this.svg.parentNode.classList.toggle("focused", ids.length > 0 || lines.length > 0);
    const group = this.svg.querySelector(".edges");
    if (this.svg.classList.contains("painted")) {
      const order = [...lit].sort((a, b) => a.share - b.share).slice(-MOST_ELEMENTS);
      group.replaceChildren(...order.map((curve) => this.path(curve, "on")));
    } else {
      for (const [i, curve] of this.curves.entries())
        group.children[i].classList.toggle("on", lit.has(curve));
    }
    const own = new Set(ids.flatMap(readersOf));
    for (const head of this.svg.querySelectorAll(".port"))
      head.classList.toggle("on", near.has(head.dataset.to) || own.has(head.dataset.to));
    for (const node of this.svg.querySelectorAll(".node"))
      node.classList.toggle("on", near.has(node.dataset.node));
  }

  has(id) {
    return id !== null && this.boxOf(id) !== null;
  }

  boxOf(id) {
    return this.svg.querySelector(`[data-node="${CSS.escape(id)}"]`);
  }

  /** The edge at a place, if one is near enough; of several the one drawn on top. */
  curveNear(x, y) {
    const reach = (REACH * this.plan.width) / this.view.k / (this.svg.clientWidth || 1);
    let best = null,
      least = reach;
    for (const curve of this.curves) {
      const { points } = curve,
        [from, to] = [points[1], points[points.length - 1]];
      if (y > from + reach || y < to - reach) continue;
      const far = distance(points, x, y);
      if (far <= least) [best, least] = [curve, far];
    }
    return best;
  }

  // -------------------------------------------------------------- what is drawn

  stroke(curve) {
    const { width, opacity } = ink(curve, this.curves.length),
      { style, dash } = LOOKS[curve.look];
    return { points: curve.points, width, opacity, dash, style: style ?? `--${curve.kind}` };
  }

  path(curve, more = "") {
    const { points, width, opacity, dash } = this.stroke(curve),
      { from, to, kind, look, edges } = curve;
    const about =
      edges.length > 8
        ? counted(edges.length, "edge")
        : edges.map((edge) => curve.name(edge)).join(", ");
    const looks = {
      class: `edge ${kind} ${look} ${more}`,
      d: pathOf(points),
      "data-from": from,
      "data-to": to,
      "stroke-width": width.toFixed(2),
      "stroke-opacity": (more ? 0.95 : opacity).toFixed(3),
      "stroke-dasharray": dash.join(" ") || null,
    };
    return draw("path", looks, draw("title", {}, about));
  }

  /** The heads of arrows, one for all edges into a port. */
  ports() {
    const seen = new Map(this.curves.map(({ kind, to }) => [`${kind} ${to}`, [kind, to]]));
    return [...seen.values()].map(([kind, to]) => {
      const points = arrow(this.plan.nodes.get(to), kind).map((corner) => corner.join(","));
      return draw("polygon", { class: `port ${kind}`, points: points.join(" "), "data-to": to });
    });
  }

  layer({ layer, middle, opacity, ...place }, closed) {
    const back = draw("rect", { class: "band", opacity, ...place });
    if (!this.hooks.fold)
      return [back, draw("text", { class: "number", x: 20, y: middle + 4 }, String(layer))];
    const label = `${closed ? "show" : "fold"} the heads of layer ${layer}`;
    const key = {
      class: "fold",
      "data-layer": layer,
      role: "button",
      tabindex: 0,
      "aria-label": label,
      "aria-pressed": String(closed),
    };
    const hit = draw("rect", { x: 1, y: middle - 16, width: 35, height: 32, rx: 5 });
    const mark = `${closed ? "▸" : "▾"}${layer}`;
    return [back, draw("g", key, hit, draw("text", { x: 6, y: middle + 4 }, mark))];
  }

  /** A line where layers are left out, with their numbers. */
  gap({ y, first, last }) {
    const x = this.plan.width - 8,
      which = last > first ? `${first}–${last}` : `${first}`;
    return draw(
      "g",
      { class: "gap", "data-gap": which },
      draw("title", {}, `The circuit keeps nothing of layer${last > first ? "s" : ""} ${which}`),
      draw("path", { d: `M40 ${y.toFixed(1)}H${x}` }),
      draw("text", { x: 20, y: y + 4 }, which),
    );
  }

  box({ id, x, y, w, h, kind, label }, used, mark) {
    const { into, out } = this.edgesAt(id),
      said = this.what.tags.get(id),
      tag = this.plan.tagged ? said : "";
    const about = used
      ? `${title(id)}${said ? ` (${said})` : ""}: ${counted(countOf(into), "edge")} in, ${spell(countOf(out))} out`
      : `${title(id)}: not in the circuit`;
    const key =
      used && !this.fit
        ? { role: "button", tabindex: 0, "aria-pressed": "false" }
        : { role: "img", tabindex: -1 };
    const size = { x: x - w, y: y - h, width: 2 * w, height: 2 * h };
    const most = Math.floor((2 * w - 6) / 5.9);
    return draw(
      "g",
      {
        class: `node ${kind} ${used ? mark : "cut"}`,
        "data-node": id,
        ...key,
        "aria-label": about,
      },
      draw("title", {}, about),
      draw("rect", { ...size, rx: kind === "head" ? 5 : Math.min(13, h) }),
      label && draw("text", { x, y: tag ? y - 3 : y + 4 }, label),
      tag ? draw("text", { class: "tag", x, y: y + 12 }, clipped(tag, most)) : "",
    );
  }

  // -------------------------------------------------------------- size

  /** Pixels that there are for the drawing's width. */
  roomNow() {
    const room = this.fit ? this.fit().width : this.svg.parentNode.parentNode.clientWidth - 2;
    return Math.max(300, Math.round(room || 1000));
  }

  /** How much smaller than planned it is drawn so that its width, or all of it, fits. */
  scaleNow() {
    const { width, height } = this.plan,
      most = this.fit?.();
    return most
      ? Math.min(1.25, most.width / width, most.height / height)
      : Math.min(1, this.roomNow() / width);
  }

  resize() {
    const { width, height } = this.plan,
      scale = this.scaleNow();
    this.svg.style.width = `${Math.floor(width * scale)}px`;
    this.svg.style.aspectRatio = `${width} / ${height}`;
    this.svg.parentNode.style.width = "fit-content";
    this.svg.parentNode.classList.toggle("unlettered", 12 * scale < SMALLEST);
  }

  /** Lays out anew where the width has changed for good. */
  resized() {
    if (this.what && Math.abs(this.roomNow() - this.room) > 8 && !matchMedia("print").matches) {
      if (this.forms) this.showFirst(this.forms);
      else this.show(this.what);
      this.hooks.drawn?.();
    } else this.paint.follow(this.view);
  }

  // -------------------------------------------------------------- the view

  /** Shows what lies around (x, y), enlarged k times. */
  look({ x, y, k }) {
    const { width, height } = this.plan;
    const within = (at, size) => Math.min(size - size / 2 / k, Math.max(size / 2 / k, at));
    k = Math.min(CLOSEST, Math.max(1, k));
    this.view = { x: within(x, width), y: within(y, height), k };
    const left = corner(this.view.x, k, width),
      top = corner(this.view.y, k, height);
    this.svg.setAttribute(
      "viewBox",
      [left, top, width / k, height / k].map((v) => v.toFixed(2)).join(" "),
    );
    this.paint.follow(this.view);
  }

  go(view) {
    this.look(view);
    this.hooks.moved?.();
  }

  /** Enlarges by `factor`, leaving the place (x, y) of the drawing where it is. */
  zoom(factor, x = this.view.x, y = this.view.y) {
    const k = Math.min(CLOSEST, Math.max(1, this.view.k * factor)),
      rate = this.view.k / k;
    this.go({ x: x + (this.view.x - x) * rate, y: y + (this.view.y - y) * rate, k });
  }

  shift(dx, dy) {
    this.go({ ...this.view, x: this.view.x + dx, y: this.view.y + dy });
  }

  /** Where on the drawing a pointer is. */
  place({ clientX, clientY }) {
    const frame = this.svg.getBoundingClientRect(),
      { width, height } = this.plan,
      { x, y, k } = this.view;
    const at = (offset, size, length, middle) =>
      corner(middle, k, length) + ((offset / size) * length) / k;
    return [
      at(clientX - frame.left, frame.width, width, x),
      at(clientY - frame.top, frame.height, height, y),
    ];
  }

  buttons() {
    const button = (name, text, act) =>
      make("button", { type: "button", "aria-label": name, title: name, onclick: act }, text);
    return make(
      "div",
      { class: "zoom" },
      button("zoom in", "+", () => this.zoom(1.5)),
      button("zoom out", "−", () => this.zoom(1 / 1.5)),
      button("show the whole drawing", "fit", () => this.go(this.whole())),
    );
  }

  /** Goes from a node to the nearest of the circuit in a direction. */
  step(id, [dx, dy]) {
    const { nodes } = this.plan,
      here = nodes.get(id);
    if (!here) return;
    let next = null,
      least = Infinity;
    for (const box of this.svg.querySelectorAll(".node:not(.cut)")) {
      const there = nodes.get(box.dataset.node) ?? here,
        x = there.x - here.x,
        y = there.y - here.y;
      const ahead = x * dx + y * dy,
        aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (ahead < 1 || ahead + 2.5 * aside >= least) continue;
      least = ahead + 2.5 * aside;
      next = box;
    }
    next?.focus({ preventScroll: false });
  }

  /** Moves the view to a node that is outside of it. */
  reveal(id) {
    const node = this.plan.nodes.get(id),
      { width, height } = this.plan,
      { x, y, k } = this.view;
    if (!node || (Math.abs(node.x - x) < width / 2 / k && Math.abs(node.y - y) < height / 2 / k))
      return;
    this.go({ x: node.x, y: node.y, k });
  }
}
