// Studies of several runs: how stable a circuit is, and what circuits share and do elsewhere.

/** Stability and transfer, if the report was given them. */
function showStudies() {
  const { stability, compare } = DATA.studies;
  byId("tests").append(
    ...study(stability, "Stability", stabilityArticle),
    ...study(compare, "Comparison", compareArticle),
  );
}

/** What is shown of a study: nothing if it is not there, why not if it does not fit its schema. */
function study(found, name, article) {
  if (!found) return [];
  const wrong = faultIn(found, name, name.toLowerCase());
  return [wrong ? broken(`${name} is not shown`, wrong) : article(found)];
}

/** @param {Json.Stability} found */
function stabilityArticle(found) {
  const groups = Object.entries(found.groups).flatMap(([name, group]) => [
    make("h4", {}, name === "seed" ? "Other seeds" : "Other training pairs (bootstrap)"),
    make("p", {}, group.sentence),
    make("div", { class: "studies" }, stabilityFigures(name, group)),
    numbers(
      table(
        ["runs that kept the edge", "edges"],
        group.kept_by.map((n, times) => [times, spell(n)]).slice(1),
      ),
      generic({ overlap: group.overlap, measured: group.measured }),
    ),
  ]);
  return make("article", { id: "stability" }, make("h3", {}, "Stability ", describes()), ...groups);
}

/**
 * @param {string} name
 * @param {Json.StabilityGroup} group
 */
function stabilityFigures(name, group) {
  const runs = group.runs.map((run) => run.folder),
    n = runs.length;
  /** @param {"edges" | "nodes"} kind */
  const matrix = (kind) => {
    const cells = group.jaccard[kind].map((row, i) =>
      row.map((value, j) =>
        value === null
          ? null
          : { value, about: `${runs[i]} and ${runs[j]} share ${spell(value)} of their ${kind}` },
      ),
    );
    const { mean, low, high } = group.overlap[kind],
      chance = kind === "edges" ? `, by chance ${spell(group.overlap.chance_edges)}` : "";
    return matrixFigure(
      `stability_${name}_${kind}`,
      `Shared ${kind} of every two runs`,
      runs,
      runs.map((r) => r.replace(/^[a-z]+/, "")),
      cells,
      {
        caption: `Shared ${kind} (Jaccard index) of circuits of ${counted(group.n_edges, "edge")}; mean ${low === null ? spell(mean) : interval({ value: mean, low, high })}${chance}.`,
      },
    );
  };
  const often = group.kept_by
    .map((count, times) => ({
      name: `${times} of ${n}`,
      v: { value: count },
      about: `kept by ${times} of ${counted(n, "run")}: ${counted(count, "edge")}`,
      attributes: { "data-times": times },
    }))
    .slice(1);
  return [
    matrix("edges"),
    matrix("nodes"),
    rowsFigure(`stability_${name}_kept`, "Edges by how many runs kept them", "edges", often, {
      caption: "Edges by how many of the runs kept them.",
    }),
  ];
}

/** @param {Json.Comparison} found */
function compareArticle(found) {
  const names = found.circuits.map((c) => c.name),
    short = shortest(names);
  const legend = table(
    ["circuit", "task", "model", "edges", "nodes of its own", "edges of its own"],
    found.circuits.map((c) =>
      [
        c.name,
        c.task,
        c.model,
        spell(c.n_edges),
        spell(found.private[c.name].nodes.length),
        spell(found.private[c.name].edges.length),
      ].map((x) => x ?? "–"),
    ),
  );
  return make(
    "article",
    { id: "compare-runs" },
    make("h3", {}, "Across runs ", describes()),
    make(
      "p",
      {},
      `Circuits of ${spell(found.n_edges)} of ${counted(found.n_edges_total, "edge")}; all share ${counted(found.core.edges.length, "edge")} and ${counted(found.core.nodes.length, "node")}.`,
    ),
    make(
      "div",
      { class: "studies" },
      overlapFigure(found, names, short),
      ...(found.transfer ? [transferFigure(found.transfer, names, short)] : []),
    ),
    numbers(
      legend,
      rowsOf(found.overlap.map((row) => [null, row])),
      ...(found.transfer ? [rowsOf(found.transfer.cells.map((cell) => [null, cell]))] : []),
      ...(found.specificity ? [rowsOf(found.specificity.map((row) => [null, row]))] : []),
    ),
  );
}

/**
 * @param {Json.Comparison} found
 * @param {string[]} names
 * @param {string[]} short
 */
function overlapFigure(found, names, short) {
  const of = (a, b) =>
    found.overlap.find((row) => (row.a === a && row.b === b) || (row.a === b && row.b === a));
  const cells = names.map((a) =>
    names.map((b) => {
      if (a === b) return { value: 1, about: a };
      const row = of(a, b);
      if (!row || row.edge_jaccard === null) return null; // both are empty
      return {
        value: row.edge_jaccard,
        about: `${a} and ${b}: edges ${spell(row.edge_jaccard)}, by chance ${spell(row.chance_edge_jaccard)}; nodes ${spell(row.node_jaccard)}`,
      };
    }),
  );
  return matrixFigure("overlap", "Shared edges of every two circuits", short, short, cells, {
    caption: "Shared edges (Jaccard index) at equal size.",
  });
}

/**
 * Faithfulness of each circuit on the pairs of each run, under it that of random circuits.
 * @param {Json.Transfer} transfer
 * @param {string[]} names
 * @param {string[]} short
 */
function transferFigure(transfer, names, short) {
  const columns = transfer.settings.filter((s) => s.n_pairs).map((s) => s.name);
  const cells = names.map((a) =>
    columns.map((b) => {
      const cell = transfer.cells.find((c) => c.circuit === a && c.on === b);
      if (!cell) return null;
      const chance = Object.entries(cell.random)
        .map(([family, r]) => `${family} ${spell(r.mean)}`)
        .join(", ");
      const hardest = cell.random.relabelled?.mean;
      return {
        value: cell.faithfulness.value,
        note: hardest == null ? null : `(${hundredths(hardest)})`,
        about: `${a} on the pairs of ${b}: faithfulness ${interval(cell.faithfulness)}, KL ${nats(cell.kl)}, accuracy ${spell(cell.accuracy)}; random: ${chance}`,
      };
    }),
  );
  return matrixFigure(
    "transfer",
    "Faithfulness of each circuit on each run's pairs",
    short,
    columns.map((c) => short[names.indexOf(c)]),
    cells,
    {
      across: "on the pairs of",
      down: "circuit",
      caption:
        "Transfer: faithfulness of each circuit on held-out pairs of each run; in brackets, circuits of the same shape with other heads.",
    },
  );
}

/** Names without the folders that all share. */
function shortest(names) {
  const parts = names.map((name) => name.split("/"));
  let from = 0;
  while (parts.every((p) => p.length > from + 1 && p[from] === parts[0][from])) from++;
  return parts.map((p) => p.slice(from).join("/"));
}
