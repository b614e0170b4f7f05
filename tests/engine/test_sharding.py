"""A model divided among processes: what one process computes, to the bit, and holds a part of."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from conftest import random_batch
from family_configs import build
from ranks import several
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from circuitprune.attribution import METHODS
from circuitprune.data.batches import Batch
from circuitprune.engine import GatedModel, References, gathering
from circuitprune.metrics import kl_divergence, logit_diff
from circuitprune.models.sharding import shard
from circuitprune.patching.acdc import acdc
from circuitprune.runs.identity import fingerprint

FAMILIES = ("gpt2", "llama", "gemma2")
CPU = torch.device("cpu")
METHOD_NAMES = ("eap", "eap_ig_inputs", "gate_ig")


@contextmanager
def meeting() -> Iterator[None]:
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def pairs() -> Batch:
    answers = torch.tensor([[5], [9], [7]])
    return Batch(torch.arange(3), *random_batch([9, 7, 6], seed=3), answers, answers + 1)


def attributed(model: PreTrainedModel, kv_readers: str = "kv_head") -> dict[str, torch.Tensor]:
    """What training and attribution ask of a model."""
    gated = GatedModel(model, kv_readers)
    references, batch = References(gated, "patch"), pairs()
    found = {
        name: METHODS[name].score(References(gated, "patch"), [batch], logit_diff, 3)
        for name in METHOD_NAMES
    }
    gates = torch.full((gated.graph.n_edges,), 0.7, dtype=gated.dtype, requires_grad=True)
    optimiser = torch.optim.Adam([gates], lr=0.05)
    for _ in range(5):
        run = references.run(batch)
        loss = kl_divergence(run.full, run(gates)).sum() + gates.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found["gates"] = gates.detach().clone()
    mask = gates > gates.median()
    with torch.no_grad():
        found["circuit"] = references.run(batch)(mask)
        few = torch.zeros_like(mask)
        few[found["eap"].abs().topk(9).indices] = True
        found["few"] = references.run(batch)(few)
    return found


@pytest.mark.parametrize(("family", "world"), [("gpt2", 2), ("llama", 3), ("gemma2", 2)])
def test_a_divided_model_gives_what_a_whole_one_gives(family, world, tmp_path):
    model = copy.deepcopy(build(family))
    expected = attributed(copy.deepcopy(model))

    def work(rank: int) -> None:
        with meeting():
            before = fingerprint(model)
            found = attributed(shard(model, CPU, world))
            assert fingerprint(model) == before
            torch.save(found, tmp_path / f"{rank}.pt")

    assert several(world, work) == [0] * world
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.in_layers])
def test_methods_use_weights_only_while_their_layer_runs(method, tmp_path):
    """All that config lets through, in two processes, where key/value heads are repeated."""
    model, metric = copy.deepcopy(build("llama")), logit_diff

    def scores(model: PreTrainedModel) -> torch.Tensor:
        references = References(GatedModel(model, "query_head"), "patch")
        if method == "acdc":
            return acdc(references, [pairs()], 0.05).mask
        return METHODS[method].score(references, [pairs()], metric, 2)

    alone = scores(copy.deepcopy(model))

    def work(_: int) -> None:
        with meeting():
            assert torch.equal(scores(shard(model, CPU, 2)), alone)

    assert several(2, work) == [0, 0]


def divided(module: torch.nn.Module) -> list[bool]:
    """Of each matrix: whether a process holds but its share at the moment."""
    return [isinstance(one, DTensor) for one in module.parameters() if one.ndim > 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_process_holds_its_share_and_the_layer_that_runs(family):
    model = copy.deepcopy(build(family))
    matrices = sum(one.nbytes for one in model.parameters() if one.ndim > 1)

    def work(_: int) -> None:
        with meeting():
            gated = GatedModel(shard(model, CPU, 2))
            here = [one.to_local() for one in model.parameters() if one.ndim > 1]
            assert sum(one.untyped_storage().nbytes() for one in here) <= 0.51 * matrices
            blocks, seen = gated.ports.blocks, {"forth": [], "back": []}
            for block in blocks:
                note = lambda *_: seen["forth"].append([any(divided(b)) for b in blocks])  # noqa: E731
                block.register_forward_hook(note, prepend=True)
            let_go = gathering._LetGo.backward

            def noting(ctx, grad):
                seen["back"].append([any(divided(b)) for b in blocks])
                return let_go(ctx, grad)

            gathering._LetGo.backward = staticmethod(noting)
            gates = torch.full((gated.graph.n_edges,), 0.5, dtype=gated.dtype, requires_grad=True)
            references = References(gated, "patch")
            run = references.run(pairs())
            full = run.full
            seen["forth"].clear()
            kl_divergence(full, run(gates)).sum().backward()
            whole_in_turn = [[i != layer for i in range(3)] for layer in range(3)]
            assert seen["forth"] == whole_in_turn
            assert [sum(not one for one in now) for now in seen["back"]] == [1, 1, 1], seen["back"]
            assert all(divided(model))  # and at the end, all is

    assert several(2, work) == [0, 0]
