// A drawing that can be looked at: moved, zoomed, walked through by keys, its nodes lit and picked.

const LOOKS = {
  usual: { dash: [] },
  harmful: { dash: [5, 4] },
  a: { style: "--only-a", dash: [9, 4] },
  b: { style: "--only-b", dash: [2, 3.5] },
  both: { style: "--both", dash: [] },
};
/** How curves are told apart beyond what they lead to; a style is a colour's name. */
const CLOSEST = 16,
  STRIDE = 0.15,
  LARGEST = 1.2;
const WHOLE = Object.freeze({ x: WIDTH / 2, y: HEIGHT / 2, k: 1 });

class Picture {
  /** Draws into `svg`; `hooks` are `point(id or null, event)`, `pick(id)`, `fold(layer)` and `moved()`. */
  constructor(svg, hooks) {
    this.svg = svg;
    this.hooks = hooks;
    this.view = { ...WHOLE };
    this.replacing = false;
    this.dragged = false;
    /** @type {{ x: number, y: number } | null} */
    this.drag = null;
    /** @type {Curve[]} */
    this.curves = [];
    this.nodes = layout(new Set());
    /** @type {Map<string, { into: Curve[], out: Curve[] }>} */
    this.touching = new Map();
    const canvas = make("canvas", { "aria-hidden": "true" });
    svg.before(canvas, this.buttons());
    svg.parentNode.style.maxWidth = `${LARGEST * WIDTH}px`;
    this.paint = new Paint(canvas);
    this.listen();
    new ResizeObserver(() => this.paint.follow(this.view)).observe(svg);
    for (const media of ["(prefers-color-scheme: dark)", "print"])
      matchMedia(media).addEventListener("change", () => this.paint.paint(this.view));
  }

  /**
   * Draws curves between nodes.
   * @param {object} what
   * @param {Curve[]} what.curves
   * @param {Set<string>} what.used names of the nodes in the circuit
   * @param {Set<string>} [what.hidden] names of the nodes left out
   * @param {Set<number>} [what.collapsed] layers whose heads are one box
   * @param {(id: string) => string} [what.mark] class of a node's box
   */
  show({ curves, used, hidden = new Set(), collapsed = new Set(), mark = () => "" }) {
    this.nodes = layout(collapsed);
    this.curves = curves;
    this.touching = new Map([...this.nodes.keys()].map((id) => [id, { into: [], out: [] }]));
    for (const curve of curves) {
      this.edgesAt(curve.from).out.push(curve);
      this.edgesAt(curve.to).into.push(curve);
    }
    const many = curves.length > MOST_ELEMENTS,
      shown = [...this.nodes.values()].filter(({ id }) => !hidden.has(id));
    this.svg.setAttribute("class", many ? "painted" : "");
    this.replacing = true; // the focused node says that it loses the focus as it goes
    this.svg.replaceChildren(
      draw(
        "g",
        { class: "layers" },
        BANDS.flatMap((band, layer) => this.layer(band, layer, collapsed.has(layer))),
      ),
      draw("g", { class: "edges" }, many ? [] : curves.map((curve) => this.path(curve))),
      draw("g", { class: "ports" }, this.ports()),
      draw(
        "g",
        { class: "nodes" },
        shown.map((node) => this.box(node, used.has(node.id), mark(node.id))),
      ),
    );
    this.replacing = false;
    this.look(this.view);
    this.paint.show(many ? curves.map((curve) => this.stroke(curve)) : [], BANDS, this.view);
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

  /** Lights the edges of nodes and dims the rest. */
  light(ids) {
    const near = new Set(ids),
      lit = new Set();
    for (const id of ids) {
      const { into, out } = this.edgesOf(id);
      for (const curve of [...into, ...out]) {
        lit.add(curve);
        near.add(curve.from).add(curve.to);
      }
    }
    this.svg.parentNode.classList.toggle("focused", ids.length > 0);
    const group = this.svg.querySelector(".edges");
    if (this.svg.classList.contains("painted")) {
      const order = [...lit].sort((a, b) => a.share - b.share).slice(-MOST_ELEMENTS);
      group.replaceChildren(...order.map((curve) => this.path(curve, "on")));
    } else {
      for (const [i, curve] of this.curves.entries())
        group.children[i].classList.toggle("on", lit.has(curve));
    }
    const own = new Set(ids.flatMap(readersOf));
    for (const port of this.svg.querySelectorAll(".port"))
      port.classList.toggle("on", near.has(port.dataset.to) || own.has(port.dataset.to));
    for (const node of this.svg.querySelectorAll(".node"))
      node.classList.toggle("on", near.has(node.dataset.node));
  }

  has(id) {
    return id !== null && this.boxOf(id) !== null;
  }

  boxOf(id) {
    return this.svg.querySelector(`[data-node="${CSS.escape(id)}"]`);
  }

  // -------------------------------------------------------------- what is drawn

  stroke(curve) {
    const { width, opacity } = ink(curve, this.curves.length),
      { style, dash } = LOOKS[curve.look];
    const points = bend(this.nodes.get(curve.from), curve.kind, this.nodes.get(curve.to));
    return { points, width, opacity, dash, style: style ?? `--${curve.kind}` };
  }

  path(curve, more = "") {
    const { points, width, opacity, dash } = this.stroke(curve),
      { from, to, kind, look, edges } = curve;
    const about =
      edges.length > 8 ? `${edges.length} edges` : edges.map((edge) => curve.name(edge)).join(", ");
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

  ports() {
    const seen = new Map(this.curves.map(({ kind, to }) => [`${kind} ${to}`, [kind, to]]));
    return [...seen.values()].map(([kind, to]) => {
      const { x, y } = port(this.nodes.get(to), kind);
      return draw("circle", { class: `port ${kind}`, cx: x, cy: y, r: 3.2, "data-to": to });
    });
  }

  layer(band, layer, closed) {
    const { opacity, ...place } = band,
      middle = band.y + STEP / 2;
    const back = draw("rect", { class: "band", opacity, ...place });
    if (!this.hooks.fold)
      return [back, draw("text", { class: "number", x: 24, y: middle }, String(layer))];
    const label = `${closed ? "show" : "fold"} the heads of layer ${layer}`;
    const key = {
      class: "fold",
      "data-layer": layer,
      role: "button",
      tabindex: 0,
      "aria-label": label,
      "aria-pressed": String(closed),
    };
    const hit = draw("rect", { x: 2, y: middle - 20, width: 46, height: 32, rx: 5 });
    return [
      back,
      draw("g", key, hit, draw("text", { x: 12, y: middle }, `${closed ? "▸" : "▾"} ${layer}`)),
    ];
  }

  box({ id, x, y, w, h, kind, label }, used, mark) {
    const count = (curves) => spell(curves.reduce((n, curve) => n + curve.edges.length, 0));
    const { into, out } = this.edgesAt(id);
    const about = used
      ? `${title(id)}: ${count(into)} edges in, ${count(out)} out`
      : `${title(id)}: not in the circuit`;
    const key = used
      ? { role: "button", tabindex: 0, "aria-pressed": "false" }
      : { role: "img", tabindex: -1 };
    return draw(
      "g",
      {
        class: `node ${kind} ${used ? mark : "cut"}`,
        "data-node": id,
        ...key,
        "aria-label": about,
      },
      draw("rect", {
        x: x - w,
        y: y - h,
        width: 2 * w,
        height: 2 * h,
        rx: kind === "head" ? 5 : Math.min(13, h),
      }),
      draw("text", { x, y: y + 4 }, label),
    );
  }

  // -------------------------------------------------------------- the view

  /** Shows what lies around (x, y), enlarged k times. */
  look({ x, y, k }) {
    const within = (at, size) => Math.min(size - size / 2 / k, Math.max(size / 2 / k, at));
    k = Math.min(CLOSEST, Math.max(1, k));
    this.view = { x: within(x, WIDTH), y: within(y, HEIGHT), k };
    const left = corner(this.view.x, k, WIDTH),
      top = corner(this.view.y, k, HEIGHT);
    this.svg.setAttribute(
      "viewBox",
      [left, top, WIDTH / k, HEIGHT / k].map((v) => v.toFixed(2)).join(" "),
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

  /** Where on the drawing the pointer is. */
  place(event) {
    const frame = this.svg.getBoundingClientRect(),
      { x, y, k } = this.view;
    const at = (offset, size, length, middle) =>
      corner(middle, k, length) + ((offset / size) * length) / k;
    return [
      at(event.clientX - frame.left, frame.width, WIDTH, x),
      at(event.clientY - frame.top, frame.height, HEIGHT, y),
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
      button("show the whole drawing", "fit", () => this.go(WHOLE)),
    );
  }

  // -------------------------------------------------------------- the reader's hand

  listen() {
    const { svg, hooks } = this,
      nodeAt = (event) => event.target.closest?.(".node:not(.cut)")?.dataset.node ?? null;
    const act = (event) => {
      const layer = event.target.closest?.("[data-layer]")?.dataset.layer,
        id = nodeAt(event);
      if (layer !== undefined) hooks.fold(Number(layer));
      else if (id) hooks.pick(id);
      return layer !== undefined || id !== null;
    };
    svg.addEventListener("click", (event) => {
      if (!this.dragged) act(event);
    });
    svg.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const done = event.key === "Enter" || event.key === " " ? act(event) : this.key(event);
      if (done) event.preventDefault();
    });
    for (const name of ["pointerover", "focusin"])
      svg.addEventListener(name, (event) => {
        if (nodeAt(event) && !this.still()) hooks.point(nodeAt(event), event);
      });
    for (const name of ["pointerout", "focusout"])
      svg.addEventListener(name, (event) => {
        if (nodeAt(event) && !this.still()) hooks.point(null, event);
      });
    svg.addEventListener("focusin", (event) => this.reveal(nodeAt(event)));
    svg.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    svg.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      if (event.button === 0) this.drag = { x: event.clientX, y: event.clientY };
    });
    window.addEventListener("pointermove", (event) => this.pull(event));
    window.addEventListener("pointerup", () => {
      this.drag = null;
      svg.classList.remove("dragged");
    });
  }

  /** Whether nodes under the pointer or the focus don't count: while it drags, or they are replaced. */
  still() {
    return Boolean(this.drag) || this.replacing;
  }

  /** A plain wheel scrolls the page, unless the reader is at work in the drawing. */
  wheel(event) {
    if (!event.ctrlKey && !event.metaKey && !this.svg.contains(document.activeElement)) return;
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.002)), ...this.place(event));
  }

  pull(event) {
    if (!this.drag) return;
    const dx = event.clientX - this.drag.x,
      dy = event.clientY - this.drag.y;
    if (!this.dragged && Math.hypot(dx, dy) < 5) return;
    const unit = WIDTH / this.view.k / this.svg.clientWidth;
    this.dragged = true;
    this.svg.classList.add("dragged");
    this.drag = { x: event.clientX, y: event.clientY };
    this.shift(-dx * unit, -dy * unit);
  }

  key({ key, shiftKey, target }) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
      key
    ];
    const id = target.dataset.node;
    if (way && (shiftKey || !id))
      this.shift((way[0] * WIDTH * STRIDE) / this.view.k, (way[1] * HEIGHT * STRIDE) / this.view.k);
    else if (way) this.step(id, way);
    else if (key === "+" || key === "=") this.zoom(1.5);
    else if (key === "-") this.zoom(1 / 1.5);
    else if (key === "0") this.go(WHOLE);
    else return false;
    return true;
  }

  /** Goes from a node to the nearest of the circuit in a direction. */
  step(id, [dx, dy]) {
    const here = this.nodes.get(id);
    let next = null,
      least = Infinity;
    for (const box of this.svg.querySelectorAll(".node:not(.cut)")) {
      const there = this.nodes.get(box.dataset.node),
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
    const node = this.nodes.get(id),
      { x, y, k } = this.view;
    if (!node || (Math.abs(node.x - x) < WIDTH / 2 / k && Math.abs(node.y - y) < HEIGHT / 2 / k))
      return;
    this.go({ x: node.x, y: node.y, k });
  }
}
