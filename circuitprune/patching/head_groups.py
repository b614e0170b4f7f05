"""Head groups of entity tracking, found backwards from the logits by path patching at positions.

Prakash et al. 2024, "Fine-Tuning Enhances Existing Mechanisms" (arXiv 2402.14811). Each group acts
at one place of the prompt and enters one port of the group found before it:

    structure reader -v-> position detector -v-> position transmitter -q-> value fetcher -> logits
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.engine.progress import Progress, Watch, silent, unwatched
from circuitprune.errors import DataError
from circuitprune.metrics import Metric, answer_prob, logit_diff
from circuitprune.models.ports import Ports
from circuitprune.patching.head_runs import Head, HeadRun, Part, Swap, run_heads, taking

Place = Literal["last", "query", "earlier"]
"""The last token; the label of the box that is asked for; that label where its box is told of."""

QUERY = 2
"""Tokens from the label in the question to the last one: "A contains the", "11 has the"."""


@dataclass(frozen=True)
class Stage:
    """Where a group acts, and what it enters."""

    name: str
    place: Place
    into: str | None
    """The group that it enters; None for the logits."""
    port: Part
    """Of that group's heads; their outputs where the logits are entered."""


STAGES = (
    Stage("value fetcher", "last", None, "output"),
    Stage("position transmitter", "last", "value fetcher", "q"),
    Stage("position detector", "query", "position transmitter", "v"),
    Stage("structure reader", "earlier", "position detector", "v"),
)
"""In the order in which they are found."""
PLACES: Mapping[str, Place] = {stage.name: stage.place for stage in STAGES}

Groups = Mapping[str, tuple[Head, ...]]
"""Heads of each group, most important first."""

MEASURES: Mapping[str, Metric] = {"answer_prob": answer_prob, "logit_diff": logit_diff}
"""By what a head's loss is measured. A probability near 1 hardly falls by any one head."""


def where(
    tokens: Int[Tensor, "batch pos"], last: Int[Tensor, " batch"], place: Place
) -> Bool[Tensor, "batch pos"]:
    """One position of each prompt of task `boxes`.

    Args:
        tokens: Prompts.
        last: Their answer positions.
        place: Which.

    Raises:
        DataError: the label that is asked for does not stand once before the question.
    """
    here = torch.arange(tokens.shape[1], device=tokens.device)
    query = last - QUERY
    if place == "last":
        return here == last[:, None]
    if place == "query":
        return here == query[:, None]
    label = tokens.gather(1, query[:, None])
    found = (tokens == label) & (here < query[:, None])
    if bool((found.sum(dim=1) != 1).any()):
        raise DataError(
            "a prompt does not name the box that it asks for exactly once before; head groups of "
            "entity tracking are found on pairs of task boxes"
        )
    return found


def places(batch: Batch, place: Place) -> Bool[Tensor, "batch pos"]:
    """`where`, of the clean prompts of a batch."""
    return where(batch.clean, batch.last, place)


@torch.no_grad()
def path_scores(
    ports: Ports,
    batches: Sequence[Batch],
    stage: Stage,
    receivers: Sequence[Head] = (),
    progress: Progress = silent,
    metric: str = "answer_prob",
) -> Float[Tensor, "layer head"]:
    """How much each head matters through its path into the receivers; lowest matters most.

    `answer_prob`: `mean over pairs of (m_patched - m_clean) / m_clean`, m the probability of the
    right answer on the clean prompt. `logit_diff`: the mean of `m_patched - m_clean` over that of
    `m_clean`, m the logit of the right answer less the mean of the wrong ones; 0 for every head
    where the mean of `m_clean` is not positive. The sender's output at the stage's place is the
    corrupt run's, the outputs of all other heads are the clean run's, MLPs are live; what then
    arrives at the receivers' port at that place is put into a clean run. Without receivers, what
    arrives at the logits counts.

    Args:
        ports: Of the model.
        batches: Pairs of task `boxes`, corruption `random`.
        stage: Where senders act, and what they enter.
        receivers: The heads that are entered; none for the logits.
        progress: Told the heads that are done, in each batch.
        metric: One of `MEASURES`.

    Raises:
        DataError: no pairs, or prompts of another form.
    """
    if not batches:
        raise DataError("path patching needs pairs, but was given no batches")
    graph = ports.graph
    deepest = max((layer for layer, _ in receivers), default=graph.n_layers)
    senders = [(one, head) for one in range(min(deepest, graph.n_layers)) for head in _all(ports)]
    before, changes = [], []
    for number, batch in enumerate(batches):
        clean, patched = _patcher(
            ports, batch.to(ports.model.device), stage, receivers, MEASURES[metric]
        )
        changed = torch.zeros(graph.n_layers, graph.n_heads, len(batch), dtype=torch.float64)
        for done, sender in enumerate(senders, start=1):
            changed[sender] = (patched(sender) - clean).double().cpu()
            progress(number * len(senders) + done, len(batches) * len(senders))
        before.append(clean.double().cpu())
        changes.append(changed)
    return _relative(torch.cat(before), torch.cat(changes, dim=-1), metric)


def _relative(
    before: Float[Tensor, " example"], changes: Float[Tensor, "layer head example"], metric: str
) -> Float[Tensor, "layer head"]:
    """Mean change over what there was, of each pair or, where one's may be 0, of their mean."""
    if metric == "answer_prob":
        return (changes / before).mean(dim=-1)
    mean = before.mean()
    return changes.mean(dim=-1) / mean if mean > 0 else torch.zeros_like(changes[..., 0])


def _all(ports: Ports) -> range:
    return range(ports.graph.n_heads)


def _patcher(
    ports: Ports, batch: Batch, stage: Stage, receivers: Sequence[Head], measure: Metric
) -> tuple[Float[Tensor, " example"], Callable[[Head], Float[Tensor, " example"]]]:
    """The clean run's worth on one batch, and its worth with one sender patched."""
    clean = run_heads(ports, batch.clean_prompts, record=("output",))
    corrupt = run_heads(ports, batch.corrupt_prompts, record=("output",))
    here = places(batch, stage.place)
    all_of_it = torch.ones_like(here)
    everyone = [(layer, head) for layer in range(ports.graph.n_layers) for head in _all(ports)]
    frozen = Swap("output", clean.parts["output"], taking(ports, everyone, all_of_it))

    def patched(sender: Head) -> Float[Tensor, " example"]:
        changed = Swap("output", corrupt.parts["output"], taking(ports, [sender], here))
        record: tuple[Part, ...] = (stage.port,) if receivers else ()
        run = run_heads(ports, batch.clean_prompts, [frozen, changed], record)
        if receivers:
            run = _received(ports, batch, stage, receivers, run, here)
        return measure(run.logits, batch)

    return measure(clean.logits, batch), patched


def _received(
    ports: Ports,
    batch: Batch,
    stage: Stage,
    receivers: Sequence[Head],
    run: HeadRun,
    here: Bool[Tensor, "batch pos"],
) -> HeadRun:
    """A clean run in which the receivers' port sees what it saw in `run`."""
    take = taking(ports, receivers, here, stage.port)
    return run_heads(ports, batch.clean_prompts, [Swap(stage.port, run.parts[stage.port], take)])


def strongest(scores: Float[Tensor, "layer head"], least: float, most: int) -> tuple[Head, ...]:
    """Heads whose score is at most `-least`, the lowest first, at most so many.

    Args:
        scores: Of `path_scores`.
        least: Smallest loss, as a fraction, in [0, 1].
        most: Heads at most.
    """
    order = scores.flatten().argsort(stable=True)[:most].tolist()
    chosen = [divmod(place, scores.shape[1]) for place in order]
    return tuple(head for head in chosen if float(scores[head]) <= -least)


def find_groups(
    ports: Ports,
    batches: Sequence[Batch],
    least: float = 0.02,
    most: int = 20,
    watch: Watch = unwatched,
    metric: str = "answer_prob",
) -> tuple[dict[str, tuple[Head, ...]], dict[str, Float[Tensor, "layer head"]]]:
    """The four groups in the order of `STAGES`, and every head's score at each stage.

    A stage whose receivers are none finds none.

    Args:
        ports: Of the model.
        batches: As of `path_scores`.
        least, most: As of `strongest`.
        watch: Told how far each stage is.
        metric: As of `path_scores`.
    """
    groups: dict[str, tuple[Head, ...]] = {}
    scores: dict[str, Tensor] = {}
    for stage in STAGES:
        receivers = () if stage.into is None else groups[stage.into]
        if stage.into is not None and not receivers:
            empty = torch.zeros(ports.graph.n_layers, ports.graph.n_heads, dtype=torch.float64)
            groups[stage.name], scores[stage.name] = (), empty
            continue
        scores[stage.name] = path_scores(
            ports, batches, stage, receivers, watch(stage.name, "heads"), metric
        )
        groups[stage.name] = strongest(scores[stage.name], least, most)
    return groups, scores
