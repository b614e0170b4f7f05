// What is said of nodes and edges: roles by probes and direct attribution, the reader's own names and groups.

/** What removing each edge from the verified circuit did, by the edge's name. */
const EFFECTS = new Map((computed(SECTIONS.minimality)?.edges ?? []).map((row) => [row.edge, row]));
const READINGS = computed(SECTIONS.function);
const ROLES = {
  previous: "previous token",
  duplicate: "duplicate token",
  induction: "induction",
  copying: "copies",
  anticopying: "anti-copies",
};
/** Probes that a head passes, as its role; circuitprune/lens/heads.py. */
const TELLING = 0.05;
/** Share of all direct effects from which a writer's own is told in its box. */
const GROUP_COLOURS = 6;
const LONGEST_NAME = 40;

/** Whether the circuit that is shown is the one that was verified. */
const isVerified = (at = state.circuit) =>
  HEAD !== null && MAIN.points[at].file === HEAD.circuit.file && EFFECTS.size > 0;

/** The exact effect of an edge in the circuit that is shown; none if that is not the verified one. */
const effectOf = (edge, at = state.circuit) =>
  isVerified(at) ? EFFECTS.get(edgeName(edge)) : undefined;

/** Whether an edge surely works against the circuit: without it the KL falls, the whole interval. */
function harmful(edge, at = state.circuit) {
  const high = effectOf(edge, at)?.kl.high;
  return high != null && high < 0;
}

/** Of each circuit the edges that all tasks share, where several were learned together. */
const SHARED = DATA.shared?.map((edges) => new Set(edges)) ?? null;
const isOwn = (edge, at = state.circuit) => SHARED !== null && !SHARED[at].has(edge);

const DIRECT = (() => {
  const rows = READINGS?.direct ?? [],
    all = rows.reduce((sum, { share }) => sum + Math.abs(share ?? 0), 0);
  const large = rows.filter(
    (r) => r.edge_to_logits_kept && Math.abs(r.share ?? 0) >= TELLING * all,
  );
  return new Map(large.map(({ node, share }) => [node, `answer ${signed(share)}`]));
})();

/** What evidence says that a node does, in a few words; empty if it says nothing. */
function roleOf(id) {
  const name = baseOf(id),
    labels = READINGS?.heads.find((row) => row.head === name)?.labels ?? [];
  const answers = !SPANS.length || ANSWERED.has(SPANS.findIndex((s) => s.name === spanOf(id)));
  const written = answers ? DIRECT.get(name) : null;
  return [...labels.map((label) => ROLES[label] ?? label), ...(written ? [written] : [])].join(
    ", ",
  );
}

/** The second lines of boxes: the reader's names, else what evidence says. */
function tagsOf(ids) {
  /** @type {[string, string][]} */
  const found = [...ids].map((id) => [id, state.names.get(baseOf(id)) ?? roleOf(id)]);
  return new Map(found.filter(([, tag]) => tag));
}

// ---------------------------------------------------------------- names and groups

const groupNames = () => [...new Set(state.groups.values())].sort();

/** The class of a node's box for its group. */
function groupMark(id) {
  const at = groupNames().indexOf(state.groups.get(baseOf(id)) ?? "");
  return at < 0 ? "" : `grouped group${at % GROUP_COLOURS}`;
}

/** Where a reader types a node's name and its group. */
function naming(node) {
  const id = baseOf(node);
  const field = (what, map, more = {}) =>
    make(
      "label",
      {},
      what,
      make("input", {
        value: map.get(id) ?? "",
        maxlength: LONGEST_NAME,
        autocomplete: "off",
        spellcheck: "false",
        "aria-label": `${what} of ${id}`,
        onchange: (event) => call(map, id, typed(event).trim()),
        ...more,
      }),
    );
  const known = make(
    "datalist",
    { id: `groups-${id}` },
    groupNames().map((name) => make("option", { value: name })),
  );
  return make(
    "div",
    { class: "naming" },
    field("name", state.names),
    field("group", state.groups, { list: `groups-${id}` }),
    known,
  );
}

function call(map, id, name) {
  if (name) map.set(id, name);
  else map.delete(id);
  showCircuit();
  say(name ? `${id} is ${name}` : `${id} has no name`);
  remember();
}

/** Each group with its colour; a click pins its nodes. */
function groupKeys() {
  return groupNames().map((name, at) => {
    const members = [...state.groups].filter(([, group]) => group === name).map(([id]) => id),
      own = members.flatMap(standingsOf);
    const act = () => {
      const all = own.every((id) => state.pinned.has(id));
      for (const id of own) all ? state.pinned.delete(id) : state.pinned.add(id);
      mark();
      remember();
    };
    const colour = make("i", { class: `swatch group${at % GROUP_COLOURS}` });
    return make(
      "button",
      { type: "button", class: "group-key", "aria-label": `pin the group ${name}`, onclick: act },
      colour,
      `${name} (${members.length})`,
    );
  });
}
