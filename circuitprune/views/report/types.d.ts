/** What the page's parts hand each other, for the type checker; nothing here is shipped to a reader. */

/** An element of the template: any element, or a control whose value is read. */
interface Control extends HTMLElement {
  value: string;
  max: string;
  open: boolean;
}

/** A value with the ends of its interval; null where it is undefined. */
interface Interval {
  value: number | null;
  low: number | null;
  high: number | null;
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
