// For every text that is seen: its colour's contrast with what is painted behind it (WCAG 2.2).
() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    return { rgb: [r, g, b], a: text === "none" || text === "transparent" ? 0 : a };
  };
  const over = (top, a, under) => under.map((u, i) => top[i] * a + u * (1 - a));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opacity = (x, stop) => {
    let all = 1;
    for (let at = x; at && at !== stop; at = at.parentElement) all *= Number(getComputedStyle(at).opacity);
    return all;
  };
  /** What HTML paints behind an element: backgrounds from the page inwards. */
  const ground = (x) => {
    const under = x.parentElement ? ground(x.parentElement) : [255, 255, 255];
    const { rgb, a } = parse(getComputedStyle(x).backgroundColor);
    return over(rgb, a, under);
  };
  /** In a drawing: the filled shapes before a text that hold its middle. */
  const behind = (text) => {
    const svg = text.ownerSVGElement, box = text.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    let under = ground(svg);
    for (const shape of svg.querySelectorAll("rect, circle, polygon")) {
      const area = shape.getBoundingClientRect(), look = getComputedStyle(shape);
      const earlier = shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
      const around = area.left <= x && x <= area.right && area.top <= y && y <= area.bottom;
      if (!earlier || !around || !shape.checkVisibility()) continue;
      const { rgb, a } = parse(look.fill);
      under = over(rgb, a * Number(look.fillOpacity) * opacity(shape, svg), under);
    }
    return under;
  };
  const own = (x) => [...x.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((x) => own(x) && !x.closest("script, style, noscript, title, option") && x.checkVisibility())
    .map((x) => {
      const drawn = x.ownerSVGElement, look = getComputedStyle(x);
      const { rgb, a } = parse(drawn ? look.fill : look.color);
      const under = drawn ? behind(x) : ground(x);
      const seen = over(rgb, a * opacity(x, drawn), under);
      const [low, high] = [light(seen), light(under)].sort((p, q) => p - q);
      const ratio = (high + 0.05) / (low + 0.05);
      return { text: x.textContent.trim().slice(0, 40), element: x.outerHTML.slice(0, 80), ratio };
    });
}
