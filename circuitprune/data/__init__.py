"""From a task to batches: pairs of prompts, their tokens, splits that share nothing, batches.

A task (`tasks/`, one file each) makes pairs; `encoding` turns them into tokens and drops what a
tokenizer cannot use, `splits` keeps related pairs on one side, `batches` pads. Imports `errors` and
`files`.
"""

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
