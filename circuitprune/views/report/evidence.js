// The evidence and the settings: sections of verification.json as sentences, figures and tables.

const VERDICTS = { pass: "passes", fail: "fails", undecided: "undecided" };
const MOST_ROWS = 60;
const NAMES = {
  mib: "MIB's CPR and CMD",
  cross_ablation: "Other ablations",
  function: "What the circuit does",
  rivals: "Rival circuits",
  clusters: "Clusters of pairs",
  adversarial: "The adversarial complement",
  minimise: "The minimised circuit",
};

const UNVERIFIED =
  "This run has no verification.json. `circuitprune verify RUN` gathers the evidence, `circuitprune report RUN` shows it here.";

const words = (key) => key.replaceAll("_", " ");
const heading = (key) => NAMES[key] ?? words(key).replace(/^./, (c) => c.toUpperCase());
const isPlain = (v) => v === null || typeof v !== "object" || isInterval(v) || isShort(v);
const isShort = (v) =>
  Array.isArray(v) && v.length <= 12 && v.every((x) => x === null || typeof x !== "object");

/** A cell: a number, an interval, a text, or a short list of them; `key` says of what. */
function cell(v, key = "") {
  const kl = /(^|_)kl($|_)/.test(key);
  if (typeof v === "number") return kl ? nats(v, 4) : spell(v, 4);
  if (isInterval(v)) return kl ? natsInterval(v) : interval(v);
  if (Array.isArray(v)) return v.map((x) => cell(x, key)).join(", ") || "–";
  return v === null || v === undefined ? "–" : typeof v === "boolean" ? (v ? "yes" : "no") : v;
}

/** Any JSON value as tables: lists, and objects side by side, as rows; the rest as pairs. */
function generic(value) {
  if (isPlain(value)) return [make("p", {}, cell(value))];
  if (Array.isArray(value) && value.every(isPlain))
    return [make("p", {}, value.map((x) => cell(x)).join(", "))];
  if (Array.isArray(value)) return [rowsOf(value.map((item) => [null, item]))];
  const plain = Object.entries(value).filter(([, v]) => isPlain(v));
  const deep = Object.entries(value).filter(([, v]) => !isPlain(v));
  const alike = deep.filter(([, v]) => !Array.isArray(v) && Object.values(v).some(isPlain));
  const beside = alike.length > 1 ? alike : [],
    rest = deep.filter((entry) => !beside.includes(entry));
  return [
    ...(plain.length
      ? [
          table(
            ["", ""],
            plain.map(([k, v]) => [words(k), cell(v, k)]),
          ),
        ]
      : []),
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
  const rows = objects.map((o, i) => [
    ...(named ? [words(few[i][0])] : []),
    ...columns.map((k) => (k in o && isPlain(o[k]) ? cell(o[k], k) : "–")),
  ]);
  const shownTable = table([...(named ? [""] : []), ...columns.map(words)], rows);
  const more = entries.length - few.length;
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers" },
    shownTable,
    ...(more > 0 ? [make("p", {}, `And ${spell(more)} more in verification.json.`)] : []),
  );
}

function showEvidence() {
  const sections = Object.entries(ALL_SECTIONS ?? {}).map(([name, one]) => [name, one ?? {}]),
    into = byId("tests");
  if (HEAD_FAULT) into.append(broken("What was tested is not shown", HEAD_FAULT));
  if (HEAD && sections.length) {
    const { circuit, n_pairs } = HEAD;
    into.append(
      make(
        "p",
        {},
        `Of ${circuit.file}, ${counted(circuit.n_edges, "edge")}, on ${counted(n_pairs, "pair")}. Intervals are 95 %.`,
      ),
    );
  }
  if (sections.length)
    into.append(overview(sections), ...sections.map(([name, one]) => sectionArticle(name, one)));
  else into.append(make("p", {}, withCode(UNVERIFIED)));
  showStudies();
}

/** A sentence in which what stands between backticks is code. */
const withCode = (sentence) =>
  sentence.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));

/** A verdict for each section, with the pairs behind it. */
function overview(sections) {
  const rows = sections.map(([name, section]) => [
    heading(name),
    verdictOf(section)[1],
    spell(section.n_pairs),
  ]);
  return table(["section", "verdict", "pairs"], rows, make("table", { id: "verdicts" }));
}

/** A class for the badge of a section, and the words in it. */
function verdictOf(section) {
  if ("error" in section) return ["none", "not computed"];
  return section.verdict
    ? [section.verdict, VERDICTS[section.verdict] ?? section.verdict]
    : ["", "describes"];
}

function sectionArticle(name, section) {
  const { verdict, sentence, ...rest } = section,
    failed = "error" in section;
  const [kind, says] = verdictOf(section);
  return make(
    "article",
    { id: `evidence-${name}`, "data-section": name },
    make("h3", {}, `${heading(name)} `, make("span", { class: `badge ${kind}` }, says)),
    make("p", {}, withCode(sentence ?? "")),
    ...(failed
      ? []
      : [
          make("div", { class: "drawn-numbers" }, figuresOf(name, section)),
          make("details", {}, make("summary", {}, "Numbers"), generic(rest)),
        ]),
  );
}

function showSettings() {
  const into = byId("settings");
  if (DATA.command) into.append(make("p", {}, "The same again:"), pre(DATA.command));
  if (DATA.config)
    into.append(make("details", {}, make("summary", {}, "config.yaml"), pre(DATA.config)));
  if (DATA.versions)
    into.append(
      make(
        "details",
        {},
        make("summary", {}, "Versions"),
        table(["", ""], Object.entries(DATA.versions)),
      ),
    );
}

/** Text with its line breaks. */
const pre = (text) =>
  make(
    "pre",
    { tabindex: 0 },
    text
      .split("\n")
      .flatMap((line) => [document.createTextNode(shown(line)), document.createTextNode("\n")])
      .slice(0, -1),
  );
