// The reader's hand on a drawing: clicks, keys, the wheel, dragging, two fingers.

/** @param {Picture} picture */
function listenTo(picture) {
  const { svg, hooks } = picture;
  const still = () => picture.fingers.size > 0 || picture.replacing;
  svg.addEventListener("click", (event) => {
    if (picture.fit) hooks.whole(nodeAt(event));
    else if (!picture.dragged && !actOn(picture, event)) pickEdge(picture, event);
  });
  if (picture.fit) return; // it shows all of itself, and is one thing to click
  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = event.key === "Enter" || event.key === " ";
    if (act ? actOn(picture, event) : moveWith(picture, event)) event.preventDefault();
  });
  for (const name of ["pointerover", "focusin"])
    svg.addEventListener(name, (event) => {
      if (nodeAt(event) && !still()) hooks.point?.(nodeAt(event), event);
    });
  for (const name of ["pointerout", "focusout"])
    svg.addEventListener(name, (event) => {
      if (nodeAt(event) && !still()) hooks.point?.(null, event);
    });
  svg.addEventListener("focusin", (event) => picture.reveal(nodeAt(event)));
  svg.addEventListener("wheel", (event) => turnWheel(picture, event), { passive: false });
  svg.addEventListener("touchmove", (event) => {
    if (event.touches.length > 1 || picture.view.k > 1) event.preventDefault();
  });
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (event.isPrimary) picture.fingers.clear();
    if (!picture.fingers.size) picture.dragged = false;
    picture.fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  window.addEventListener("pointermove", (event) => pull(picture, event));
  /** @param {PointerEvent} event */
  const lift = (event) => {
    picture.fingers.delete(event.pointerId);
    svg.classList.remove("dragged");
  };
  window.addEventListener("pointerup", lift);
  window.addEventListener("pointercancel", lift);
}

const nodeAt = (event) => event.target.closest?.(".node:not(.cut)")?.dataset.node ?? null;

/** Does what a layer's number or a node is for; says whether there was one. */
function actOn({ hooks }, event) {
  const layer = event.target.closest?.("[data-layer]")?.dataset.layer,
    id = nodeAt(event);
  if (layer !== undefined) hooks.fold(Number(layer));
  else if (id) hooks.pick?.(id);
  return layer !== undefined || id !== null;
}

/** Picks the edge that was clicked, or, beside all edges, none. */
function pickEdge(picture, event) {
  picture.hooks.edge?.(picture.curveNear(...picture.place(event)));
}

/** A plain wheel scrolls the page, unless the reader is at work in the drawing. */
function turnWheel(picture, event) {
  if (!event.ctrlKey && !event.metaKey && !picture.svg.contains(document.activeElement)) return;
  event.preventDefault();
  picture.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.002)), ...picture.place(event));
}

/** One finger, or the mouse, moves the drawing; two enlarge it around their middle, too. */
function pull(picture, event) {
  const { fingers, svg } = picture,
    before = fingers.get(event.pointerId);
  if (!before) return;
  const now = { x: event.clientX, y: event.clientY },
    other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (!other && !picture.dragged && Math.hypot(now.x - before.x, now.y - before.y) < 5) return;
  picture.dragged = true;
  svg.classList.add("dragged");
  fingers.set(event.pointerId, now);
  const unit = picture.plan.width / picture.view.k / svg.clientWidth,
    share = other ? 2 : 1;
  if (other) {
    const apart = (finger) => Math.max(10, Math.hypot(finger.x - other.x, finger.y - other.y));
    const middle = { clientX: (now.x + other.x) / 2, clientY: (now.y + other.y) / 2 };
    picture.zoom(apart(now) / apart(before), ...picture.place(middle));
  }
  picture.shift((-(now.x - before.x) * unit) / share, (-(now.y - before.y) * unit) / share);
}

function moveWith(picture, { key, shiftKey, target }) {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] },
    way = ways[key],
    id = target.dataset.node,
    { width, height } = picture.plan;
  if (way && (shiftKey || !id))
    picture.shift(
      (way[0] * width * STRIDE) / picture.view.k,
      (way[1] * height * STRIDE) / picture.view.k,
    );
  else if (way) picture.step(id, way);
  else if (key === "+" || key === "=") picture.zoom(1.5);
  else if (key === "-") picture.zoom(1 / 1.5);
  else if (key === "0") picture.go(picture.whole());
  else return false;
  return true;
}
