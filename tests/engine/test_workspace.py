"""Buffers come back when nothing needs them, and no call leaves more than it found."""

import gc
import weakref

import pytest
import torch
from conftest import build_tiny_model, random_batch

from circuitprune.engine import gated as engine
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.workspace import Workspace

LIKE = torch.zeros(1)


class Owner:
    """Whatever a loan ends with."""


def places(tensors):
    return [tensor.data_ptr() for tensor in tensors]


def test_what_was_lent_comes_back_when_its_owner_is_gone():
    workspace, owner = Workspace(), Owner()
    loan = workspace.lend(owner)
    taken = [loan.take(4, 5, like=LIKE), loan.take(3, like=LIKE)]
    assert [tuple(one.shape) for one in taken] == [(4, 5), (3,)] and not workspace._free
    del owner
    assert sorted(places(workspace._free)) == sorted(places(taken))
    assert loan.taken == []


def test_a_buffer_is_lent_to_one_at_a_time():
    workspace, first, second = Workspace(), Owner(), Owner()
    one = workspace.lend(first).take(8, like=LIKE)
    other = workspace.lend(second).take(8, like=LIKE)
    assert one.data_ptr() != other.data_ptr()
    del first
    assert workspace.lend(second).take(2, 4, like=LIKE).data_ptr() == one.data_ptr()
    assert not workspace._free


@pytest.mark.parametrize(
    ("free", "wanted", "taken"),
    [
        ([8, 6, 12], 6, 6),  # the smallest that fits
        ([8, 6, 12], 7, 8),
        ([8, 6], 8, 8),
        ([16], 8, 16),  # up to twice as large
        ([17], 8, None),
        ([7], 8, None),
        ([], 8, None),
    ],
)
def test_the_best_that_fits_is_lent_again_and_what_fits_nothing_is_let_go(free, wanted, taken):
    workspace, owner = Workspace(), Owner()
    workspace._free.extend(torch.empty(n) for n in free)
    sizes = dict(zip(places(workspace._free), free, strict=True))
    found = workspace.lend(owner).take(wanted, like=LIKE)
    assert sizes.get(found.data_ptr()) == taken and len(found) == wanted
    left = [] if taken is None else [n for n in free if n != taken]
    assert sorted(map(len, workspace._free)) == sorted(left)


def test_a_buffer_of_another_type_does_not_fit():
    workspace, owner = Workspace(), Owner()
    workspace._free.append(torch.empty(8))
    found = workspace.lend(owner).take(8, like=LIKE.double())
    assert found.dtype == torch.float64 and not workspace._free


@pytest.fixture
def gated():
    return GatedModel(build_tiny_model("gpt2"))


def run(gated, differentiable, backward=False):
    batch = random_batch([9, 9, 7, 6], seed=0)
    ablated = gated.record(batch.corrupt, batch.mask)
    gates = torch.full((gated.graph.n_edges,), 0.5, dtype=torch.float64)
    gates.requires_grad_(differentiable)
    logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
    if backward:
        logits.sum().backward()
    return logits


CALLS = {"plain": (False, False), "with a graph": (True, False), "backward": (True, True)}


@pytest.mark.parametrize("how", CALLS.values(), ids=CALLS)
def test_a_call_leaves_no_stream_alive_and_the_next_takes_no_new_buffer(gated, how, monkeypatch):
    """Without waiting for the garbage collector, which may come after memory has run out."""
    alive = []

    class Watched(engine.GatedStream):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.extend([weakref.ref(self), weakref.ref(self.parts)])

    monkeypatch.setattr(engine, "GatedStream", Watched)
    gc.collect()
    gc.disable()
    try:
        logits = run(gated, *how)
        if not logits.requires_grad:
            assert [one() for one in alive] == [None, None]
        del logits
        assert [one() for one in alive] == [None, None]
        first = sorted(places(gated.workspace._free))
        for _ in range(3):
            run(gated, *how)
        assert sorted(places(gated.workspace._free)) == first
        assert len(alive) == 8 and all(one() is None for one in alive)
    finally:
        gc.enable()
