// For every text that is seen: the size of its letters in pixels, in a drawing as it is scaled.
() => {
  const own = (x) => [...x.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((x) => own(x) && !x.closest("script, style, noscript, title, option, datalist") && x.checkVisibility())
    .map((x) => {
      const at = x.getScreenCTM?.(), scale = at ? Math.hypot(at.a, at.b) : 1;
      return { text: x.textContent.trim().slice(0, 40), size: scale * Number.parseFloat(getComputedStyle(x).fontSize) };
    });
}
