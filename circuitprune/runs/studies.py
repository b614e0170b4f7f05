"""What studies of several runs found: `stability.json` and `compare.json`, written and read."""

from collections.abc import Mapping
from dataclasses import dataclass

from circuitprune.circuits.overlap import GroupOverlap, Names, PairOverlap
from circuitprune.evidence.baselines import AmongRandom
from circuitprune.evidence.bootstrap import Interval
from circuitprune.evidence.faithfulness import Sized
from circuitprune.metrics import Means
from circuitprune.runs.together import AgainstApart, NotAgainstApart

# ---------------------------------------------------------------- stability


@dataclass(frozen=True)
class TrialRun:
    """One run of a group."""

    folder: str
    """Below the study's own."""
    train_seed: int
    """`train.seed`."""
    task_seed: int
    """`task.seed`."""
    resample: int | None
    """`task.resample`: which draw of the training pairs; None for the pairs themselves."""
    chosen_n_edges: int
    """Edges of the circuit that the run chose."""


@dataclass(frozen=True)
class RunMatrices:
    """Jaccard indices of every two runs, in [0, 1]; None where both circuits are empty."""

    edges: tuple[tuple[float | None, ...], ...]
    """Of shared edges, in the order of the runs."""
    nodes: tuple[tuple[float | None, ...], ...]
    """Of shared nodes."""


@dataclass(frozen=True)
class Measured(Means, Sized):
    """A circuit on pairs that no run was trained on."""

    faithfulness: Interval
    """Share of the full model's metric that it keeps."""


@dataclass(frozen=True)
class StabilityGroup:
    """Runs that differ in their seeds, or in their training pairs."""

    method: str
    """Of attribution, or `training`."""
    runs: tuple[TrialRun, ...]
    """The runs."""
    n_edges: int
    """Edges at which their circuits are compared, at most."""
    overlap: GroupOverlap
    """What these circuits share."""
    jaccard: RunMatrices
    """The same for every two runs."""
    curve: tuple[GroupOverlap, ...]
    """What circuits of each size of `verify.sizes` share."""
    kept_by: tuple[int, ...]
    """Edges kept by 0, 1, 2, ... of the runs."""
    elected: Mapping[str, int]
    """Edges of the circuits that the votes elect: `consensus` and `majority`."""
    measured: Mapping[str, Measured]
    """`run0`, `run1`, ... and the elected; empty if no pair was unseen by all runs."""
    sentence: str
    """The same in words."""


@dataclass(frozen=True)
class CoreEdges:
    """Edges by how many *views* keep them: a view is the circuit of one run at one size."""

    n_views: int
    """Runs of all groups times sizes."""
    sizes: tuple[int, ...]
    """Edges at which each run's circuit is cut."""
    core: tuple[str, ...]
    """Names of the edges that every view keeps, in the graph's order."""
    n_contingent: int
    """Edges that some views keep, not all."""
    n_half: int
    """Edges that at least half of the views keep, the core among them."""
    measured: Mapping[str, Measured]
    """`core` and `half`, their live edges alone; empty if no pair was unseen by all runs."""
    sentence: str
    """The same in words."""


@dataclass(frozen=True)
class Stability:
    """`stability.json`."""

    schema: int
    """Of this file: 1."""
    model: str
    """Name of the model."""
    model_fingerprint: str
    """Hash of its weights."""
    task: str
    """Name of the task."""
    ablation: str
    """What cut edges carry."""
    metric: str
    """The task metric."""
    n_edges_total: int
    """Edges of the model."""
    split: str
    """The side that circuits were verified on."""
    n_pairs: int
    """Its pairs that no run was trained on."""
    n_pairs_seen: int
    """Its pairs that some run was, dropped."""
    groups: Mapping[str, StabilityGroup]
    """`seed` and `bootstrap`, those that were run."""
    core: CoreEdges | None = None
    """What all runs of all groups keep; absent in files of before 0.3."""


# ---------------------------------------------------------------- compare


@dataclass(frozen=True)
class ComparedCircuit:
    """One circuit of a comparison; of a run, also what it is of."""

    name: str
    """The path that was given."""
    n_edges_found: int
    """Edges as it was found."""
    n_edges: int
    """Edges as it is compared."""
    task: str | None = None
    """Name of the run's task."""
    task_seed: int | None = None
    """`task.seed` of the run."""
    model: str | None = None
    """Name of its model."""
    model_fingerprint: str | None = None
    """Hash of the weights."""
    ablation: str | None = None
    """What cut edges carry."""


@dataclass(frozen=True)
class TransferSetting:
    """Pairs that circuits are judged on: one column of the matrix."""

    name: str
    """The run that they are of."""
    split: str
    """Which side of its pairs."""
    metric: str
    """The task metric."""
    n_pairs: int
    """Pairs that no run was trained on; 0 leaves the column out."""
    n_pairs_seen: int
    """Pairs that some run was, dropped."""


@dataclass(frozen=True)
class _Where:
    circuit: str
    """Whose circuit."""
    on: str
    """On the pairs, in the model and under the ablation of which run."""


@dataclass(frozen=True)
class TransferCell(Means, _Where):
    """One circuit on the pairs of one run."""

    faithfulness: Interval
    """Share of the full model's metric that it keeps."""
    random: Mapping[str, AmongRandom]
    """Its place among random circuits, by family."""


@dataclass(frozen=True)
class Transfer:
    """Every circuit on the pairs of every run."""

    settings: tuple[TransferSetting, ...]
    """The runs whose pairs they are."""
    cells: tuple[TransferCell, ...]
    """Column by column."""


@dataclass(frozen=True)
class Specificity:
    """Faithfulness of a circuit at home and elsewhere; None where it is undefined."""

    circuit: str
    """Whose."""
    own: float | None
    """On its own pairs."""
    others: float | None
    """Mean on the pairs of other tasks."""
    random_on_others: Mapping[str, float | None]
    """Mean of random circuits there, by family."""
    difference: float | None
    """Own minus others."""
    n_other_tasks: int
    """Runs of other tasks."""


@dataclass(frozen=True)
class _EdgesOf:
    edges_of: str
    """The circuit whose edges carry the donor's activations, or `all edges`."""


@dataclass(frozen=True)
class PatchedAcross(Means, _EdgesOf):
    """The host with the activations of the donor in some edges; KL and matches to the donor."""

    recovered: Interval
    """`(patched - host) / (donor - host)` of the mean task metric."""
    random: Mapping[str, AmongRandom]
    """Its place among random circuits, by family; empty for all edges."""


@dataclass(frozen=True)
class CrossModel:
    """Activations of one model in another of the same task."""

    host: str
    """The run whose model runs."""
    donor: str
    """The run whose model's activations are put in."""
    n_pairs: int
    """Pairs of the host."""
    host_alone: Means
    """Nothing put in."""
    donor_alone: Means
    """The donor itself."""
    patched: tuple[PatchedAcross, ...]
    """With all edges, and with those of each circuit."""


@dataclass(frozen=True)
class CrossSkipped:
    """Why the activations of one model have no place in another."""

    host: str
    """The run whose model would run."""
    donor: str
    """The run whose activations would be put in."""
    n_pairs: int
    """Pairs of the host."""
    skipped: str
    """The reason."""


@dataclass(frozen=True)
class Column:
    """What was found on the pairs of one run, kept until all columns are there."""

    setting: TransferSetting
    """Which pairs."""
    cells: tuple[TransferCell, ...]
    """Every circuit on them; none if no pair was unseen."""
    cross_model: tuple[CrossModel | CrossSkipped, ...]
    """Activations of other models in this run's."""


@dataclass(frozen=True)
class Comparison:
    """`compare.json`; from `transfer` on, only where circuits were asked to go elsewhere."""

    schema: int
    """Of this file: 1."""
    n_edges: int
    """Edges that all were cut to, at most."""
    n_edges_total: int
    """Edges of the model."""
    circuits: tuple[ComparedCircuit, ...]
    """What is compared."""
    overlap: tuple[PairOverlap, ...]
    """What every two share."""
    core: Names
    """What all share."""
    private: Mapping[str, Names]
    """What each has alone."""
    transfer: Transfer | None = None
    """Every circuit on the pairs of every run."""
    specificity: tuple[Specificity, ...] | None = None
    """Each at home against elsewhere."""
    cross_model: tuple[CrossModel | CrossSkipped, ...] | None = None
    """Every two models of one task."""
    n_random: int | None = None
    """Random circuits of each family, for each circuit."""
    against_apart: tuple[AgainstApart | NotAgainstApart, ...] | None = None
    """Runs over several tasks beside runs of one; None without the former."""
