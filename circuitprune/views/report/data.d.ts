// Written by `python -m circuitprune.views.report.schema`; do not edit.

declare namespace Json {
  /** Why cut edges cannot carry this here. */
  interface AblationError {
    /** What is in the way. */
    error: string;
  }
  /** The numbers of the circuit where cut edges carry something else. */
  interface AblationNumbers {
    /** Pairs that the full and the empty model score alike. */
    n_without_ratio: number;
    /** The task metric of the model with every edge ablated so. */
    empty_metric: Estimate;
    /** KL from the full model of the next token, in nats. */
    kl: Estimate;
    /** The task metric, in its unit; higher is better. */
    metric: Estimate;
    /** Fraction of pairs on which a right token wins. */
    accuracy: Estimate;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: Estimate;
    /** Share of the full model's metric recovered from the empty circuit's: the ratio of means. */
    faithfulness: Interval;
    /** Mean of each pair's own such share, over the pairs that have one. */
    mean_of_ratios: Interval;
    /** Median of the same, which no single pair can move; absent in files of before 0.3. */
    median_of_ratios?: Interval | null;
  }
  /** The section `adversarial`. */
  interface Adversarial {
    /** Held-out pairs, few of them. */
    n_pairs: number;
    /** Steps of the adversary. */
    n_steps: number;
    /** Edges of the circuit. */
    n_edges: number;
    /** Edges that the adversary sets. */
    n_outside: number;
    /** The circuit under test. */
    circuit: Attacked;
    /** Random circuits with as many edges between the same layers and kinds of nodes. */
    random: Array<Attacked>;
    /** KL of the model with every edge closed, in nats: what is lost without any circuit. */
    empty_kl: number;
    /** KL of the circuit at each step of the adversary, in nats. */
    path: Array<number>;
    /** The same in words. */
    sentence: string;
  }
  /** Circuits of several tasks learned together beside circuits learned apart, at equal KL. */
  interface AgainstApart {
    /** The run over several tasks. */
    together: string;
    /** What every circuit reaches on its validation pairs with the fewest edges found. */
    target: string;
    /** Edges in all, together: a shared one counts once. */
    n_edges: number;
    /** Shared ones of them. */
    n_shared: number;
    /** The sum over tasks of the circuits apart. */
    n_edges_apart: number;
    /** The same, an edge that every task has counted once. */
    n_counted_apart: number;
    /** Different edges of these circuits. */
    n_union_apart: number;
    /** Task by task. */
    tasks: Array<TaskAgainstApart>;
  }
  /** Where a circuit lies among random ones of one family. */
  interface AmongRandom {
    /** Random circuits other than this one for which the number is known. */
    n: number;
    /** Their mean, in the number's unit; None if there are none. */
    mean: number | null;
    /** Share of them that do worse, in [0, 1]; None if there are none, or this one has no number. */
    beaten: number | null;
  }
  /** One circuit and its adversary. */
  interface Attacked {
    /** KL with every outside edge closed, in nats. */
    closed_kl: number;
    /** The largest KL that was found, in nats. */
    worst_kl: number;
    /** Outside edges that are more than half open there. */
    n_open: number;
  }
  /** How much evidence, and from which random numbers: `EvidenceConfig` without the rest. */
  interface Budget {
    /** Resamples behind each interval. */
    n_bootstrap: number;
    /** Random circuits, and edges, that the circuit is compared with. */
    n_random: number;
    /** Random knock-outs, and nodes tried at each step of the greedy one. */
    n_knockouts: number;
    /** Nats of KL up to which an edge is dispensable. */
    tolerance: number;
    /** Of everything drawn. */
    seed: number;
    /** CPU threads. */
    threads: number;
    /** Edges of the circuit that are removed by themselves, drawn at random if it keeps more. */
    n_removed?: number | null;
    /** Steps of the adversary that sets the gates outside the circuit. */
    n_adversarial?: number | null;
  }
  /** One circuit among a run's edges. */
  interface CircuitData {
    /** Edges that it keeps, of which a report may hold fewer. */
    n_edges: number;
    /** Nodes that they leave or enter. */
    n_nodes: number;
    /** By turns, how many of the run's edges it leaves out and keeps. */
    spans: Array<number>;
  }
  /** One circuit, as means over pairs. */
  interface CircuitMeans {
    /** KL from the full model, in nats. */
    kl: number;
    /** The task metric, in its unit. */
    metric: number;
    /** Fraction of pairs on which a right token wins. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Share of the full model's metric; left out where full and empty model score alike. */
    faithfulness?: number | null;
  }
  /** The numbers of the circuit under test. */
  interface CircuitNumbers {
    /** Edges that the circuit keeps. */
    n_edges: number;
    /** KL from the full model of the next token, in nats. */
    kl: Estimate;
    /** The task metric, in its unit; higher is better. */
    metric: Estimate;
    /** Fraction of pairs on which a right token wins. */
    accuracy: Estimate;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: Estimate;
    /** Share of the full model's metric recovered from the empty circuit's: the ratio of means. */
    faithfulness: Interval;
    /** Mean of each pair's own such share, over the pairs that have one. */
    mean_of_ratios: Interval;
    /** Median of the same, which no single pair can move; absent in files of before 0.3. */
    median_of_ratios?: Interval | null;
  }
  /** Pairs that use the edges alike, and a circuit from them alone. */
  interface Cluster {
    /** Training pairs in it, which its circuit is found on. */
    n_train_pairs: number;
    /** Held-out pairs whose own scores are nearest to it. */
    n_pairs: number;
    /** Edges that its circuit has of the circuit common to all pairs. */
    n_shared: number;
    /** These over the edges of either, in [0, 1]. */
    jaccard: number;
    /** KL of its circuit on its held-out pairs, in nats; None without any. */
    own_kl: number | null;
    /** KL of the common circuit on the same pairs. */
    common_kl: number | null;
    /** KL on them of the best circuit of another cluster. */
    other_kl: number | null;
    /** Indices of the held-out pairs in it, most typical first. */
    examples: Array<number>;
  }
  /** The section `clusters`. */
  interface Clusters {
    /** Held-out pairs, few of them, which KL is on. */
    n_pairs: number;
    /** Training pairs, few of them, which clusters and circuits are found on. */
    n_train_pairs: number;
    /** Edges that every circuit here may have: those of the circuit under test. */
    n_edges: number;
    /** By number of clusters that was tried: how well they are told apart, in [-1, 1]. */
    silhouettes: Record<string, number>;
    /** With the number that is told apart best. */
    clusters: Array<Cluster>;
    /** Of one circuit found on all training pairs by the same search, in nats. */
    common_kl: Estimate;
    /** With each held-out pair run in the circuit of its own cluster. */
    own_kl: Estimate;
    /** Common minus own, in nats. */
    gain: Estimate;
    /** Unless the gain is above 0 by its interval, and a tenth of the common circuit's KL. */
    one_is_enough: boolean;
    /** The same in words. */
    sentence: string;
  }
  /** One circuit of a comparison; of a run, also what it is of. */
  interface ComparedCircuit {
    /** The path that was given. */
    name: string;
    /** Edges as it was found. */
    n_edges_found: number;
    /** Edges as it is compared. */
    n_edges: number;
    /** Name of the run's task. */
    task?: string | null;
    /** `task.seed` of the run. */
    task_seed?: number | null;
    /** Name of its model. */
    model?: string | null;
    /** Hash of the weights. */
    model_fingerprint?: string | null;
    /** What cut edges carry. */
    ablation?: string | null;
  }
  /** `compare.json`; from `transfer` on, only where circuits were asked to go elsewhere. */
  interface Comparison {
    /** Of this file: 1. */
    schema: number;
    /** Edges that all were cut to, at most. */
    n_edges: number;
    /** Edges of the model. */
    n_edges_total: number;
    /** What is compared. */
    circuits: Array<ComparedCircuit>;
    /** What every two share. */
    overlap: Array<PairOverlap>;
    /** What all share. */
    core: Names;
    /** What each has alone. */
    private: Record<string, Names>;
    /** Every circuit on the pairs of every run. */
    transfer?: Transfer | null;
    /** Each at home against elsewhere. */
    specificity?: Array<Specificity> | null;
    /** Every two models of one task. */
    cross_model?: Array<CrossModel | CrossSkipped> | null;
    /** Random circuits of each family, for each circuit. */
    n_random?: number | null;
    /** Runs over several tasks beside runs of one; None without the former. */
    against_apart?: Array<AgainstApart | NotAgainstApart> | null;
  }
  /** What the model does with exactly the circuit's edges ablated, as means over pairs. */
  interface Complement {
    /** `KL(full model || circuit)` of the next token, in nats. */
    kl: number;
    /** Of the task, in its unit, higher is better. */
    metric: number;
    /** Fraction of pairs on which a right token beats every wrong one. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Pairs behind the means. */
    n: number;
    /** Share of the full model's metric that it keeps. */
    faithfulness: Interval;
  }
  /** The section `completeness`. */
  interface Completeness {
    /** Held-out pairs. */
    n_pairs: number;
    /** Nodes of the circuit that can be knocked out. */
    n_nodes: number;
    /** Share of the span up to which both lose alike. */
    tolerance: number;
    /** F of the full model minus F of the empty circuit, in the metric's unit. */
    span: number;
    /** `|gap| / |span|` over telling knock-outs by class and at random, with its interval. */
    mean_relative_gap: Interval;
    /** One for each knock-out: plot `model` against `circuit`. */
    points: Array<KnockOutGap>;
    /** By the family of the knock-outs, of those that there are. */
    summary: Record<string, FamilyGaps>;
    /** The model without the circuit's edges. */
    complement: Complement;
    /** Whether the interval of the mean gap lies within the tolerance. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** Edges by how many *views* keep them: a view is the circuit of one run at one size. */
  interface CoreEdges {
    /** Runs of all groups times sizes. */
    n_views: number;
    /** Edges at which each run's circuit is cut. */
    sizes: Array<number>;
    /** Names of the edges that every view keeps, in the graph's order. */
    core: Array<string>;
    /** Edges that some views keep, not all. */
    n_contingent: number;
    /** Edges that at least half of the views keep, the core among them. */
    n_half: number;
    /** `core` and `half`, their live edges alone; empty if no pair was unseen by all runs. */
    measured: Record<string, Measured>;
    /** The same in words. */
    sentence: string;
  }
  /** The section `cross_ablation`: what `cross_ablation` found. */
  interface CrossAblation {
    /** Held-out pairs. */
    n_pairs: number;
    /** Resamples behind each interval. */
    n_bootstrap: number;
    /** What cut edges carried when the circuit was found. */
    found_with: string;
    /** Training pairs, which means are taken over. */
    n_train_pairs: number;
    /** By what cut edges carry. */
    kinds: Record<string, AblationNumbers | AblationError>;
    /** The one that all kinds give; `undecided` where they differ. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** Activations of one model in another of the same task. */
  interface CrossModel {
    /** The run whose model runs. */
    host: string;
    /** The run whose model's activations are put in. */
    donor: string;
    /** Pairs of the host. */
    n_pairs: number;
    /** Nothing put in. */
    host_alone: Means;
    /** The donor itself. */
    donor_alone: Means;
    /** With all edges, and with those of each circuit. */
    patched: Array<PatchedAcross>;
  }
  /** Why the activations of one model have no place in another. */
  interface CrossSkipped {
    /** The run whose model would run. */
    host: string;
    /** The run whose activations would be put in. */
    donor: string;
    /** Pairs of the host. */
    n_pairs: number;
    /** The reason. */
    skipped: string;
  }
  /** Faithfulness over MIB's sizes, by one order of edges or nodes. */
  interface Curve {
    /** Area under it; higher is better. */
    cpr: Interval;
    /** Area between it and 1; lower is better, 0 is ideal. */
    cmd: Interval;
    /** At each of `SIZES`. */
    points: Array<CurvePoint>;
    /** Area under accuracy over the logarithm of the size, in [0, 1]; higher is better. */
    acc_auc?: Interval | null;
  }
  /** One circuit of a curve. */
  interface CurvePoint {
    /** Asked for, as a fraction of all edges, or of all nodes. */
    size: number;
    /** Edges that it keeps. */
    n_edges: number;
    /** Share of the full model's metric recovered: the ratio of means. */
    faithfulness: Interval;
  }
  /** What one writer adds to the logit difference through its edge to the logits. */
  interface DirectShare {
    /** The writer; `not kept` for all others, `biases` for what no writer writes. */
    node: string;
    /** Mean over pairs, in logits. */
    share: number | null;
    /** Whether the circuit keeps that edge. */
    edge_to_logits_kept: boolean;
  }
  /** Edges that some circuit of a run keeps, strongest first; a column each. */
  interface EdgeColumns {
    /** Positions of the writers. */
    writer: Array<number>;
    /** Positions of the readers. */
    reader: Array<number>;
    /** What circuits are cut from, higher first; this and the others to `data.DIGITS`. */
    score: Array<number | null>;
    /** Names of parts, or of edges at spans; None of whole edges, whose ends name them. */
    part: Array<string> | null;
    /** Positions of the spans; None where edges are the same at all tokens. */
    span: Array<number> | null;
  }
  /** Edges of the random circuits. */
  interface EdgeCounts {
    /** Of the smallest. */
    least: number;
    /** Of all. */
    mean: number;
    /** Of the largest. */
    most: number;
  }
  /** What removing one edge from the circuit changes. */
  interface EdgeRemoved {
    /** Its name. */
    edge: string;
    /** By how much the KL rises, in nats; negative: the edge does harm. */
    kl: Estimate;
    /** By how much the task metric changes, in its unit; negative: the edge helps. */
    metric: Estimate;
  }
  /** One edge of the circuit against the random ones. */
  interface EdgeTest {
    /** Its name. */
    edge: string;
    /** Mean over pairs of `|metric without it - metric|`, in the metric's unit. */
    effect: number;
    /** Share of random effects that it exceeds, in [0, 1]. */
    statistic: number;
    /** Of so small a share, in [0, 1]. */
    p: number;
    /** The same, corrected for the number of edges. */
    p_holm: number;
  }
  /** Whether the circuit is as good as the model. */
  interface Equivalence {
    /** Pairs on which they differ. */
    n_pairs: number;
    /** Pairs on which both score the same, left out. */
    n_ties: number;
    /** Share of two scores' magnitudes up to which they are the same. */
    tolerance: number;
    /** A chance to win within this of 1/2 counts as equal. */
    epsilon: number;
    /** Share of the pairs on which the circuit wins, in [0, 1]; None without a pair. */
    statistic: number | null;
    /** Of that share, two-sided, in [0, 1]. */
    p: number;
    /** The same with an epsilon of 0: the sign test's. */
    p_sign: number;
    /** Circuit minus model, in the metric's unit. */
    mean_difference: number;
    /** Whether equality is rejected. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** An interval that is always defined, as that of a mean is; of one pair it has no width. */
  interface Estimate {
    /** On the pairs themselves. */
    value: number;
    /** Lower end. */
    low: number;
    /** Upper end. */
    high: number;
  }
  /** What is known of a circuit from held-out pairs: means over the pairs. */
  interface Evidence {
    /** `KL(full model || circuit)` of the next token, in nats. */
    kl: number;
    /** Of the task, in its unit, higher is better. */
    metric: number;
    /** Fraction of pairs on which a right token beats every wrong one. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Pairs behind the means. */
    n: number;
    /** Share of the full model's metric recovered; None until it is compared (see `against`), and where the full and the empty model score the same, so that it is undefined. */
    faithfulness?: number | null;
  }
  /** `pairs.json`: pairs that a report shows. */
  interface ExamplePairs {
    /** Which side they are from: `test`, `val` or `train`. */
    split: string;
    /** Pairs that this side has. */
    n: number;
    /** Edges of the circuit whose predictions these are. */
    n_edges: number;
    /** The first of them. */
    pairs: Array<TokenPair>;
  }
  /** The section `faithfulness`: what `faithfulness_curve` found. */
  interface FaithfulnessCurve {
    /** Held-out pairs. */
    n_pairs: number;
    /** Resamples behind each interval. */
    n_bootstrap: number;
    /** Of the intervals, in (0, 1). */
    level: number;
    /** What cut edges carry. */
    ablation: string;
    /** Edges of the model. */
    n_edges_total: number;
    /** Pairs that the full and the empty model score alike, left out of `mean_of_ratios`. */
    n_without_ratio: number;
    /** The circuit under test. */
    circuit: CircuitNumbers;
    /** The full model. */
    full: Numbers;
    /** The model with every edge ablated. */
    empty: Numbers;
    /** The circuits of the frontier, the smallest first. */
    sizes: Array<SizeNumbers>;
    /** Whether the interval of faithfulness lies within `BAND`. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** The knock-outs of one family. */
  interface FamilyGaps {
    /** How many. */
    n: number;
    /** Of these, after how many circuit or model still did something. */
    n_telling: number;
    /** Of those, how many gaps are within the tolerance. */
    n_within: number;
    /** Mean of `|gap|` over all, in the metric's unit. */
    mean_gap: number;
    /** Mean KL over all, in nats. */
    mean_kl: number;
    /** The largest gap, with its sign. */
    worst_gap: number;
    /** The same as a share of the span. */
    worst_relative_gap: number | null;
    /** Nodes of that knock-out. */
    worst_nodes: Array<string>;
  }
  /** `frontier.json`. */
  interface FrontierFile {
    /** Name or folder of the model. */
    model?: string;
    /** Of the model on the Hub. */
    revision?: string | null;
    /** The model's. */
    dtype?: string;
    /** Whether a key or value reader is of a KV head or of a query head. */
    kv_readers?: string;
    /** Hash of all weights. */
    model_fingerprint?: string;
    /** Hash of the pairs of all sides in their order. */
    pairs_hash?: string;
    /** Name of the task. */
    task?: string;
    /** How the task corrupts its prompts; None for its usual way. */
    corruption?: string | null;
    /** What gates stand on; absent for edges. */
    level?: string;
    /** What tokens are dealt to spans by; absent where they are not. */
    spans?: string;
    /** What cut edges carry. */
    ablation?: string;
    /** The task metric; higher is better. */
    metric?: string;
    /** The side that circuits were verified on. */
    split?: string;
    /** What learned the ranking; None for an attribution. */
    learner?: string | null;
    /** What was minimised; None for an attribution. */
    objective?: string | null;
    /** Method of the attribution, or of the scores that training began with. */
    init?: string;
    /** How circuits were cut from the ranking. */
    selection?: string;
    /** What is reached by a point of `target_edges` edges, and by no smaller circuit tried. */
    target?: string;
    /** The size of that circuit. */
    target_edges?: number;
    /** `task.seed`. */
    task_seed?: number;
    /** `train.seed`. */
    train_seed?: number;
    /** Hash of the file of the user's own that the task is from. */
    task_sha256?: string;
    /** Of the one that the task metric is from. */
    metric_sha256?: string;
    /** Of the one that the attribution method is from. */
    init_sha256?: string;
    /** `per_reader` where a norm follows the attention. */
    post_norms?: string;
    /** What was attributed. */
    init_metric?: string;
    /** Steps of the attribution. */
    init_steps?: number;
    /** How scores become a ranking: `signed` or `absolute`. */
    ranking?: string;
    /** Whether edges of the circuits were exchanged by exact runs after they were cut. */
    refined?: boolean;
    /** Edges of the model. */
    n_edges_total?: number;
    /** The same by query head. */
    n_edges_total_ungrouped?: number;
    /** The whole model. */
    full: Evidence;
    /** The circuit without edges. */
    empty: Evidence;
    /** For each size, or threshold, asked for. */
    points: Array<PointRow>;
  }
  /** The section `function`: the untouched model, at the circuit's nodes. */
  interface Function {
    /** Pairs behind the means, at most `N_PAIRS`. */
    n_pairs: number;
    /** At each reader's stream, in forward order. */
    lens: Array<LensReading>;
    /** Kept writers by the size of their share, then `not kept` and `biases`. */
    direct: Array<DirectShare>;
    /** Kept heads, in forward order. */
    heads: Array<HeadReading>;
    /** A few pairs, whole. */
    examples: Array<ShownPair>;
    /** The same in words. */
    sentence: string;
    /** Kept neurons and features; absent where gates stand on whole nodes or edges. */
    parts?: PartReadings | null;
  }
  /** Sizes of the model, and names in the graph's order. */
  interface GraphData {
    /** Layers. */
    n_layers: number;
    /** Heads of a layer. */
    n_heads: number;
    /** Key readers of a layer, and value readers: fewer than heads where heads share them. */
    n_kv_readers: number;
    /** Whether an MLP reads what its layer's heads read. */
    parallel: boolean;
    /** Width of the residual stream; 0 if unknown. */
    d_model: number;
    /** What one gate stands on: `edge`, `node` or `part`; each counts as an edge. */
    unit: string;
    /** Edges. */
    n_edges: number;
    /** Edges by query head. */
    n_edges_ungrouped: number;
    /** Names. */
    writers: Array<string>;
    /** Of each writer; -1 for `input`. */
    writer_layer: Array<number>;
    /** Names. */
    readers: Array<string>;
    /** Of each reader: `q`, `k`, `v`, `mlp` or `logits`. */
    reader_kind: Array<string>;
    /** Of each reader; the number of layers for `logits`. */
    reader_layer: Array<number>;
    /** Of each reader: positions of the writers that it feeds. */
    feeds: Array<Array<number>>;
    /** In the order of prompts; None where an edge has one gate for all tokens. */
    spans: Array<SpanData> | null;
  }
  /** What circuits of one size share, pair by pair. */
  interface GroupOverlap {
    /** Edges that each was cut to, at most. */
    n_edges: number;
    /** Of the smallest. */
    fewest_edges: number;
    /** Of the largest. */
    most_edges: number;
    /** Circuits that keep no edge. */
    n_empty: number;
    /** Shared edges. */
    edges: PairsSummary;
    /** Shared nodes. */
    nodes: PairsSummary;
    /** Index to expect of two random sets of `n_edges` edges; None for no edge. */
    chance_edges: number | null;
  }
  /** What a kept head looks at from the answer position, and its probes; see `lens.heads`. */
  interface HeadReading {
    /** Its name, `a3.h1`. */
    head: string;
    /** Probes that it passes. */
    labels: Array<string>;
    /** Share of its attention at right tokens, in [0, 1]. */
    to_answers: number;
    /** Share of its attention at wrong tokens, in [0, 1]. */
    to_wrong: number;
    /** Attention to the position before, in [0, 1]. */
    previous?: number | null;
    /** Attention to the same token before, in [0, 1]. */
    duplicate?: number | null;
    /** Attention to the token after that one, in [0, 1]. */
    induction?: number | null;
    /** Share of tokens that it writes where it sees them, in [0, 1]. */
    copying?: number | null;
    /** Share of tokens that it writes against where it sees them, in [0, 1]. */
    anticopying?: number | null;
  }
  /** The section `hypotheses`: what an ideal circuit would meet. */
  interface Hypotheses {
    /** Held-out pairs. */
    n_pairs: number;
    /** Below this, a p rejects its hypothesis. */
    alpha: number;
    /** Is the circuit as good as the model? */
    equivalence: Equivalence;
    /** Does the rest know nothing? */
    independence: Independence;
    /** Is no edge idle? */
    minimality: IdleEdges | NoIdleEdges;
    /** The worst of the three. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** Which edges of the circuit matter no more than edges that were added at random. */
  interface IdleEdges {
    /** Held-out pairs, few of them. */
    n_pairs: number;
    /** Random edges that it was compared with. */
    n_inflated: number;
    /** Share of random effects that an edge should exceed. */
    quantile: number;
    /** Edges of the circuit that were judged: all, or those that `minimality` removes. */
    n_edges: number;
    /** Of these, for how many it is rejected that they do. */
    n_idle: number;
    /** Their names. */
    idle: Array<string>;
    /** Effects of the random edges, in the metric's unit. */
    random_effects: Array<number>;
    /** Each of them, in the graph's order. */
    edges: Array<EdgeTest>;
    /** The smallest of all, corrected. */
    p: number;
    /** Whether an edge is idle. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** A further run whose model has other sizes, so that no edge means the same. */
  interface Incomparable {
    /** What those sizes are. */
    differs: string;
  }
  /** Whether what is left without the circuit knows nothing of what the model does. */
  interface Independence {
    /** Pairs, at most `statistics.MOST_PAIRS`. */
    n_pairs: number;
    /** Orders drawn at random. */
    n_permutations: number;
    /** HSIC of both scores, at least 0. */
    statistic: number;
    /** Share of orders with as much, in (0, 1]. */
    p: number;
    /** Pearson's, in [-1, 1]; None if either is constant. */
    correlation: number | null;
    /** Mean task metric of the model without the circuit's edges. */
    complement_metric: number;
    /** Whether independence is rejected. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** A number with its percentile bootstrap interval over pairs, in the number's own unit. */
  interface Interval {
    /** On the pairs themselves; None where it is undefined, as a ratio to nothing is. */
    value: number | null;
    /** Lower end; None if the number is undefined on every resample. */
    low: number | null;
    /** Upper end; likewise. */
    high: number | null;
  }
  /** Circuit and model under one knock-out, as means over pairs. */
  interface KnockOutGap {
    /** Why these nodes. */
    family: "none" | "class" | "random" | "greedy";
    /** What they are, in words. */
    name: string;
    /** Their names, in the graph's order. */
    nodes: Array<string>;
    /** Task metric of the circuit without them. */
    circuit: number;
    /** Task metric of the model without them. */
    model: number;
    /** Circuit minus model, in the metric's unit. */
    gap: Estimate;
    /** The gap as a share of the span; None if there is no span. */
    relative_gap: number | null;
    /** Whether circuit or model still did something. */
    telling: boolean;
    /** From the model without them to the circuit without them, in nats. */
    kl: number;
  }
  /** The logit lens at one reader's stream, as means over pairs. */
  interface LensReading {
    /** The reader's place: `a3`, `m3` or `logits`. */
    at: string;
    /** Of the best-ranked right token; 0 is the prediction. */
    answer_rank: number;
    /** Right minus wrong on clean prompts, in logits; None where a pair has no wrong token. */
    logit_diff: number | null;
    /** The same on corrupt prompts. */
    logit_diff_corrupt: number | null;
  }
  /** The same of the first run, with what else is known of an edge. */
  interface MainColumns {
    /** Positions of the writers. */
    writer: Array<number>;
    /** Positions of the readers. */
    reader: Array<number>;
    /** What circuits are cut from, higher first; this and the others to `data.DIGITS`. */
    score: Array<number | null>;
    /** Names of parts, or of edges at spans; None of whole edges, whose ends name them. */
    part: Array<string> | null;
    /** Positions of the spans; None where edges are the same at all tokens. */
    span: Array<number> | null;
    /** Signed scores, negative helps; None if there are none, or of an edge none. */
    attribution: Array<number | null> | null;
    /** By position: the rise of the KL in nats when the edge leaves the verified circuit. */
    exact: Record<string, number> | null;
  }
  /** What is measured on each pair, as means over the pairs. */
  interface Means {
    /** `KL(full model || circuit)` of the next token, in nats. */
    kl: number;
    /** Of the task, in its unit, higher is better. */
    metric: number;
    /** Fraction of pairs on which a right token beats every wrong one. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Pairs behind the means. */
    n: number;
  }
  /** A circuit on pairs that no run was trained on. */
  interface Measured {
    /** Edges that the circuit keeps. */
    n_edges: number;
    /** `KL(full model || circuit)` of the next token, in nats. */
    kl: number;
    /** Of the task, in its unit, higher is better. */
    metric: number;
    /** Fraction of pairs on which a right token beats every wrong one. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Pairs behind the means. */
    n: number;
    /** Share of the full model's metric that it keeps. */
    faithfulness: Interval;
  }
  /** The section `mib`. */
  interface Mib {
    /** Held-out pairs. */
    n_pairs: number;
    /** Resamples behind each interval. */
    n_bootstrap: number;
    /** Edges of the model, in the run's convention of key and value readers. */
    n_edges_total: number;
    /** Edges of the model by query head, as MIB counts. */
    n_edges_total_ungrouped: number;
    /** Whether scores with a sign are there; else one ranking serves for both orders. */
    signed_scores: boolean;
    /** Why there are no curves of nodes; None if there are. */
    nodes_left_out: string | null;
    /** Of edges by signed scores. */
    cpr: Interval;
    /** Of edges by the magnitude of their scores. */
    cmd: Interval;
    /** `edges_signed`, `edges_absolute`, and the same of nodes where they have scores. */
    curves: Record<string, Curve>;
    /** The same in words. */
    sentence: string;
  }
  /** The section `minimality`. */
  interface Minimality {
    /** Held-out pairs that it was affordable on. */
    n_pairs: number;
    /** Edges of the circuit. */
    n_edges: number;
    /** Nats of KL up to which an edge is dispensable. */
    tolerance: number;
    /** KL of the circuit itself on these pairs, in nats. */
    base_kl: number;
    /** Its task metric on these pairs. */
    base_metric: number;
    /** Edges without which the KL surely rises beyond the tolerance. */
    n_needed: number;
    /** Edges without which it surely does not. */
    n_surely_dispensable: number;
    /** Names of those without which its mean does not. */
    dispensable: Array<string>;
    /** Each edge that was removed, the most needed first. */
    edges: Array<EdgeRemoved>;
    /** Whether every edge is needed. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
    /** Edges that were removed, drawn at random from the circuit's; None: all of them. */
    n_removed?: number | null;
  }
  /** The section `minimise`. */
  interface MinimisedCircuit {
    /** Held-out pairs, which `before`, `after` and `kl_rise` are on. */
    n_pairs: number;
    /** Training pairs, which the search was on. */
    n_search_pairs: number;
    /** Nats that the KL may rise by, on the pairs of the search. */
    tolerance: number;
    /** Edges of the circuit. */
    n_edges_before: number;
    /** Edges left. */
    n_edges: number;
    /** What the circuit does. */
    before: Means;
    /** What is left of it does. */
    after: Means;
    /** From before to after, in nats. */
    kl_rise: Estimate;
    /** First the circuit itself, then each round. */
    trace: Array<Round>;
    /** Names of the edges left. */
    edges: Array<string>;
    /** The same in words. */
    sentence: string;
  }
  /** Edges and nodes by their names, in the graph's order. */
  interface Names {
    /** As `a0.h1->m2`. */
    edges: Array<string>;
    /** As `a0.h1`. */
    nodes: Array<string>;
  }
  /** The section `necessity`. */
  interface Necessity {
    /** Held-out pairs. */
    n_pairs: number;
    /** Resamples behind each interval. */
    n_bootstrap: number;
    /** Edges of the circuit, which are ablated. */
    n_edges: number;
    /** The model without them. */
    complement: Numbers;
    /** Share of the full model's metric that is lost without them: 1 minus faithfulness. */
    lost: Interval;
    /** Held-out pairs that the circuit is compared with random ones on. */
    n_random_pairs: number;
    /** Random circuits, each with as many edges between the same layers and kinds of nodes. */
    n_random: number;
    /** KL of the model without the circuit on those pairs, in nats. */
    kl: number;
    /** The same without each random circuit, in the order drawn. */
    random_kl: Array<number>;
    /** Share of them whose loss raises the KL at least as much, the circuit counted; in (0, 1]. */
    p: number;
    /** Whether its loss does more harm than that of random circuits. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** What would follow on one pair. */
  interface NextTokens {
    /** By the untouched model on the clean prompt. */
    model: Array<[string, number]>;
    /** By the untouched model on the corrupt prompt. */
    model_corrupt: Array<[string, number]>;
    /** By the circuit on the clean prompt: its edges live, all others ablated. */
    circuit: Array<[string, number]>;
  }
  /** Why that was not tested. */
  interface NoIdleEdges {
    /** `undecided`. */
    verdict: "pass" | "fail" | "undecided";
    /** None. */
    edges: Array<EdgeTest>;
    /** The reason. */
    sentence: string;
  }
  /** Why a run over several tasks is not set beside circuits apart. */
  interface NotAgainstApart {
    /** The run over several tasks. */
    together: string;
    /** The reason. */
    skipped: string;
  }
  /** In the place of a section that is undefined for this circuit. */
  interface NotComputed {
    /** Why. */
    error: string;
    /** The same as a sentence. */
    sentence: string;
  }
  /** What two sets share, and what they would with the same counts in every layer. */
  interface NullOverlap {
    /** Members of both. */
    shared: number;
    /** `shared` over the size of the smaller set, in [0, 1]; None if one is empty. */
    containment: number | null;
    /** Members to share by chance, with these counts. */
    expected: number;
    /** Probability under the null to share at least as many; exact. */
    p: number;
  }
  /** Every number of a circuit, with its interval over pairs. */
  interface Numbers {
    /** KL from the full model of the next token, in nats. */
    kl: Estimate;
    /** The task metric, in its unit; higher is better. */
    metric: Estimate;
    /** Fraction of pairs on which a right token wins. */
    accuracy: Estimate;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: Estimate;
    /** Share of the full model's metric recovered from the empty circuit's: the ratio of means. */
    faithfulness: Interval;
    /** Mean of each pair's own such share, over the pairs that have one. */
    mean_of_ratios: Interval;
    /** Median of the same, which no single pair can move; absent in files of before 0.3. */
    median_of_ratios?: Interval | null;
  }
  /** A further run whose edges can be told with the first's. */
  interface OtherRun {
    /** Its edges. */
    edges: EdgeColumns;
    /** Its circuits. */
    circuits: Array<CircuitData>;
  }
  /** What two circuits share. */
  interface PairOverlap {
    /** Name of the one. */
    a: string;
    /** Name of the other. */
    b: string;
    /** Edges in both. */
    shared_edges: number;
    /** In [0, 1]; None if both are empty, as the other two. */
    edge_jaccard: number | null;
    /** In [0, 1]. */
    node_jaccard: number | null;
    /** Index to expect of two random sets of these sizes. */
    chance_edge_jaccard: number | null;
    /** Shared edges, against a null that keeps the counts of every layer. */
    edges?: NullOverlap | null;
    /** Shared nodes, likewise. */
    nodes?: NullOverlap | null;
  }
  /** Jaccard indices of every two circuits of a group; None where no two have one. */
  interface PairsSummary {
    /** Over pairs, in [0, 1]. */
    mean: number | null;
    /** Lower end of its 95 % interval over circuits; None for fewer than three. */
    low: number | null;
    /** Upper end; likewise. */
    high: number | null;
    /** Of the pair that shares least. */
    least: number | null;
    /** Of the pair that shares most. */
    largest: number | null;
    /** Pairs that have an index: not both of them empty. */
    n_pairs: number;
  }
  /** One part's effect through another. */
  interface PartEdge {
    /** Its name. */
    part: string;
    /** That of the part that it moves, or `logits`. */
    into: string;
    /** On the task metric, in its unit; negative helps. */
    effect: number;
  }
  /** `part_edges.json`. */
  interface PartEdgeFile {
    /** File of the circuit whose parts they join, in the run's folder. */
    circuit: string;
    /** The task metric. */
    metric: string;
    /** Runs behind each gradient. */
    steps: number;
    /** Least magnitude of an edge. */
    threshold: number;
    /** The strongest first. */
    edges: Array<PartEdge>;
  }
  /** One neuron or feature of the circuit, in the untouched model. */
  interface PartReading {
    /** Its name, `m3.n17` or `m3.f17`. */
    part: string;
    /** Share of the prompts' tokens at which it is not 0. */
    on: number;
    /** Where it is strongest by magnitude, one token of a prompt, the strongest first. */
    examples: Array<Peak>;
    /** Tokens whose logits a unit of it raises most, directly, and by how much; see `lens.parts`. */
    promotes: Array<[string, number]>;
    /** Tokens whose logits it lowers most. */
    demotes: Array<[string, number]>;
  }
  /** The neurons and features of a circuit. */
  interface PartReadings {
    /** That the circuit keeps, of which at most `MOST_PARTS` are read. */
    n_parts: number;
    /** Pairs on whose clean prompts they are read. */
    n_pairs: number;
    /** In the order of their rank. */
    parts: Array<PartReading>;
    /** Tokens of the prompts that are shown. */
    prompts: Array<Array<string>>;
  }
  /** The host with the activations of the donor in some edges; KL and matches to the donor. */
  interface PatchedAcross {
    /** The circuit whose edges carry the donor's activations, or `all edges`. */
    edges_of: string;
    /** `KL(full model || circuit)` of the next token, in nats. */
    kl: number;
    /** Of the task, in its unit, higher is better. */
    metric: number;
    /** Fraction of pairs on which a right token beats every wrong one. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Pairs behind the means. */
    n: number;
    /** `(patched - host) / (donor - host)` of the mean task metric. */
    recovered: Interval;
    /** Its place among random circuits, by family; empty for all edges. */
    random: Record<string, AmongRandom>;
  }
  /** A token of a prompt at which a part is strong. */
  interface Peak {
    /** Position of the prompt in `PartReadings.prompts`. */
    prompt: number;
    /** Position of the token in it. */
    at: number;
    /** How strong it is there. */
    value: number;
  }
  /** Where the circuit lies among random ones by one number. */
  interface Place {
    /** Share of random circuits that do worse, ties half; in [0, 1]. */
    quantile: number;
    /** Share that does at least as well, the circuit itself counted; in (0, 1]. */
    p: number;
    /** Of the random circuits, in the number's unit. */
    mean: number;
    /** Of the random circuits. */
    best: number;
    /** Of the random circuits. */
    worst: number;
  }
  /** One circuit of the frontier as `frontier.json` has it. */
  interface PointRow {
    /** The fraction of all edges, or the threshold, that was asked for. */
    size: number;
    /** Edges, or parts, that it keeps. */
    n_edges: number;
    /** The same by query head. */
    n_edges_ungrouped: number;
    /** Where it lies in the run's folder. */
    file: string;
    /** `KL(full model || circuit)` of the next token, in nats. */
    kl: number;
    /** Of the task, in its unit, higher is better. */
    metric: number;
    /** Fraction of pairs on which a right token beats every wrong one. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Pairs behind the means. */
    n: number;
    /** Share of the full model's metric recovered; None until it is compared (see `against`), and where the full and the empty model score the same, so that it is undefined. */
    faithfulness?: number | null;
    /** The same on the validation pairs, by which a circuit is chosen; absent without such pairs. */
    val?: Evidence | null;
  }
  /** What a run's numbers are of. Of its own accord a run may say more, or less. */
  interface Provenance {
    /** Name or folder of the model. */
    model?: string;
    /** Of the model on the Hub. */
    revision?: string | null;
    /** The model's. */
    dtype?: string;
    /** Whether a key or value reader is of a KV head or of a query head. */
    kv_readers?: string;
    /** Hash of all weights. */
    model_fingerprint?: string;
    /** Hash of the pairs of all sides in their order. */
    pairs_hash?: string;
    /** Name of the task. */
    task?: string;
    /** How the task corrupts its prompts; None for its usual way. */
    corruption?: string | null;
    /** What gates stand on; absent for edges. */
    level?: string;
    /** What tokens are dealt to spans by; absent where they are not. */
    spans?: string;
    /** What cut edges carry. */
    ablation?: string;
    /** The task metric; higher is better. */
    metric?: string;
    /** The side that circuits were verified on. */
    split?: string;
    /** What learned the ranking; None for an attribution. */
    learner?: string | null;
    /** What was minimised; None for an attribution. */
    objective?: string | null;
    /** Method of the attribution, or of the scores that training began with. */
    init?: string;
    /** How circuits were cut from the ranking. */
    selection?: string;
    /** What is reached by a point of `target_edges` edges, and by no smaller circuit tried. */
    target?: string;
    /** The size of that circuit. */
    target_edges?: number;
    /** `task.seed`. */
    task_seed?: number;
    /** `train.seed`. */
    train_seed?: number;
    /** Hash of the file of the user's own that the task is from. */
    task_sha256?: string;
    /** Of the one that the task metric is from. */
    metric_sha256?: string;
    /** Of the one that the attribution method is from. */
    init_sha256?: string;
    /** `per_reader` where a norm follows the attention. */
    post_norms?: string;
    /** What was attributed. */
    init_metric?: string;
    /** Steps of the attribution. */
    init_steps?: number;
    /** How scores become a ranking: `signed` or `absolute`. */
    ranking?: string;
    /** Whether edges of the circuits were exchanged by exact runs after they were cut. */
    refined?: boolean;
    /** Edges of the model. */
    n_edges_total?: number;
    /** The same by query head. */
    n_edges_total_ungrouped?: number;
  }
  /** The section `random_circuits`. */
  interface RandomCircuits {
    /** Held-out pairs, few of them. */
    n_pairs: number;
    /** Random circuits of each family. */
    n_random: number;
    /** Edges of the circuit. */
    n_edges: number;
    /** The circuit itself, on the same pairs. */
    circuit: CircuitMeans;
    /** By the names of `DRAWS`, from the easiest to beat to the hardest. */
    families: Record<string, RandomFamily>;
    /** The worst of all families. */
    verdict: "pass" | "fail" | "undecided";
    /** The same in words. */
    sentence: string;
  }
  /** The random circuits of one family, and the circuit's place among them. */
  interface RandomFamily {
    /** How large they are. */
    n_edges: EdgeCounts;
    /** Draws that are the circuit itself. */
    n_same: number;
    /** What p cannot fall below, for those draws; in (0, 1]. */
    least_p: number;
    /** By the p of the KL; `undecided` where none could reject. */
    verdict: "pass" | "fail" | "undecided";
    /** By the KL; less is better. */
    kl: Place;
    /** By the task metric. */
    metric: Place;
    /** By accuracy. */
    accuracy: Place;
    /** By the share of the full model's choices. */
    exact_match: Place;
    /** By faithfulness; left out where full and empty model score alike. */
    faithfulness?: Place | null;
    /** KL of every random circuit in nats, in the order drawn. */
    kl_of_each: Array<number>;
  }
  /** All that a report shows. */
  interface ReportData {
    /** Of this: 1. */
    schema: number;
    /** The runs that were given; the first is the report's. */
    runs: Array<RunData>;
    /** Of the first run's model. */
    graph: GraphData;
    /** Of the first run. */
    edges: MainColumns;
    /** Whether `attribution` has a sign. */
    signed: boolean;
    /** Of the first run, in the order of its points. */
    circuits: Array<CircuitData>;
    /** Of each circuit, positions of edges that all tasks share; None of a run of one task. */
    shared: Array<Array<number>> | null;
    /** Circuits of the further runs. */
    others: Array<OtherRun | Incomparable>;
    /** What to type for the same run. */
    command: string | null;
    /** The first run's `verification.json` as it is, for the page to check. */
    evidence: Verification | null;
    /** Studies of several runs. */
    studies: Studies;
    /** The first run's `part_edges.json` as it is, for the page to check. */
    part_edges: PartEdgeFile | null;
    /** The first run's `pairs.json` as it is, for the page to check. */
    pairs: ExamplePairs | null;
    /** The text of its `config.yaml`. */
    config: string | null;
    /** Its `versions.json`. */
    versions: Record<string, string> | null;
  }
  /** One circuit of the size, found with a penalty on the edges of the circuit under test. */
  interface Rival {
    /** In [0, 1]; 1 lets it have no edge of the circuit's that it finds any use for. */
    penalty: number;
    /** Edges that it keeps. */
    n_edges: number;
    /** Of these, edges of the circuit under test. */
    n_shared: number;
    /** Shared edges over those of either, in [0, 1]. */
    jaccard: number;
    /** On the held-out pairs, in nats. */
    kl: Estimate;
  }
  /** The section `rivals`. */
  interface Rivals {
    /** Held-out pairs, which KL is on. */
    n_pairs: number;
    /** Training pairs, few of them, which rivals are found on. */
    n_train_pairs: number;
    /** Edges of the circuit under test. */
    n_edges: number;
    /** Its KL on the held-out pairs, in nats. */
    circuit_kl: Estimate;
    /** KL of no circuit at all, in nats. */
    empty_kl: number;
    /** By penalty, none first: what the same search finds if it may take any edge. */
    rivals: Array<Rival>;
    /** The same in words. */
    sentence: string;
  }
  /** What one round of the search left. */
  interface Round {
    /** Edges left. */
    n_edges: number;
    /** Of what is left, on the pairs of the search, in nats. */
    kl: number;
    /** Names of the edges that went, with those that then lay on no path. */
    removed: Array<string>;
  }
  /** One run's frontier, as `frontier.json` has it. */
  interface RunData {
    /** Of its folder. */
    name: string;
    /** What its numbers are of. */
    about: Provenance;
    /** The whole model. */
    full: Evidence;
    /** The circuit without edges. */
    empty: Evidence;
    /** For each size, or threshold, asked for. */
    points: Array<PointRow>;
    /** Position of the chosen circuit among them. */
    chosen: number;
  }
  /** Jaccard indices of every two runs, in [0, 1]; None where both circuits are empty. */
  interface RunMatrices {
    /** Of shared edges, in the order of the runs. */
    edges: Array<Array<number | null>>;
    /** Of shared nodes. */
    nodes: Array<Array<number | null>>;
  }
  /** What was found, by the names of the kinds; those not asked for are left out. */
  interface Sections {
    /** Does the circuit alone do what the model does? */
    faithfulness?: FaithfulnessCurve | NotComputed | null;
    /** Also where cut edges carry something else? */
    cross_ablation?: CrossAblation | NotComputed | null;
    /** CPR and CMD as the MIB benchmark computes them. */
    mib?: Mib | NotComputed | null;
    /** What the circuit's nodes do. */
    function?: Function | NotComputed | null;
    /** Does every kept edge earn its place? */
    minimality?: Minimality | NotComputed | null;
    /** Is anything that the model uses missing? */
    completeness?: Completeness | NotComputed | null;
    /** Is it better than chance? */
    random_circuits?: RandomCircuits | NotComputed | null;
    /** Does the model fail without it? */
    necessity?: Necessity | NotComputed | null;
    /** Does it hold however the other edges are set? */
    adversarial?: Adversarial | NotComputed | null;
    /** Can other edges do the same? */
    rivals?: Rivals | NotComputed | null;
    /** Does one circuit describe all of the data? */
    clusters?: Clusters | NotComputed | null;
    /** Would it pass for an ideal circuit? */
    hypotheses?: Hypotheses | NotComputed | null;
    /** What is left when the edges that can go are gone? */
    minimise?: MinimisedCircuit | NotComputed | null;
  }
  /** One pair of the section `function`, on the untouched model; tokens as texts. */
  interface ShownPair {
    /** Of the pair, in the order of the task's pairs. */
    index: number;
    /** Tokens of the clean prompt, up to the answer position. */
    clean: Array<string>;
    /** Tokens of the corrupt prompt, as many. */
    corrupt: Array<string>;
    /** Right tokens. */
    answers: Array<string>;
    /** Wrong tokens. */
    wrong: Array<string>;
    /** By the reader's place (`a3`, `m3`, `logits`): the lens's best tokens, the best first. */
    lens: Record<string, Array<string>>;
    /** By kept head: weights in [0, 1] of each position on those up to it, the answer position last; of that alone where they are many. To three digits after the point. */
    attention: Record<string, Array<Array<number>>>;
  }
  /** The numbers of one circuit of the frontier. */
  interface SizeNumbers {
    /** The fraction of all edges, or the threshold, that was asked for. */
    size: number;
    /** Edges that the circuit keeps. */
    n_edges: number;
    /** KL from the full model of the next token, in nats. */
    kl: Estimate;
    /** The task metric, in its unit; higher is better. */
    metric: Estimate;
    /** Fraction of pairs on which a right token wins. */
    accuracy: Estimate;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: Estimate;
    /** Share of the full model's metric recovered from the empty circuit's: the ratio of means. */
    faithfulness: Interval;
    /** Mean of each pair's own such share, over the pairs that have one. */
    mean_of_ratios: Interval;
    /** Median of the same, which no single pair can move; absent in files of before 0.3. */
    median_of_ratios?: Interval | null;
  }
  /** Tokens of a prompt that share their gates. */
  interface SpanData {
    /** What they are called. */
    name: string;
    /** Positions of the spans whose keys and values its queries may look at. */
    sees: Array<number>;
  }
  /** Faithfulness of a circuit at home and elsewhere; None where it is undefined. */
  interface Specificity {
    /** Whose. */
    circuit: string;
    /** On its own pairs. */
    own: number | null;
    /** Mean on the pairs of other tasks. */
    others: number | null;
    /** Mean of random circuits there, by family. */
    random_on_others: Record<string, number | null>;
    /** Own minus others. */
    difference: number | null;
    /** Runs of other tasks. */
    n_other_tasks: number;
  }
  /** `stability.json`. */
  interface Stability {
    /** Of this file: 1. */
    schema: number;
    /** Name of the model. */
    model: string;
    /** Hash of its weights. */
    model_fingerprint: string;
    /** Name of the task. */
    task: string;
    /** What cut edges carry. */
    ablation: string;
    /** The task metric. */
    metric: string;
    /** Edges of the model. */
    n_edges_total: number;
    /** The side that circuits were verified on. */
    split: string;
    /** Its pairs that no run was trained on. */
    n_pairs: number;
    /** Its pairs that some run was, dropped. */
    n_pairs_seen: number;
    /** `seed` and `bootstrap`, those that were run. */
    groups: Record<string, StabilityGroup>;
    /** What all runs of all groups keep; absent in files of before 0.3. */
    core?: CoreEdges | null;
  }
  /** Runs that differ in their seeds, or in their training pairs. */
  interface StabilityGroup {
    /** Of attribution, or `training`. */
    method: string;
    /** The runs. */
    runs: Array<TrialRun>;
    /** Edges at which their circuits are compared, at most. */
    n_edges: number;
    /** What these circuits share. */
    overlap: GroupOverlap;
    /** The same for every two runs. */
    jaccard: RunMatrices;
    /** What circuits of each size of `verify.sizes` share. */
    curve: Array<GroupOverlap>;
    /** Edges kept by 0, 1, 2, ... of the runs. */
    kept_by: Array<number>;
    /** Edges of the circuits that the votes elect: `consensus` and `majority`. */
    elected: Record<string, number>;
    /** `run0`, `run1`, ... and the elected; empty if no pair was unseen by all runs. */
    measured: Record<string, Measured>;
    /** The same in words. */
    sentence: string;
  }
  /** Studies of several runs; as their files have them, for the page to check. */
  interface Studies {
    /** What `stability` wrote. */
    stability?: Stability | null;
    /** What `compare` wrote. */
    compare?: Comparison | null;
  }
  /** One task's circuit learned with others beside the one learned alone. */
  interface TaskAgainstApart {
    /** The task's folder inside the run's. */
    name: string;
    /** The run of this task alone. */
    apart: string;
    /** Edges of that run's circuit. */
    n_edges_apart: number;
    /** Of it on the held-out pairs, in nats. */
    kl_apart: number;
    /** Edges of the circuit learned with others, shared ones included. */
    n_edges: number;
    /** Those that are not shared. */
    n_private: number;
    /** Of it on the same pairs. */
    kl: number;
  }
  /** The circuit under test. */
  interface TestedCircuit {
    /** Where it lies in the run's folder, or the name of the file that was given. */
    file: string;
    /** Hash of the kept edges. */
    mask: string;
    /** Edges that it keeps. */
    n_edges: number;
    /** The same by query head. */
    n_edges_ungrouped: number;
    /** Nodes that a kept edge leaves or enters. */
    n_nodes: number;
    /** Edges of the file on no path from input to logits, which are left out; absent for none. */
    n_dangling?: number | null;
    /** What the file says of itself where the run says something else; absent where they agree. */
    says?: Record<string, string> | null;
  }
  /** One pair as the tokenizer names its tokens. */
  interface TokenPair {
    /** The prompt. */
    clean: Array<string>;
    /** Its corruption, as long. */
    corrupt: Array<string>;
    /** Right tokens. */
    answers: Array<string>;
    /** Wrong tokens. */
    wrong: Array<string>;
    /** What would follow. */
    next: NextTokens;
    /** The span of each token of the prompts; absent where they are not told apart. */
    spans?: Array<string> | null;
  }
  /** Every circuit on the pairs of every run. */
  interface Transfer {
    /** The runs whose pairs they are. */
    settings: Array<TransferSetting>;
    /** Column by column. */
    cells: Array<TransferCell>;
  }
  /** One circuit on the pairs of one run. */
  interface TransferCell {
    /** Whose circuit. */
    circuit: string;
    /** On the pairs, in the model and under the ablation of which run. */
    on: string;
    /** `KL(full model || circuit)` of the next token, in nats. */
    kl: number;
    /** Of the task, in its unit, higher is better. */
    metric: number;
    /** Fraction of pairs on which a right token beats every wrong one. */
    accuracy: number;
    /** Fraction of pairs on which the most likely token is the full model's. */
    exact_match: number;
    /** Pairs behind the means. */
    n: number;
    /** Share of the full model's metric that it keeps. */
    faithfulness: Interval;
    /** Its place among random circuits, by family. */
    random: Record<string, AmongRandom>;
  }
  /** Pairs that circuits are judged on: one column of the matrix. */
  interface TransferSetting {
    /** The run that they are of. */
    name: string;
    /** Which side of its pairs. */
    split: string;
    /** The task metric. */
    metric: string;
    /** Pairs that no run was trained on; 0 leaves the column out. */
    n_pairs: number;
    /** Pairs that some run was, dropped. */
    n_pairs_seen: number;
  }
  /** One run of a group. */
  interface TrialRun {
    /** Below the study's own. */
    folder: string;
    /** `train.seed`. */
    train_seed: number;
    /** `task.seed`. */
    task_seed: number;
    /** `task.resample`: which draw of the training pairs; None for the pairs themselves. */
    resample: number | null;
    /** Edges of the circuit that the run chose. */
    chosen_n_edges: number;
  }
  /** `verification.json`. */
  interface Verification {
    /** Of this file: `SCHEMA`. */
    schema: number;
    /** `frontier.json` without its numbers. */
    run: Provenance;
    /** The circuit under test. */
    circuit: TestedCircuit;
    /** Held-out pairs that it is judged on. */
    n_pairs: number;
    /** Training pairs of the run. */
    n_train_pairs: number;
    /** What was asked for. */
    options: Budget;
    /** Of what could change a number. */
    versions: Record<string, string>;
    /** What was found, by kind of evidence. */
    sections: Sections;
  }
}
