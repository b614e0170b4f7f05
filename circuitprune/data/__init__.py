"""From a task to batches: pairs of prompts, their tokens, splits that share nothing, batches.

A task (`tasks/`, one file each) makes pairs; `encoding` turns them into tokens and drops what a
tokenizer cannot use, `splits` keeps related pairs on one side, `batches` pads. Imports `errors` and
`files`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitprune.data.batches import NO_TOKEN, Batch, TrainOrder, collate, draw, few_pairs
    from circuitprune.data.encoding import Encoder, Example
    from circuitprune.data.pairs import PairData, Report, pairs_hash, prepare
    from circuitprune.data.splits import SPLITS

__all__ = [
    "NO_TOKEN",
    "SPLITS",
    "Batch",
    "Encoder",
    "Example",
    "PairData",
    "Report",
    "TrainOrder",
    "collate",
    "draw",
    "few_pairs",
    "pairs_hash",
    "prepare",
]

_HOMES = {
    "NO_TOKEN": "batches",
    "Batch": "batches",
    "TrainOrder": "batches",
    "collate": "batches",
    "draw": "batches",
    "few_pairs": "batches",
    "Encoder": "encoding",
    "Example": "encoding",
    "PairData": "pairs",
    "Report": "pairs",
    "pairs_hash": "pairs",
    "prepare": "pairs",
    "SPLITS": "splits",
}


def __getattr__(name: str) -> object:
    """What `_HOMES` names, loaded when first asked for; names of tasks need no torch."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
