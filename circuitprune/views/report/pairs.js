// The data: pairs as tokens, clean over corrupt, and what model and circuit would say next.

const OPEN_PAIRS = 4;

/** The pairs of pairs.json; the later ones folded away. */
function showPairs() {
  const found = DATA.pairs,
    wrong = found && faultIn(found, "ExamplePairs", "pairs.json"),
    into = byId("examples");
  if (wrong) {
    into.append(broken("The pairs are not shown", wrong));
    return;
  }
  if (!found?.pairs.length) {
    into.append(make("p", {}, "This run folder holds no pairs (pairs.json), so none are shown."));
    return;
  }
  const { pairs, n, split, n_edges } = found;
  const follows = pairs[0].next
    ? ` Under each, the tokens that are most likely to follow, with all but the circuit's ${counted(n_edges, "edge")} ablated. ✓ is a right token, ✗ a wrong one.`
    : "";
  into.append(
    make(
      "p",
      {},
      `${spell(pairs.length)} of ${counted(n, `${split} pair`)}, token by token; tokens that differ are marked.${follows}`,
    ),
    ...pairs.slice(0, OPEN_PAIRS).map(onePair),
  );
  const rest = pairs.slice(OPEN_PAIRS);
  if (!rest.length) return;
  into.append(
    make(
      "details",
      { id: "more-pairs" },
      make("summary", {}, `${rest.length} more`),
      rest.map(onePair),
    ),
  );
}

function onePair(pair) {
  const token = (t, i) => {
    const word = make("bdi", {}, t);
    return make("td", {}, pair.clean[i] !== pair.corrupt[i] ? make("mark", {}, word) : word);
  };
  const row = (name, tokens) =>
    make("tr", {}, make("th", { scope: "row" }, name), tokens.map(token));
  const prompts = make("table", {}, row("clean", pair.clean), row("corrupt", pair.corrupt));
  return make(
    "article",
    { class: "pair" },
    make(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "A pair of prompts" },
      prompts,
    ),
    make("p", {}, tokensOf("answer", pair.answers), tokensOf("wrong", pair.wrong)),
    ...(pair.next ? [predictionsOf(pair)] : []),
  );
}

function tokensOf(name, tokens) {
  if (!tokens.length) return [];
  const few = tokens.slice(0, 8).flatMap((t) => [make("code", {}, make("bdi", {}, t)), " "]);
  return [
    make(
      "span",
      { class: "answer" },
      `${name} `,
      few,
      tokens.length > 8 ? `and ${tokens.length - 8} more` : "",
    ),
  ];
}

/** What would follow, side by side: model and circuit on the clean prompt, the model on the corrupt one. */
function predictionsOf(pair) {
  const columns = [
    ["model, clean", "model"],
    ["circuit, clean", "circuit"],
    ["model, corrupt", "model_corrupt"],
  ];
  const known = columns.filter(([, key]) => pair.next[key]);
  const sign = (t) => (pair.answers.includes(t) ? " ✓" : pair.wrong.includes(t) ? " ✗" : "");
  /** @param {string[]} column */
  const list = ([name, key]) =>
    make(
      "div",
      { class: "next", "data-next": key },
      make("h4", {}, name),
      make(
        "table",
        { "aria-label": `What follows: ${name}` },
        pair.next[key].map(([t, p]) =>
          make(
            "tr",
            {},
            make("td", {}, make("bdi", {}, t), sign(t)),
            make("td", {}, `${(100 * p).toFixed(1)} %`),
            make("td", {}, share(p)),
          ),
        ),
      ),
    );
  return make("div", { class: "follows" }, known.map(list));
}

/** A bar as long as a probability. */
const share = (p) =>
  draw(
    "svg",
    { class: "share", viewBox: "0 0 60 8", "aria-hidden": "true" },
    draw("rect", { class: "bar-fill", x: 0, y: 0, width: tenth(Math.max(0.5, 60 * p)), height: 8 }),
  );
