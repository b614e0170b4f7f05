// Two circuits on one drawing: edges in the first alone, in the second alone, in both.

const PARTS = { a: "only in A", both: "in both", b: "only in B" };
const shownParts = new Set(Object.keys(PARTS));
/** @type {ReturnType<typeof pairOf> | null} */
let pair = null;
/** @type {string | null} */
let chosenNode = null;
/** @type {Picture | null} */
let comparison = null;
/** @type {{ id: string | null, curves: Curve[] } | null} */
let picked = null;

/** A run's circuits; none if its model has other sizes. */
const circuitsOf = (run) => (run === 0 ? DATA.circuits : (DATA.others[run - 1].circuits ?? []));

/** The edges of a run that has circuits. */
function edgesOf(run) {
  const found = run === 0 ? DATA.edges : DATA.others[run - 1].edges;
  if (!found) throw new Error(`the edges of run ${run} are of a model with other sizes`);
  return found;
}

/** @param {Side} side */
const sideName = ([run, position]) =>
  `${DATA.runs.length > 1 ? `${DATA.runs[run].name}, ` : ""}${counted(circuitsOf(run)[position].n_edges, "edge")}`;

/** All circuits that can be compared, as `[run, position]`, from the smallest of each run. */
function comparable() {
  const bySize =
    (run) =>
    (/** @type {Side} */ [, a], /** @type {Side} */ [, b]) =>
      circuitsOf(run)[a].n_edges - circuitsOf(run)[b].n_edges;
  return DATA.runs.flatMap((_, run) =>
    circuitsOf(run)
      .map((_, at) => [run, at])
      .sort(bySize(run)),
  );
}

/** The chosen circuits of the first two runs, or of one run its chosen one and the next larger or smaller. */
function usualSides() {
  const all = comparable(),
    is = (/** @type {Side} */ [run, at]) => run === 0 && at === MAIN.chosen;
  const other = all.find(([run, at]) => run > 0 && at === DATA.runs[run].chosen);
  const here = all.findIndex(is),
    own = all.filter(([run]) => run === 0);
  return [[0, MAIN.chosen], other ?? own[here + 1] ?? own[here - 1] ?? own[here]];
}

/** A circuit's name in addresses and files: its number of edges, then `_2` if another has as many. */
const circuitName = (run, at) => DATA.runs[run].points[at].file.replace(/^circuits\/|\.json$/g, "");
const spellSides = (sides) => sides.map(([run, at]) => `${run}.${circuitName(run, at)}`).join("-");

/** The two circuits that an address names; null if it doesn't. */
function readSides(text) {
  const sides = text.split("-").map((side) => {
    const [run, name] = [Number(side.split(".")[0]), side.split(".")[1]];
    return [
      run,
      DATA.runs[run] ? circuitsOf(run).findIndex((_, at) => circuitName(run, at) === name) : -1,
    ];
  });
  return sides.length === 2 && sides.every(([, at]) => at >= 0) ? sides : null;
}

/**
 * Every edge of either circuit, with its share in what has it, and its score in both.
 * @param {Side[]} sides
 */
function pairOf([[runA, a], [runB, b]]) {
  const found = new Map();
  const take = (run, at, look, score) => {
    const edges = edgesOf(run),
      kept = circuitsOf(run)[at].edges,
      share = shares(edges, kept, "score");
    for (const edge of kept) {
      const writer = edges.writer[edge],
        reader = edges.reader[edge],
        span = edges.span?.[edge],
        name = edges.part?.[edge] ?? `${GRAPH.writers[writer]}->${GRAPH.readers[reader]}`;
      const known = found.get(name) ?? {
        id: found.size,
        name,
        writer,
        reader,
        span,
        share: 0,
        look,
      };
      if (known.look !== look) known.look = "both";
      known.share = Math.max(known.share, share(edge));
      known[score] = edges.score[edge];
      found.set(name, known);
    }
  };
  take(runA, a, "a", "scoreA");
  take(runB, b, "b", "scoreB");
  const edges = [...found.values()].sort((x, y) => y.share - x.share);
  const count = Object.fromEntries(
    Object.keys(PARTS).map((look) => [look, edges.filter((edge) => edge.look === look).length]),
  );
  return { edges, count, jaccard: edges.length ? count.both / edges.length : 1 };
}

function showComparison() {
  const sides = state.sides ?? usualSides();
  pair = pairOf(sides);
  [byId("side-a"), byId("side-b")].forEach((menu, i) => {
    menu.value = sides[i].join(".");
  });
  const { count, jaccard } = pair,
    cut = sides.filter(
      ([run, at]) => circuitsOf(run)[at].edges.length < circuitsOf(run)[at].n_edges,
    );
  byId("compared").textContent =
    `A: ${sideName(sides[0])}. B: ${sideName(sides[1])}. ${counted(count.both, "edge")} in both, ${spell(count.a)} only in A, ${spell(count.b)} only in B: Jaccard ${spell(jaccard)}.${cut.length ? " Of the largest circuits only the strongest edges are in this report." : ""}`;
  byId("parts").replaceChildren(
    ...Object.entries(PARTS).map(([look, text]) => {
      const box = make("input", {
        type: "checkbox",
        checked: shownParts.has(look),
        onchange: () => {
          if (!shownParts.delete(look)) shownParts.add(look);
          drawComparison();
        },
      });
      return make(
        "label",
        {},
        box,
        draw(
          "svg",
          { class: "key", viewBox: "0 0 34 6", "aria-hidden": "true" },
          draw("path", {
            class: `edge ${look}`,
            d: "M1 3H33",
            "stroke-width": 2.6,
            "stroke-dasharray": LOOKS[look].dash.join(" ") || null,
          }),
        ),
        `${text} (${spell(count[look])})`,
      );
    }),
  );
  drawComparison();
}

function drawComparison() {
  if (!comparison || !pair) return; // not in sight yet
  const all = pair.edges,
    edges = all.filter((edge) => shownParts.has(edge.look)),
    [a, b] = ["b", "a"].map((look) => all.filter((edge) => edge.look !== look)),
    [waysA, waysB] = [waysOf(a, NONE), waysOf(b, NONE)];
  const ways = (edge) => {
    const found = [
      ...(edge.look === "b" ? [] : waysA(edge)),
      ...(edge.look === "a" ? [] : waysB(edge)),
    ];
    return [...new Map(found.map((way) => [way[1], way])).values()];
  };
  const names = new Map(all.map((edge) => [edge.id, edge.name]));
  const curves = bundles(edges, ways, (id) => names.get(id));
  const [inA, inB] = [nodesOf(a, waysA), nodesOf(b, waysB)];
  const mark = (id) => (inA.has(id) && inB.has(id) ? "both" : inA.has(id) ? "a" : "b");
  comparison.show({ curves, used: new Set([...inA, ...inB]), mark });
  lightComparison();
  const row = (i) => [
    edges[i].name,
    PARTS[edges[i].look],
    spell(edges[i].scoreA),
    spell(edges[i].scoreB),
  ];
  pages(
    ["edge", "is", "score in A", "score in B"],
    edges.length,
    row,
    byId("differences"),
    byId("differences-pages"),
    50,
  );
}

function lightComparison(hover = null) {
  if (!comparison || !pair) return;
  const id = hover ?? (comparison.has(chosenNode) ? chosenNode : null),
    into = byId("compared-node");
  comparison.light(id === null ? [] : [id]);
  if (id === picked?.id && picked?.curves === comparison.curves) return;
  picked = { id, curves: comparison.curves };
  if (id === null)
    return into.replaceChildren(
      make(
        "p",
        { class: "hint" },
        "Point at a node, or select one by a click or Enter, to see in which circuit its edges are.",
      ),
    );
  const edges = comparison.edgesOf(id),
    known = new Map(pair.edges.map((edge) => [edge.id, edge]));
  const ids = new Set([...edges.into, ...edges.out].flatMap((curve) => curve.edges)),
    all = [...ids].map((edge) => known.get(edge));
  const list = (look) => all.filter((edge) => edge.look === look);
  into.replaceChildren(
    make("h3", {}, id, " ", make("small", {}, title(id))),
    ...Object.entries(PARTS).flatMap(([look, text]) => [
      make("h4", {}, `${text} (${spell(list(look).length)})`),
      make(
        "ul",
        {},
        list(look)
          .slice(0, MOST_LISTED)
          .map((edge) => make("li", {}, edge.name)),
      ),
    ]),
  );
}

function listenComparison() {
  const all = comparable();
  for (const [i, id] of ["side-a", "side-b"].entries()) {
    byId(id).replaceChildren(
      ...all.map((side) => make("option", { value: side.join(".") }, sideName(side))),
    );
    byId(id).addEventListener("change", () => {
      state.sides = (state.sides ?? usualSides()).map((side, at) =>
        at === i ? byId(id).value.split(".").map(Number) : side,
      );
      showComparison();
      remember();
    });
  }
  byId("swap").addEventListener("click", () => {
    state.sides = (state.sides ?? usualSides()).reverse();
    showComparison();
    remember();
  });
  byId("incomparable").replaceChildren(
    ...DATA.others.flatMap(({ differs }, i) =>
      differs
        ? [
            make(
              "p",
              { class: "hint" },
              `${DATA.runs[i + 1].name} is of a model with other sizes, ${differs}: none of its edges means the same, so it can't be compared here.`,
            ),
          ]
        : [],
    ),
  );
  byId("comparison-svg").addEventListener("click", () =>
    save("comparison.svg", figure(beginComparison()), "image/svg+xml"),
  );
  const near = new IntersectionObserver(
    (seen) => {
      if (seen.some((entry) => entry.isIntersecting)) beginComparison();
    },
    { rootMargin: "600px" },
  );
  near.observe(byId("compare"));
  window.addEventListener("beforeprint", beginComparison);
}

/** Draws when the section comes near, so that the page is ready sooner. */
function beginComparison() {
  if (comparison) return comparison;
  comparison = new Picture(byId("comparison"), {
    point: (id) => lightComparison(id),
    pick: chooseInBoth,
  });
  drawComparison();
  return comparison;
}

function chooseInBoth(id) {
  chosenNode = chosenNode === id ? null : id;
  lightComparison();
}
