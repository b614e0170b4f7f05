"""Evidence, predictions and studies: the records that `verify` and its like write, made up."""

from dataclasses import replace

from report_runs import ABOUT, SIZES, measured

from circuitprune.circuits.circuit import Circuit
from circuitprune.circuits.overlap import GroupOverlap, Names, PairOverlap, PairsSummary
from circuitprune.evidence.baselines import AmongRandom
from circuitprune.evidence.bootstrap import Estimate, Interval
from circuitprune.evidence.completeness import Complement, Completeness
from circuitprune.evidence.cross_ablation import AblationError, AblationNumbers, CrossAblation
from circuitprune.evidence.faithfulness import (
    CircuitNumbers,
    FaithfulnessCurve,
    Numbers,
    SizeNumbers,
)
from circuitprune.evidence.function import DirectShare, Function, HeadReading, LensReading
from circuitprune.evidence.gaps import FamilyGaps, KnockOutGap
from circuitprune.evidence.mib import Curve, CurvePoint, Mib
from circuitprune.evidence.minimality import EdgeRemoved, Minimality
from circuitprune.evidence.random_circuits import (
    CircuitMeans,
    EdgeCounts,
    Place,
    RandomCircuits,
    RandomFamily,
)
from circuitprune.evidence.results import Sections
from circuitprune.evidence.shown_pairs import ShownPair
from circuitprune.files.whole import write_json
from circuitprune.lens.predictions import ExamplePairs, NextTokens, TokenPair
from circuitprune.metrics import Means
from circuitprune.runs.studies import (
    ComparedCircuit,
    Comparison,
    RunMatrices,
    Specificity,
    Stability,
    StabilityGroup,
    Transfer,
    TransferCell,
    TransferSetting,
    TrialRun,
)
from circuitprune.runs.verification import Budget, TestedCircuit, Verification

TOKENS = ("When", " Ann", " met", " Bob")
FAMILIES = ("none", "class", "class", *["random"] * 6, "greedy")
"""Of the knock-outs of the completeness section, in order."""


def judge(folder, tokens=TOKENS):
    """Adds `verification.json` and `pairs.json` of these tokens to a run of `make_run`."""
    graph = Circuit.load(folder / "circuits/7.json").graph
    sizes = [n for n in SIZES if n <= graph.n_edges]
    circuit = Circuit.load(folder / f"circuits/{sizes[1]}.json")
    sections = Sections(
        faithfulness=faithfulness(graph, sizes, circuit),
        cross_ablation=cross_ablation(),
        mib=mib(),
        function=function(circuit, tuple(tokens)),
        minimality=minimality(circuit),
        completeness=completeness(circuit),
        random_circuits=random_circuits(),
    )
    write_json(folder / "verification.json", verification(sections, circuit))
    write_json(folder / "pairs.json", pairs(circuit, tuple(tokens)))
    return folder


def verification(sections, circuit):
    """The whole of `verification.json` around some sections."""
    return Verification(
        schema=1,
        run={**ABOUT, "n_edges_total": circuit.graph.n_edges},
        circuit=TestedCircuit(
            f"circuits/{circuit.n_edges}.json",
            "0" * 16,
            circuit.n_edges,
            circuit.n_edges_ungrouped,
            len(circuit.nodes),
        ),
        n_pairs=64,
        n_train_pairs=64,
        options=Budget(1000, 20, 20, 0.01, 0, 1),
        versions={"torch": "2"},
        sections=sections,
    )


def interval(value, half=0.01):
    return Estimate(float(value), value - half, value + half)


def maybe(value, half=0.01):
    """The same where it could have been undefined."""
    return Interval(float(value), value - half, value + half)


def around(kl):
    """Every number of a circuit of this KL."""
    means = vars(measured(kl))
    names = ("kl", "metric", "accuracy", "exact_match")
    return Numbers(
        **{name: interval(means[name]) for name in names},
        faithfulness=maybe(means["faithfulness"]),
        mean_of_ratios=maybe(1 - kl),
    )


# ---------------------------------------------------------------- sections


def faithfulness(graph, sizes, circuit):
    rows = [SizeNumbers(size=n / graph.n_edges, n_edges=n, **vars(around(2 / n))) for n in sizes]
    return FaithfulnessCurve(
        n_pairs=64,
        n_bootstrap=1000,
        level=0.95,
        ablation="patch",
        n_edges_total=graph.n_edges,
        n_without_ratio=0,
        circuit=CircuitNumbers(n_edges=circuit.n_edges, **vars(around(2 / circuit.n_edges))),
        full=around(0.0),
        empty=around(0.9),
        sizes=tuple(rows),
        verdict="pass",
        sentence="What faithfulness found.",
    )


def cross_ablation():
    under = AblationNumbers(n_without_ratio=0, empty_metric=interval(0.1), **vars(around(0.05)))
    return CrossAblation(
        n_pairs=64,
        n_bootstrap=1000,
        found_with="patch",
        n_train_pairs=64,
        kinds={"patch": under, "zero": under, "mean": AblationError("no training pairs")},
        verdict="pass",
        sentence="What cross_ablation found.",
    )


def mib():
    curve = Curve(
        maybe(0.9), maybe(0.1), tuple(CurvePoint(s, 9, maybe(s)) for s in (0.1, 0.5, 1.0))
    )
    return Mib(
        n_pairs=64,
        n_bootstrap=1000,
        n_edges_total=1519,
        n_edges_total_ungrouped=1519,
        signed_scores=True,
        nodes_left_out="edges alone were scored",
        cpr=maybe(0.9),
        cmd=maybe(0.1),
        curves={"edges_absolute": curve},
        sentence="What mib found.",
    )


def minimality(circuit):
    """A rise of the KL for every edge: some needed, some not, one of them a fall."""
    rises = [0.5 / (i + 1) - 0.02 for i in range(circuit.n_edges)]
    rows = [
        EdgeRemoved(name, interval(rise), interval(-rise))
        for name, rise in zip(circuit.edges, rises, strict=True)
    ]
    return minimality_of(rows)


def minimality_of(rows, tolerance=0.01):
    """The section of these edges."""
    return Minimality(
        n_pairs=64,
        n_edges=len(rows),
        tolerance=tolerance,
        base_kl=0.05,
        base_metric=0.95,
        n_needed=sum(row.kl.exceeds(tolerance) for row in rows),
        n_surely_dispensable=sum(row.kl.is_at_most(tolerance) for row in rows),
        dispensable=tuple(row.edge for row in rows if row.kl.value <= tolerance),
        edges=tuple(rows),
        verdict="fail",
        sentence="What minimality found.",
    )


def completeness(circuit):
    """Points of every family of knock-outs, on and off the diagonal."""
    points = [
        KnockOutGap(
            family=family,
            name=f"{family} {i}",
            nodes=tuple(circuit.nodes[1 : i + 1]),
            circuit=3.0 - i * 0.3,
            model=3.0 - i * 0.25,
            gap=interval(-0.05 * i),
            relative_gap=-0.02 * i,
            telling=i % 2 == 0,
            kl=0.01 * i,
        )
        for i, family in enumerate(FAMILIES)
    ]
    return completeness_of(points)


def completeness_of(points, span=3.0):
    """The section of these knock-outs."""
    gaps = FamilyGaps(
        n=2,
        n_telling=1,
        n_within=1,
        mean_gap=0.1,
        mean_kl=0.01,
        worst_gap=-0.1,
        worst_relative_gap=-0.03,
        worst_nodes=("m0",),
    )
    return Completeness(
        n_pairs=64,
        n_nodes=9,
        tolerance=0.1,
        span=span,
        mean_relative_gap=maybe(0.1),
        points=tuple(points),
        summary={"class": gaps},
        complement=Complement(1.0, 0.1, 0.5, 0.5, 64, maybe(0.05)),
        verdict="undecided",
        sentence="What completeness found.",
    )


def random_circuits():
    place = Place(quantile=1.0, p=1 / 21, mean=0.8, best=0.6, worst=1.0)
    family = RandomFamily(
        n_edges=EdgeCounts(39, 39.5, 40),
        n_same=0,
        least_p=1 / 21,
        verdict="pass",
        kl=place,
        metric=place,
        accuracy=place,
        exact_match=place,
        faithfulness=place,
        kl_of_each=tuple(1.0 - i / 50 for i in range(20)),
    )
    return RandomCircuits(
        n_pairs=64,
        n_random=20,
        n_edges=40,
        circuit=CircuitMeans(0.05, 0.95, 0.95, 0.95, 0.95),
        families={"uniform": family, "matched": family},
        verdict="pass",
        sentence="What random_circuits found.",
    )


def function(circuit, tokens):
    """What nodes read, write and look at on one pair."""
    names = [node for node in circuit.nodes if ".h" in node]
    places = [f"{kind}{layer}" for layer in range(4) for kind in "am"] + ["logits"]
    example = ShownPair(
        index=0,
        clean=tokens,
        corrupt=tokens[::-1],
        answers=tokens[:1],
        wrong=tokens[1:2],
        lens=dict.fromkeys(places, tokens),
        attention={name: triangle(len(tokens)) for name in names},
    )
    return Function(
        n_pairs=64,
        lens=tuple(LensReading(at, 9.0, 0.5, -0.5) for at in places),
        direct=tuple(DirectShare(name, (-0.5) ** i, i % 2 == 0) for i, name in enumerate(names)),
        heads=tuple(
            HeadReading(name, ("previous-token",), 0.5, 0.1, previous=0.9) for name in names
        ),
        examples=(example,),
        sentence="What function found.",
    )


def triangle(n):
    """Attention of each position to those up to it, most to the first."""
    return tuple(
        tuple(round((j == 0) * 0.5 + 0.5 / (i + 1), 3) for j in range(i + 1)) for i in range(n)
    )


def pairs(circuit, tokens):
    """One pair with what model and circuit would say next."""
    chances = [0.5 / 2**i for i in range(len(tokens))]
    ahead = tuple(zip(tokens, chances, strict=True))
    back = tuple(zip(tokens[::-1], chances, strict=True))
    follows = NextTokens(model=ahead, model_corrupt=back, circuit=back)
    pair = TokenPair(tokens, tokens[::-1], tokens[:1], tokens[1:2], follows)
    return ExamplePairs("test", 64, circuit.n_edges, (pair,))


# ---------------------------------------------------------------- studies of several runs


def stability(names):
    """A study of the seeds of runs of these names."""
    n = len(names)
    shared = tuple(
        tuple(1.0 if i == j else round(0.5 + 0.1 / (i + j), 2) for j in range(n)) for i in range(n)
    )
    kept_by = (1400, *range(10, 10 + n))
    return study({"seed": group_of(names, 40, shared, kept_by)})


def group_of(names, n_edges, shared, kept_by):
    """A group of runs of these names that share so much."""
    summary = PairsSummary(0.55, 0.5, 0.6, 0.5, 0.6, 3)
    overlap = GroupOverlap(n_edges, n_edges, n_edges, 0, summary, summary, 0.01)
    return StabilityGroup(
        method="training",
        runs=tuple(TrialRun(name, i, i, None, n_edges) for i, name in enumerate(names)),
        n_edges=n_edges,
        overlap=overlap,
        jaccard=RunMatrices(shared, shared),
        curve=(overlap,),
        kept_by=tuple(kept_by),
        elected={"consensus": n_edges, "majority": n_edges},
        measured={},
        sentence="What stability found.",
    )


def study(groups):
    """The whole of `stability.json` around some groups."""
    return Stability(
        schema=1,
        model="zoo/small",
        model_fingerprint="0" * 16,
        task="ioi",
        ablation="patch",
        metric="logit_diff",
        n_edges_total=1519,
        split="test",
        n_pairs=64,
        n_pairs_seen=0,
        groups=groups,
    )


def compared(names):
    """A comparison of circuits of these names by set algebra."""
    return Comparison(
        schema=1,
        n_edges=40,
        n_edges_total=1519,
        circuits=tuple(
            ComparedCircuit(name, 40, 40, "ioi", 0, "zoo/small", "0" * 16, "patch")
            for name in names
        ),
        overlap=tuple(
            PairOverlap(a, b, 16, 0.25, 0.5, 0.01)
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ),
        core=Names((), ()),
        private=dict.fromkeys(names, Names((), ())),
    )


def transfer(names):
    """The same with the transfer of each to one another's pairs."""
    random = {family: AmongRandom(20, mean, 1.0) for family, mean in RANDOM.items()}
    cells = [
        TransferCell(
            circuit=a,
            on=b,
            **vars(Means(0.1, 0.9, 0.9, 0.9, 64)),
            faithfulness=maybe(round(0.9 - 0.3 * i + 0.1 * j, 2)),
            random=random,
        )
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    settings = tuple(TransferSetting(name, "test", "logit_diff", 64, 0) for name in names)
    return replace(
        compared(names),
        transfer=Transfer(settings, tuple(cells)),
        specificity=tuple(Specificity(name, 0.9, 0.6, RANDOM, 0.3, 2) for name in names),
        cross_model=(),
        n_random=20,
    )


RANDOM = {"uniform": 0.01, "relabelled": 0.05}
"""Faithfulness of random circuits, by family."""
