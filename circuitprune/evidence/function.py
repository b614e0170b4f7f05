"""What the circuit does: when the answer appears, who writes it, what kept heads look at.

Descriptions of the untouched model, restricted to the circuit's nodes. They suggest what a node is
for; the other kinds of evidence say whether it matters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.errors import DataError, MetricError, old_names
from circuitprune.evidence.case import Case
from circuitprune.evidence.part_readings import PartReadings, part_readings
from circuitprune.evidence.shown_pairs import (
    ShownPair,
    kept_heads,
    kept_nodes_of,
    short,
    shown_pairs,
)
from circuitprune.files.text import counted
from circuitprune.lens.heads import attention_patterns, probe_heads
from circuitprune.lens.logits import direct_logit_attribution, logit_lens, ranks, residual_streams
from circuitprune.metrics import logit_diff

N_SHOWN = 2
"""Example pairs whose tokens, lens and attention are shown."""
N_PAIRS = 128
"""Pairs at most behind the means."""
PROBES = ("previous", "duplicate", "induction", "copying", "anticopying")


@dataclass(frozen=True)
class LensReading:
    """The logit lens at one reader's stream, as means over pairs."""

    at: str
    """The reader's place: `a3`, `m3` or `logits`."""
    answer_rank: float
    """Of the best-ranked right token; 0 is the prediction."""
    logit_diff: float | None
    """Right minus wrong on clean prompts, in logits; None where a pair has no wrong token."""
    logit_diff_corrupt: float | None
    """The same on corrupt prompts."""


@dataclass(frozen=True)
class DirectShare:
    """What one writer adds to the logit difference through its edge to the logits."""

    node: str
    """The writer; `not kept` for all others, `biases` for what no writer writes."""
    share: float | None
    """Mean over pairs, in logits."""
    edge_to_logits_kept: bool
    """Whether the circuit keeps that edge."""


@dataclass(frozen=True)
class HeadReading:
    """What a kept head looks at from the answer position, and its probes; see `lens.heads`.

    Means over pairs, and scores on random tokens, which are left out where prompts are too short.
    """

    head: str
    """Its name, `a3.h1`."""
    labels: tuple[str, ...]
    """Probes that it passes."""
    to_answers: float
    """Share of its attention at right tokens, in [0, 1]."""
    to_wrong: float
    """Share of its attention at wrong tokens, in [0, 1]."""
    previous: float | None = None
    """Attention to the position before, in [0, 1]."""
    duplicate: float | None = None
    """Attention to the same token before, in [0, 1]."""
    induction: float | None = None
    """Attention to the token after that one, in [0, 1]."""
    copying: float | None = None
    """Share of tokens that it writes where it sees them, in [0, 1]."""
    anticopying: float | None = None
    """Share of tokens that it writes against where it sees them, in [0, 1]."""


@dataclass(frozen=True)
class Function:
    """The section `function`: the untouched model, at the circuit's nodes."""

    n_pairs: int
    """Pairs behind the means, at most `N_PAIRS`."""
    lens: tuple[LensReading, ...]
    """At each reader's stream, in forward order."""
    direct: tuple[DirectShare, ...]
    """Kept writers by the size of their share, then `not kept` and `biases`."""
    heads: tuple[HeadReading, ...]
    """Kept heads, in forward order."""
    examples: tuple[ShownPair, ...]
    """A few pairs, whole."""
    sentence: str
    """The same in words."""
    parts: PartReadings | None = None
    """Kept neurons and features; absent where gates stand on whole nodes or edges."""


def function(case: Case) -> Function:
    """The section `function`; see docs/evidence.md, What the circuit does.

    `lens`: at each reader's stream, the answer's mean rank and mean logit difference on clean
    prompts, the latter on corrupt ones too (the base that ablated edges leave). `direct`: each kept
    writer's mean direct share of the logit difference. `heads`: the probes of each kept head, and
    its mean attention from the answer position to where answers and wrong tokens stand in the
    prompt. `examples`: tokens, lens and attention of a few pairs. `parts`: where each kept neuron
    or feature is strongest, and which tokens it promotes. There is no verdict: nothing is
    tested here.
    """
    batches = _first_pairs(case.batches, N_PAIRS)
    progress = case.watch("", "parts")
    progress(0, 5)
    lens = _lens(case, batches)
    progress(1, 5)
    direct = _direct(case, batches)
    progress(2, 5)
    heads = _heads(case, batches)
    progress(3, 5)
    examples = shown_pairs(case, _first_pairs(case.batches, N_SHOWN))
    progress(4, 5)
    parts = part_readings(case, batches)
    progress(5, 5)
    n_pairs = sum(map(len, batches))
    found = Function(n_pairs, lens, direct, heads, examples, sentence="", parts=parts)
    return replace(found, sentence=_sentence(found))


# ---------------------------------------------------------------- the parts


def _lens(case: Case, batches: Sequence[Batch]) -> tuple[LensReading, ...]:
    """Means over pairs at each reader's stream, in forward order."""
    gated = case.references.gated
    rows: dict[str, list[Tensor]] = {}
    for batch in batches:
        corrupt = residual_streams(gated, batch, "corrupt")
        for place, stream in residual_streams(gated, batch).items():
            logits = logit_lens(gated, stream)
            values = (
                _answer_ranks(logits, batch).double(),
                _difference(logits, batch),
                _difference(logit_lens(gated, corrupt[place]), batch),
            )
            rows.setdefault(place, []).append(torch.stack(values))
    table = []
    for place, parts in rows.items():
        rank, clean, corrupted = torch.cat(parts, dim=1).mean(dim=1).tolist()
        table.append(LensReading(place, short(rank), _known(clean), _known(corrupted)))
    return tuple(table)


def _direct(case: Case, batches: Sequence[Batch]) -> tuple[DirectShare, ...]:
    """Kept writers by the size of their mean direct share, `biases` and `not kept` last."""
    gated, graph = case.references.gated, case.graph
    try:
        parts = [direct_logit_attribution(gated, batch) for batch in batches]
    except MetricError:
        return ()
    shares = torch.cat([part[0] for part in parts], dim=1).double().mean(dim=1).cpu()
    constant = torch.cat([part[1] for part in parts]).double().mean().item()
    kept = [graph.writers.index(node) for node in kept_nodes_of(case) if node != "logits"]
    to_logits = torch.zeros(graph.n_writers, dtype=torch.bool)
    into = case.mask.cpu() & (graph.edge_reader == graph.n_readers - 1)
    to_logits[graph.edge_writer[into]] = True
    order = sorted(kept, key=lambda writer: -abs(shares[writer].item()))
    rows = [
        DirectShare(graph.writers[w], _known(shares[w].item()), bool(to_logits[w])) for w in order
    ]
    rest = shares.sum().item() - shares[kept].sum().item()
    others = DirectShare("not kept", _known(rest), False)
    return (*rows, others, DirectShare("biases", _known(constant), True))


def _heads(case: Case, batches: Sequence[Batch]) -> tuple[HeadReading, ...]:
    """Each kept head: its attention on the task, and its probes on random tokens.

    The probes are left out where prompts cannot be long enough for them.
    """
    gated, tokenizer = case.references.gated, case.tokenizer
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    size = gated.model.config.get_text_config().vocab_size
    vocabulary = torch.tensor([token for token in range(size) if token not in special])
    try:
        probes = probe_heads(gated, vocabulary, case.generator("function"))
    except DataError:
        probes = None
    attended, rows = _attended(case, batches), []
    for at in kept_heads(case):
        labels: tuple[str, ...] = ()
        scores = {to: short(float(weights[at])) for to, weights in attended.items()}
        if probes is not None:
            labels = tuple(probes.labels(*at))
            scores |= {name: short(float(getattr(probes, name)[at])) for name in PROBES}
        rows.append(HeadReading("a{}.h{}".format(*at), labels, **scores))
    return tuple(rows)


def _attended(case: Case, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """`[layer, head]` mean attention from the answer position to right and to wrong tokens."""
    totals = {"to_answers": torch.zeros(()), "to_wrong": torch.zeros(())}
    for batch in batches:
        patterns = attention_patterns(case.references.gated, batch.clean, batch.mask)
        rows = torch.arange(len(batch), device=batch.last.device)
        from_last = patterns.transpose(2, 3)[:, rows, batch.last].double()
        for name, tokens in (("to_answers", batch.answers), ("to_wrong", batch.wrong)):
            there = (batch.clean.unsqueeze(-1) == tokens.unsqueeze(1)).any(-1) & batch.mask
            totals[name] = totals[name] + (from_last * there.unsqueeze(1)).sum((1, 3)).cpu()
    return {name: total / sum(map(len, batches)) for name, total in totals.items()}


def _sentence(found: Function) -> str:
    """What the numbers say, in words."""
    best = [row for row in found.direct if row.node not in ("not kept", "biases")][:3]
    writers = ", ".join(f"{row.node} ({row.share:+.2f})" for row in best)
    first = next((row.at for row in found.lens if row.answer_rank < 1), None)
    when = (
        f"The logit lens ranks the answer first on average from {first} on"
        if first
        else "The logit lens never ranks the answer first on average"
    )
    known = [row for row in found.heads if row.labels]
    named = ", ".join(f"{row.head} {'/'.join(row.labels)}" for row in known[:6])
    what = f"{len(known)} of {counted(len(found.heads), 'kept head')} passed a probe"
    return (
        f"{when}, over {counted(found.n_pairs, 'pair')}. "
        + (f"The largest direct shares of the logit difference are {writers}. " if writers else "")
        + what
        + (f": {named}{', ...' * (len(known) > 6)}. " if named else ". ")
        + "These describe; a head that passes a probe on random tokens need not do that here, and "
        "a node without a direct share may act through others."
    )


# ---------------------------------------------------------------- small things


def _first_pairs(batches: Sequence[Batch], n: int) -> list[Batch]:
    """The first n pairs, in batches no larger than they came."""
    taken, left = [], n
    for batch in batches:
        if left <= 0:
            break
        taken.append(type(batch)(**{name: values[:left] for name, values in vars(batch).items()}))
        left -= len(batch)
    return taken


def _answer_ranks(logits: Tensor, batch: Batch) -> Tensor:
    """Rank of the best-ranked right token of each pair; 0 is the prediction."""
    each = [ranks(logits, tokens.clamp(min=0)) for tokens in batch.answers.T]
    stacked = torch.stack(each, dim=1)
    return stacked.masked_fill(batch.answers < 0, logits.shape[1]).amin(dim=1)


def _difference(logits: Tensor, batch: Batch) -> Tensor:
    """The logit difference in float64; NaN where a pair has no wrong token."""
    try:
        return logit_diff(logits, batch).double()
    except MetricError:
        return torch.full((len(batch),), torch.nan, dtype=torch.float64)


def _known(value: float) -> float | None:
    """None for what is not finite."""
    return short(value) if math.isfinite(value) else None


__getattr__ = old_names(
    __name__,
    {
        "MOST_WEIGHTS": "evidence.shown_pairs.MOST_WEIGHTS",
        "N_TOP": "evidence.shown_pairs.N_TOP",
    },
)
