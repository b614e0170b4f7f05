"""A case on a tiny random model, for the tests of every kind of evidence."""

import json
from copy import deepcopy
from dataclasses import replace

import torch
from conftest import VOCAB, build_tiny_model, random_batch

from circuitprune.circuits.selection import select_sizes
from circuitprune.data.batches import Batch
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.evidence import Case
from circuitprune.files.records import from_json, to_json
from circuitprune.metrics import logit_diff

SIZES = (0.05, 0.2, 0.5)


def pairs(lengths: list[int], seed: int, first: int = 0) -> Batch:
    """Random prompt pairs of these lengths; the answer and the wrong token differ."""
    drawn = random_batch(lengths, seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.stack([torch.randperm(VOCAB, generator=generator)[:2] for _ in lengths])
    index = torch.arange(first, first + len(lengths))
    return Batch(index, *drawn, answers=tokens[:, :1], wrong=tokens[:, 1:])


def in_a_file(found) -> str:
    """A record as a file holds it, which takes neither NaN nor infinity."""
    return json.dumps(to_json(found), allow_nan=False)


def written(found):
    """A record as it comes back from a file."""
    return from_json(type(found), json.loads(in_a_file(found)))


def tiny_case(
    family: str = "gpt2", ablation: str = "patch", dtype: torch.dtype = torch.float64, **changes
) -> Case:
    """Eight held-out pairs in two batches of other lengths; the circuit is a fifth of the edges."""
    gated = GatedModel(deepcopy(build_tiny_model(family)).to(dtype))  # the cached one is shared
    graph = gated.graph
    train = [pairs([9, 8, 9], seed=5, first=100)]
    references = References(gated, make_ablation(ablation, gated.ports, train))
    scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(3))
    sizes = select_sizes(graph, -scores, SIZES)
    case = Case(
        references=references,
        batches=[pairs([9, 9, 7, 6, 8], seed=0), pairs([6, 5, 6], seed=1, first=5)],
        train_batches=train,
        task_metric=logit_diff,
        mask=sizes[0.2],
        ranking=-scores,
        sizes=sizes,
        seed=0,
        scores=scores,
        n_bootstrap=200,
        n_random=5,
        n_knockouts=3,
    )
    return replace(case, **changes)
