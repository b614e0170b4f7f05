// Whether what a report shows fits its schema: schema.json, made from the dataclasses that write it.

/** A message in the place of what cannot be shown; the console has it too. */
function broken(what, why) {
  console.error(what, why);
  const said = why instanceof Error ? why.message : why;
  return make("p", { class: "broken", role: "alert" }, `${what}: ${said}`);
}

/**
 * What does not fit in a value, each by its place; nothing if all does.
 * @param {unknown} value
 * @param {Schema} schema
 * @param {string} place
 * @returns {string[]}
 */
function misfits(value, schema, place) {
  if (schema.$ref) return misfits(value, SCHEMA.$defs[schema.$ref.replace(/.*\//, "")], place);
  if (schema.anyOf) {
    let first = null;
    for (const one of schema.anyOf) {
      const wrong = misfits(value, one, place);
      if (wrong.length === 0) return wrong;
      first ??= wrong;
    }
    return first ?? [];
  }
  if (schema.enum)
    return schema.enum.includes(String(value)) ? [] : [unlike(place, schema.enum, value)];
  if (kindOf(value) !== schema.type && !(schema.type === "number" && kindOf(value) === "integer"))
    return [unlike(place, [schema.type ?? ""], value)];
  if (Array.isArray(value))
    return value.flatMap((item, i) =>
      misfits(item, schema.prefixItems?.[i] ?? schema.items ?? {}, `${place}[${i}]`),
    );
  return value !== null && typeof value === "object" ? misfitKeys(value, schema, place) : [];
}

/**
 * The same of an object: keys that are missing or unknown, and what does not fit under the others.
 * @param {object} value
 * @param {Schema} schema
 * @param {string} place
 */
function misfitKeys(value, { properties = {}, required = [], additionalProperties = true }, place) {
  const missing = required.filter((key) => !Object.hasOwn(value, key));
  return [
    ...missing.map((key) => `${place} has no "${key}"`),
    ...Object.entries(value).flatMap(([key, item]) => {
      if (Object.hasOwn(properties, key)) return misfits(item, properties[key], `${place}.${key}`);
      if (additionalProperties === false) return [`${place} has an unknown key "${key}"`];
      return additionalProperties === true
        ? []
        : misfits(item, additionalProperties, `${place}.${key}`);
    }),
  ];
}

const unlike = (place, kinds, value) =>
  `${place} should be ${kinds.join(" or ")}, and is ${JSON.stringify(value)?.slice(0, 60)}`;

/** What JSON Schema calls the type of a value. */
function kindOf(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return Number.isInteger(value) ? "integer" : typeof value;
}

/**
 * What is wrong with a part of the report, or null; of many faults the first.
 * @param {unknown} value
 * @param {string} name
 * @param {string} place
 */
const faultIn = (value, name, place) =>
  misfits(value, { $ref: name }, place).map((wrong) => `${wrong}; ${AGAIN}`)[0] ?? null;

const AGAIN =
  "the file is damaged or of another version, and the command that wrote it writes it anew";

/** The first pair, if there is one that fits. @type {Json.TokenPair | null} */
const FIRST_PAIR =
  (DATA.pairs && !faultIn(DATA.pairs, "ExamplePairs", "pairs.json") ? DATA.pairs.pairs[0] : null) ??
  null;

const { sections: ALL_SECTIONS, ...HEAD_ALONE } = DATA.evidence ?? {};
/** What is wrong with the evidence apart from its sections; null if nothing is, or there is none. */
const HEAD_FAULT =
  DATA.evidence && faultIn({ ...HEAD_ALONE, sections: {} }, "Verification", "verification.json");
/** The evidence apart from its sections, if it is there and fits. */
const HEAD = HEAD_FAULT ? null : DATA.evidence;

/** Sections of the evidence that fit their schema, by name. @type {Json.Sections} */
const SECTIONS = {};
/** What is wrong with the others, by name. @type {Record<string, string>} */
const FAULTS = {};
for (const [name, section] of Object.entries(ALL_SECTIONS ?? {})) {
  const kind = SCHEMA.$defs.Sections.properties?.[name]; // none of another name: shown, never drawn
  const [wrong] = kind ? misfits(section, kind, name) : [];
  if (wrong) FAULTS[name] = `${wrong}; ${AGAIN}`;
  else Object.assign(SECTIONS, { [name]: section });
}

/**
 * A section that was computed; null where it was not, is not there, or does not fit.
 * @template T
 * @param {T | Json.NotComputed | undefined} section
 * @returns {T | null}
 */
function computed(section) {
  const isThere = section instanceof Object && !("error" in section);
  return isThere ? /** @type {T} */ (section) : null;
}
