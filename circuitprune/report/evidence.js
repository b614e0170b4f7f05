// The evidence and the rest of the page: sections of verification.json, pairs, settings.

const VERDICTS = { pass: "passes", fail: "fails", undecided: "undecided" };
const MOST_ROWS = 60;
const NAMES = { mib: "MIB's CPR and CMD", cross_ablation: "Other ablations", function: "What the circuit does", minimise: "The minimised circuit" };

const words = (key) => key.replaceAll("_", " ");
const heading = (key) => NAMES[key] ?? words(key).replace(/^./, (c) => c.toUpperCase());
const isPlain = (v) => v === null || typeof v !== "object" || isInterval(v) || isShort(v);
const isShort = (v) => Array.isArray(v) && v.length <= 12 && v.every((x) => x === null || typeof x !== "object");

/** A cell: a number, an interval, a text, or a short list of them. */
function cell(v) {
  if (typeof v === "number") return spell(v, 4);
  if (isInterval(v)) return interval(v);
  if (Array.isArray(v)) return v.map(cell).join(", ") || "–";
  return v === null || v === undefined ? "–" : typeof v === "boolean" ? (v ? "yes" : "no") : v;
}

/** Any JSON value as tables: lists, and objects side by side, as rows; the rest as pairs. */
function generic(value) {
  if (isPlain(value)) return [make("p", {}, cell(value))];
  if (Array.isArray(value)) return [rowsOf(value.map((item, i) => [null, item, i]))];
  const plain = Object.entries(value).filter(([, v]) => isPlain(v));
  const deep = Object.entries(value).filter(([, v]) => !isPlain(v));
  const alike = deep.filter(([, v]) => !Array.isArray(v) && Object.values(v).some(isPlain));
  const beside = alike.length > 1 ? alike : [], rest = deep.filter((entry) => !beside.includes(entry));
  return [
    ...(plain.length ? [table(["", ""], plain.map(([k, v]) => [words(k), cell(v)]))] : []),
    ...(beside.length ? [rowsOf(beside)] : []),
    ...rest.flatMap(([k, v]) => [make("h4", {}, words(k)), ...generic(v)]),
  ];
}

/** A table of [name, object]; what is deeper than a cell is left to verification.json. */
function rowsOf(entries) {
  const named = entries.some(([name]) => name !== null);
  const few = entries.slice(0, MOST_ROWS);
  const objects = few.map(([, item]) => (isPlain(item) ? { value: item } : item));
  const columns = [...new Set(objects.flatMap((o) => Object.keys(o).filter((k) => isPlain(o[k]))))];
  const rows = objects.map((o, i) => [...(named ? [words(few[i][0])] : []), ...columns.map((k) => (k in o && isPlain(o[k]) ? cell(o[k]) : "–"))]);
  const shownTable = table([...(named ? [""] : []), ...columns.map(words)], rows);
  const more = entries.length - few.length;
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers" }, shownTable, ...(more > 0 ? [make("p", {}, `And ${spell(more)} more in verification.json.`)] : []));
}

function showEvidence() {
  const sections = Object.entries(DATA.evidence?.sections ?? {});
  if (!sections.length) {
    byId("tests").append(make("p", {}, "This run has no verification.json. `circuitprune verify RUN` gathers the evidence, `circuitprune report RUN` shows it here."));
    return;
  }
  const { circuit, n_pairs } = DATA.evidence;
  byId("tests").append(make("p", {}, `Of ${circuit.file}, ${spell(circuit.n_edges)} edges, on ${spell(n_pairs)} pairs. Intervals are 95 %.`));
  for (const [name, section] of sections) {
    const { verdict, sentence, ...rest } = section;
    const failed = "error" in section;
    const badge = verdict || failed ? [make("span", { class: `badge ${failed ? "none" : verdict}` }, failed ? "not computed" : VERDICTS[verdict] ?? verdict)] : [];
    byId("tests").append(make("article", {},
      make("h3", {}, `${heading(name)} `, ...badge),
      make("p", {}, sentence ?? ""),
      ...(failed ? [] : [make("details", {}, make("summary", {}, "Numbers"), generic(rest))])));
  }
}

/** Pairs with clean and corrupt tokens one above the other; where they differ, marked. */
function showPairs() {
  const found = DATA.pairs;
  if (!found?.pairs?.length) {
    byId("examples").append(make("p", {}, "This run folder holds no pairs (pairs.json), so none are shown."));
    return;
  }
  byId("examples").append(make("p", {}, `${spell(found.pairs.length)} of ${spell(found.n)} ${found.split} pairs, token by token; tokens that differ are marked.`));
  for (const pair of found.pairs) {
    const differ = (i) => pair.clean[i] !== pair.corrupt[i];
    const row = (name, tokens) => make("tr", {}, make("th", { scope: "row" }, name), tokens.map((t, i) => make("td", {}, differ(i) ? make("mark", {}, make("bdi", {}, t)) : make("bdi", {}, t))));
    const answers = (name, tokens) => (tokens.length ? [make("span", { class: "answer" }, `${name} `, ...tokens.slice(0, 8).flatMap((t) => [make("code", {}, make("bdi", {}, t)), " "]), tokens.length > 8 ? `and ${tokens.length - 8} more` : "")] : []);
    byId("examples").append(make("article", { class: "pair" },
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "A pair of prompts" }, make("table", {}, row("clean", pair.clean), row("corrupt", pair.corrupt))),
      make("p", {}, ...answers("answer", pair.answers), ...answers("wrong", pair.wrong))));
  }
}

function showSettings() {
  const into = byId("settings");
  if (DATA.command) into.append(make("p", {}, "The same again:"), pre(DATA.command));
  if (DATA.config) into.append(make("details", {}, make("summary", {}, "config.yaml"), pre(DATA.config)));
  if (DATA.versions) into.append(make("details", {}, make("summary", {}, "Versions"), table(["", ""], Object.entries(DATA.versions))));
}

/** Text with its line breaks. */
const pre = (text) =>
  make("pre", { tabindex: 0 }, text.split("\n").flatMap((line) => [document.createTextNode(shown(line)), document.createTextNode("\n")]).slice(0, -1));
