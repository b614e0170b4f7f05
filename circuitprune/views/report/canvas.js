// Many edges: painted on a canvas under the drawing, because a page slows down with many elements.

const REST = 120;
/** Milliseconds without a move after which the picture is painted anew. */

/** Paints curves; while the view moves the last picture is moved with it, then painted anew. */
class Paint {
  constructor(canvas) {
    this.canvas = canvas;
    this.curves = [];
    /** @type {number | undefined} */
    this.timer = undefined;
    /** @type {View | null} */
    this.view = null;
    this.width = 0;
    this.size = { width: 1, height: 1 };
  }

  /** Takes curves `{points, style, width, opacity, dash}`, the weakest first; none clears the canvas. */
  show(curves, { bands, width, height }, view) {
    this.curves = curves;
    this.bands = bands;
    this.size = { width, height };
    this.canvas.hidden = curves.length === 0;
    this.paint(view);
  }

  /** Goes along with a view `{x, y, k}`: at once roughly, sharply when it rests. */
  follow(view) {
    if (
      !this.view ||
      this.curves.length === 0 ||
      (same(view, this.view) && this.width === this.canvas.clientWidth)
    )
      return;
    const { x, y, k } = this.view,
      scale = view.k / k,
      { width, height } = this.size,
      unit = (this.canvas.clientWidth / width) * view.k;
    const left = (corner(x, k, width) - corner(view.x, view.k, width)) * unit;
    const top = (corner(y, k, height) - corner(view.y, view.k, height)) * unit;
    this.canvas.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.paint(view), REST);
  }

  paint(view) {
    const { canvas, curves, size } = this;
    clearTimeout(this.timer);
    this.view = { ...view };
    this.width = canvas.clientWidth;
    canvas.style.transform = "";
    if (curves.length === 0) return;
    const width = Math.round(canvas.clientWidth * Math.min(2, devicePixelRatio));
    canvas.width = width;
    canvas.height = Math.round((width * size.height) / size.width);
    const pen = canvas.getContext("2d"),
      unit = (width / size.width) * view.k;
    const look = getComputedStyle(canvas);
    pen.setTransform(
      unit,
      0,
      0,
      unit,
      -corner(view.x, view.k, size.width) * unit,
      -corner(view.y, view.k, size.height) * unit,
    );
    this.shade(pen, look);
    const colours = new Map(curves.map(({ style }) => [style, ""]));
    for (const style of colours.keys()) colours.set(style, look.getPropertyValue(style));
    for (const { points, style, width: line, opacity, dash } of curves) {
      pen.strokeStyle = colours.get(style);
      pen.globalAlpha = opacity;
      pen.lineWidth = line;
      pen.setLineDash(dash);
      pen.beginPath();
      pen.moveTo(points[0], points[1]);
      for (let i = 2; i < points.length; i += 6) pen.bezierCurveTo(...points.slice(i, i + 6));
      pen.stroke();
    }
  }

  shade(pen, look) {
    pen.fillStyle = look.getPropertyValue("--panel");
    for (const { x, y, width, height, rx, opacity } of this.bands) {
      pen.globalAlpha = opacity;
      pen.beginPath();
      pen.roundRect(x, y, width, height, rx);
      pen.fill();
    }
  }
}

const same = (a, b) => a.x === b.x && a.y === b.y && a.k === b.k;

/** Where what is seen begins, if its middle is at `middle` and it shows `size / k`. */
const corner = (middle, k, size) => middle - size / 2 / k;
