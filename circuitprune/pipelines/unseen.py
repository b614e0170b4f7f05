"""Which pairs a run has seen, and whether it still is of the model and pairs that it names."""

from collections.abc import Iterable
from dataclasses import replace

from circuitprune.config import RunConfig
from circuitprune.data.batches import Batch, collate
from circuitprune.data.encoding import Example
from circuitprune.data.pairs import PairData, pairs_hash
from circuitprune.errors import RunError
from circuitprune.pipelines.pairs import make_pairs
from circuitprune.pipelines.setup import Setup
from circuitprune.runs.finished import Found


def check_source(found: Found, fingerprint: str, data: PairData) -> None:
    """Refuse a run that was made of another model or of other pairs than are there now.

    Args:
        found: The run.
        fingerprint: Of the model that its config names now.
        data: The pairs that its config gives now.

    Raises:
        RunError: either differs.
    """
    now = {"model": fingerprint, "pairs": pairs_hash(data.splits)}
    then = {"model": found.fingerprint, "pairs": found.pairs_hash}
    for what, key in (("model", "model_fingerprint"), ("pairs", "pairs_hash")):
        if then[what] != now[what]:
            raise RunError(
                f"{found.name} was made with another model or other pairs than its config gives "
                f"now: {key} was {then[what]} and is {now[what]}. Restore the {what}, or run again "
                "in another folder"
            )


Texts = set[object]
"""Clean prompts, and unordered pairs of prompts, as text."""


def texts_of(examples: Iterable[Example]) -> Texts:
    """What makes another pair one that was seen: its clean prompt, or the same two prompts.

    The rule by which `split` keeps pairs on one side.
    """
    pairs = [example.pair for example in examples]
    return {p.clean for p in pairs} | {frozenset((p.clean, p.corrupt)) for p in pairs}


def trained_on(setup: Setup, configs: Iterable[RunConfig]) -> Texts:
    """What runs in this setup's model were trained on; a resample has pairs of the same seed."""
    seen = texts_of(setup.data.splits["train"])
    for seed in {config.task.seed for config in configs} - {setup.config.task.seed}:
        config = replace(setup.config, task=replace(setup.config.task, seed=seed))
        seen |= texts_of(make_pairs(config, setup.gated.model, setup.tokenizer).splits["train"])
    return seen


def unseen_batches(setup: Setup, seen: Texts) -> list[Batch]:
    """The held-out pairs of a run that are not among `seen`, in batches, where the model is.

    Empty if all of them were seen.
    """
    data, name, size = setup.data, setup.held_out, setup.config.verify.batch_size
    first = sum(len(data.splits[n]) for n in list(data.splits)[: list(data.splits).index(name)])
    kept = [
        (first + i, example)
        for i, example in enumerate(data.splits[name])
        if not texts_of([example]) & seen
    ]
    parts = [kept[at : at + size] for at in range(0, len(kept), size)]
    return [
        collate([e for _, e in part], [i for i, _ in part], data.pad_id).to(setup.gated.device)
        for part in parts
    ]
