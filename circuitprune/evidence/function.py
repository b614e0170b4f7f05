"""What the circuit does: when the answer appears, who writes it, what kept heads look at.

Descriptions of the untouched model, restricted to the circuit's nodes. They suggest what a node is
for; the other kinds of evidence say whether it matters.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.circuits.circuit import Circuit
from circuitprune.data.batches import Batch
from circuitprune.errors import DataError, MetricError
from circuitprune.evidence.case import Case
from circuitprune.lens.heads import attention_patterns, probe_heads
from circuitprune.lens.logits import direct_logit_attribution, logit_lens, ranks, residual_streams
from circuitprune.metrics import logit_diff

N_SHOWN = 2
"""Example pairs whose tokens, lens and attention are shown."""
N_PAIRS = 128
"""Pairs at most behind the means."""
PROBES = ("previous", "duplicate", "induction", "copying", "anticopying")
MOST_WEIGHTS = 30_000
"""Attention weights of one pair that are kept; beyond, only those from the answer position."""
N_TOP = 3
"""Tokens that the lens shows at each place."""


def function(case: Case) -> dict:
    """The section `function`; see docs/evidence.md, What the circuit does.

    `lens`: at each reader's stream, the answer's mean rank and mean logit difference on clean
    prompts, the latter on corrupt ones too (the base that ablated edges leave). `direct`: each kept
    writer's mean direct share of the logit difference. `heads`: the probes of each kept head, and
    its mean attention from the answer position to where answers and wrong tokens stand in the
    prompt. `examples`: tokens, lens and attention of a few pairs. There is no verdict: nothing is
    tested here.
    """
    batches = _first_pairs(case.batches, N_PAIRS)
    case.progress("logit lens", 0.0)
    lens = _lens(case, batches)
    case.progress("direct logit attribution", 0.3)
    direct = _direct(case, batches)
    case.progress("probes of heads", 0.5)
    heads = _heads(case, batches)
    case.progress("attention", 0.8)
    examples = _examples(case, _first_pairs(case.batches, N_SHOWN))
    case.progress("attention", 1.0)
    parts = {"lens": lens, "direct": direct, "heads": heads, "examples": examples}
    found = {"n_pairs": sum(map(len, batches)), **parts}
    return {**found, "sentence": _sentence(found)}


# ---------------------------------------------------------------- the parts


def _lens(case: Case, batches: Sequence[Batch]) -> list[dict]:
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
        row = {"answer_rank": rank, "logit_diff": clean, "logit_diff_corrupt": corrupted}
        table.append({"at": place, **{name: _number(value) for name, value in row.items()}})
    return table


def _direct(case: Case, batches: Sequence[Batch]) -> list[dict]:
    """Kept writers by the size of their mean direct share, `biases` and `not kept` last."""
    gated, graph = case.references.gated, case.graph
    try:
        parts = [direct_logit_attribution(gated, batch) for batch in batches]
    except MetricError:
        return []
    shares = torch.cat([part[0] for part in parts], dim=1).double().mean(dim=1).cpu()
    constant = torch.cat([part[1] for part in parts]).double().mean().item()
    kept = [graph.writers.index(node) for node in _kept(case) if node != "logits"]
    to_logits = graph.block_view(case.mask.cpu(), graph.logits_block)[0]
    order = sorted(kept, key=lambda writer: -abs(shares[writer].item()))
    rows = [
        {
            "node": graph.writers[writer],
            "share": _number(shares[writer].item()),
            "edge_to_logits_kept": bool(to_logits[writer]),
        }
        for writer in order
    ]
    rest = shares.sum().item() - shares[kept].sum().item()
    return [
        *rows,
        {"node": "not kept", "share": _number(rest), "edge_to_logits_kept": False},
        {"node": "biases", "share": _number(constant), "edge_to_logits_kept": True},
    ]


def _heads(case: Case, batches: Sequence[Batch]) -> list[dict]:
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
    for layer, head in _kept_heads(case):
        row: dict = {"head": f"a{layer}.h{head}", "labels": []}
        scores = dict(attended)
        if probes is not None:
            scores |= {name: getattr(probes, name) for name in PROBES}
            row["labels"] = probes.labels(layer, head)
        rows.append(row | {name: _number(float(s[layer, head])) for name, s in scores.items()})
    return rows


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


def _examples(case: Case, batches: Sequence[Batch]) -> list[dict]:
    """Tokens, lens and attention of a few pairs, one at a time."""
    gated, spell = case.references.gated, _speller(case)
    shown = []
    for batch in batches:
        streams = residual_streams(gated, batch)
        patterns = attention_patterns(gated, batch.clean, batch.mask)
        for row in range(len(batch)):
            last = int(batch.last[row])
            tops = {
                place: [spell(t) for t in logit_lens(gated, s[row]).topk(N_TOP).indices.tolist()]
                for place, s in streams.items()
            }
            seen = patterns[:, row, :, : last + 1, : last + 1].cpu()
            shown.append(
                {
                    "index": int(batch.index[row]),
                    "clean": [spell(t) for t in batch.clean[row, : last + 1].tolist()],
                    "corrupt": [spell(t) for t in batch.corrupt[row, : last + 1].tolist()],
                    "answers": [spell(t) for t in batch.answers[row].tolist() if t >= 0][:10],
                    "wrong": [spell(t) for t in batch.wrong[row].tolist() if t >= 0][:10],
                    "lens": tops,
                    **_attention(seen, _kept_heads(case)),
                }
            )
    return shown


def _attention(
    patterns: Float[Tensor, "layer head query key"], heads: Sequence[tuple[int, int]]
) -> dict[str, dict]:
    """Of each head what the answer position sees, and, unless too much, what each position does."""
    names = [f"a{layer}.h{head}" for layer, head in heads]
    of = {name: patterns[at] for name, at in zip(names, heads, strict=True)}
    last = {name: [_number(x) for x in pattern[-1].tolist()] for name, pattern in of.items()}
    found: dict[str, dict] = {"attention_from_answer": last}
    n = patterns.shape[-1]
    if len(heads) * n * (n + 1) // 2 <= MOST_WEIGHTS:
        found["attention"] = {name: _triangle(pattern) for name, pattern in of.items()}
    return found


def _triangle(pattern: Float[Tensor, "query key"]) -> list[list[float]]:
    """For each position the weights of those up to it, to three digits after the point."""
    rows = pattern.double().tolist()
    return [[round(x, 3) for x in row[: at + 1]] for at, row in enumerate(rows)]


def _sentence(found: dict) -> str:
    """What the numbers say, in words."""
    best = [row for row in found["direct"] if row["node"] not in ("not kept", "biases")][:3]
    writers = ", ".join(f"{row['node']} ({row['share']:+.2f})" for row in best)
    first = next((row["at"] for row in found["lens"] if row["answer_rank"] < 1), None)
    when = (
        f"The logit lens ranks the answer first on average from {first} on"
        if first
        else "The logit lens never ranks the answer first on average"
    )
    known = [row for row in found["heads"] if row["labels"]]
    named = ", ".join(f"{row['head']} {'/'.join(row['labels'])}" for row in known[:6])
    what = f"{len(known)} of {len(found['heads'])} kept heads pass a probe"
    return (
        f"{when}, over {found['n_pairs']} pairs. "
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
        taken.append(Batch(**{name: values[:left] for name, values in vars(batch).items()}))
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


def _kept(case: Case) -> tuple[str, ...]:
    return Circuit(case.graph, case.mask).nodes


def _kept_heads(case: Case) -> list[tuple[int, int]]:
    """Layer and index of the heads that the circuit keeps, in forward order."""
    names = [node for node in _kept(case) if node.startswith("a")]
    pairs = [name.removeprefix("a").split(".h") for name in names]
    return [(int(layer), int(head)) for layer, head in pairs]


def _speller(case: Case) -> Callable[[int], str]:
    """Text of a token id; the id itself without a tokenizer."""
    tokenizer = case.tokenizer
    return str if tokenizer is None else lambda token: str(tokenizer.decode([token]))


def _number(value: float) -> float | None:
    """Six digits, so that the file stays small; None for what is not finite."""
    return float(f"{value:.6g}") if torch.isfinite(torch.tensor(value)) else None
