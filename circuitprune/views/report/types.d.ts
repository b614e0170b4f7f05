/** What the page's parts hand each other, for the type checker; nothing here is shipped to a reader. */

/** An element of the template: any element, or a control whose value is read. */
interface Control extends HTMLElement {
  value: string;
  max: string;
  open: boolean;
  checked: boolean;
}

/** A part of a JSON Schema, as far as `schema.json` needs. */
interface Schema {
  $ref?: string;
  type?: string;
  enum?: string[];
  anyOf?: Schema[];
  items?: Schema;
  prefixItems?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
}

/** `schema.json`, which stands in the page's script. */
declare const SCHEMA: { $defs: Record<string, Schema> };

/** A circuit with the positions of its edges, which its spans say. */
interface DrawnCircuit extends Json.CircuitData {
  edges: number[];
}

/** A further run whose circuits can be drawn; or, with `differs` alone, cannot. */
interface OtherRun {
  edges?: Json.EdgeColumns;
  circuits?: DrawnCircuit[];
  differs?: string;
}

/** The report's data, as the page goes on with it. */
interface PageData extends Omit<Json.ReportData, "circuits" | "others"> {
  circuits: DrawnCircuit[];
  others: OtherRun[];
}

/** A run by its position in the report, and one of its circuits by its own. */
type Side = number[];

/** The middle of what is seen of a drawing, enlarged `k` times. */
interface View {
  x: number;
  y: number;
  k: number;
}

/** One line of a drawing: an edge, or several between the same places. */
interface Curve {
  from: string;
  to: string;
  kind: string;
  look: string;
  share: number;
  edges: number[];
  name: (edge: number) => string;
  points: number[];
}

/** A box of a drawing: its centre, half its sizes, what it is and where. */
interface Box {
  id: string;
  x: number;
  y: number;
  w: number;
  h: number;
  kind: string;
  label: string;
  layer: number;
  row: number;
}

/** Boxes side by side, in blocks of heads that share keys and values; and what they take of the width. */
interface Row {
  layer: number;
  blocks: string[][];
  mlps: string[];
  y: number;
  top: number;
  bottom: number;
  taken: number[][];
}

/** The strip behind a layer's boxes. */
interface Band {
  layer: number;
  middle: number;
  x: number;
  y: number;
  width: number;
  height: number;
  rx: number;
  opacity: number;
}

/** Columns of a span of tokens, `n` from `first` on, `heads` of them heads'; of all, where spans are not told apart. */
interface Zone {
  name: string;
  first: number;
  n: number;
  heads: number;
  mlp: number;
  middle: number;
}

/** Where all of a drawing stands. */
interface Plan {
  width: number;
  height: number;
  cell: number;
  columns: number;
  nodes: Map<string, Box>;
  rows: Row[];
  bands: Band[];
  gaps: { y: number; first: number; last: number }[];
  zones: Zone[];
  tagged: boolean;
  headed: boolean;
}

/** What the reader sees and does; all of it is kept in the address. */
interface State {
  circuit: number;
  node: string | null;
  column: string;
  collapsed: Set<number>;
  search: string;
  hidden: Set<string>;
  pinned: Set<string>;
  strongest: number | null;
  sides: Side[] | null;
  all: boolean;
  edges: string[];
  names: Map<string, string>;
  groups: Map<string, string>;
  view: View | null;
}

/** An axis that is bent, and where its ticks stand. */
interface Warp {
  bend: (x: number) => number;
  ticks: number[];
}

/** How rows are drawn; see `rowsFigure`. */
interface RowsLook {
  bars?: boolean;
  lines?: [number, string][];
  band?: number[] | null;
  warp?: Warp | null;
  caption?: string;
}

/** How curves are drawn; see `curvesFigure`. */
interface CurvesLook {
  band?: number[] | null;
  ring?: { x: number; y: number } | null;
  across?: string;
  caption?: string;
}
