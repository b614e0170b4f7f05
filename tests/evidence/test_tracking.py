"""Circuits of head groups and masks of desiderata, against hooks on the untouched model."""

import copy
import math

import pytest
import torch
from patching.test_head_runs import boxes_batch, hooked, place_of
from tiny import tiny_lm

from circuitprune.data.batches import Batch
from circuitprune.errors import DataError
from circuitprune.evidence.head_circuits import (
    HeadCircuit,
    completeness,
    mean_outputs,
    minimal,
    minimality,
)
from circuitprune.evidence.tracking import head_groups, patched_rows, shared
from circuitprune.evidence.tracking_subject import Budget, subject
from circuitprune.models import load_model
from circuitprune.models.ports import Ports
from circuitprune.patching.head_groups import PLACES, places
from circuitprune.patching.head_runs import Swap, run_heads, taking
from circuitprune.training.desiderata import learn_carriers

N_PAIRS = 16
GROUPS = {
    "value fetcher": ((1, 0), (1, 2), (0, 3)),
    "position detector": ((0, 3),),
    "structure reader": ((0, 1), (1, 0)),
}


@pytest.fixture(scope="module")
def model():
    return copy.deepcopy(tiny_lm("gpt2")).double().requires_grad_(False)


@pytest.fixture(scope="module")
def batch(model):
    """Prompts on which the model is right in some cases, and the circuit in others."""
    found, ports = boxes_batch(N_PAIRS), Ports(model)
    whole = model(found.clean).logits[:, -1].argmax(1)
    means = tuple(v.expand(N_PAIRS, -1, -1, -1) for v in mean_outputs(ports, [found]))
    members = taking(ports, [(1, 0), (1, 2), (0, 3)], places(found, "last"))
    alone = run_heads(ports, found.clean_prompts, [Swap("output", means, 1 - members)])
    found.answers[:, 0] = torch.where(torch.arange(N_PAIRS) % 4 == 0, whole, alone.logits.argmax(1))
    return found


def slow_accuracy(model, batch, means, keeps):
    """Accuracy with each head that `keeps(head, place of position)` refuses at its mean."""
    right = 0
    for row in range(len(batch)):
        tokens = batch.clean[row : row + 1]
        at = {place: place_of(tokens[0].tolist(), place) for place in ("last", "query", "earlier")}
        edits = [
            ("output", layer, head, 0, position, means["output", layer, head][position])
            for layer in range(2)
            for head in range(4)
            for position in range(tokens.shape[1])
            if not keeps((layer, head), {name for name, p in at.items() if p == position})
        ]
        logits, _ = hooked(model, tokens, edits)
        right += int(logits.argmax()) == int(batch.answers[row, 0])
    return right / len(batch)


@pytest.fixture(scope="module")
def means(model, batch):
    """Of each head at each position over the corrupt prompts."""
    _, seen = hooked(model, batch.corrupt)
    return {key: values.mean(0) for key, values in seen.items()}


@pytest.fixture(scope="module")
def circuit(model, batch):
    ports = Ports(model)
    return HeadCircuit(ports, GROUPS, [batch], mean_outputs(ports, [batch]))


@pytest.mark.parametrize("n_cut", [0, 2])
def test_a_circuit_is_what_hooks_leave(circuit, model, batch, means, n_cut):
    cut = circuit.members[:n_cut]
    kept = {(head, PLACES[name]) for name, head in circuit.members if (name, head) not in cut}

    def in_circuit(head, places):
        return any((head, place) in kept for place in places)

    assert circuit.accuracy(cut) == slow_accuracy(model, batch, means, in_circuit)
    gone = {(head, PLACES[name]) for name, head in cut}

    def in_model(head, places):
        return not any((head, place) in gone for place in places)

    assert circuit.model_accuracy(cut) == slow_accuracy(model, batch, means, in_model)


def test_means_do_not_depend_on_batches_and_need_one_length(model, batch):
    ports, fields = Ports(model), Batch.__dataclass_fields__
    halves = [
        Batch(**{n: getattr(batch, n)[part] for n in fields})
        for part in (slice(3), slice(3, N_PAIRS))
    ]
    for one, two in zip(mean_outputs(ports, [batch]), mean_outputs(ports, halves), strict=True):
        torch.testing.assert_close(one, two)
    cut = {n: getattr(batch, n)[:, :-1] for n in ("clean", "corrupt", "mask")}
    shorter = Batch(**{n: getattr(batch, n) for n in fields} | cut)
    with pytest.raises(DataError, match="one length"):
        mean_outputs(ports, [batch, shorter])


def test_minimality_by_hand(circuit):
    """Every number again from accuracies, K by trying every other member of the group."""
    rows = {(row.group, row.head): row for row in minimality(circuit, share=0.3)}
    assert len({row.without_it_too for row in rows.values()}) > 1
    assert list(rows) == [(name, f"a{h[0]}.h{h[1]}") for name, h in circuit.members]
    for name, head in circuit.members:
        me, others = (name, head), [o for o in circuit.members if o[0] == name and o[1] != head]
        gaps = {o: circuit.accuracy([o]) - circuit.accuracy([o, me]) for o in others}
        n_cut = min(len(others), math.ceil(0.3 * len(GROUPS[name])))
        cut = sorted(others, key=gaps.get, reverse=True)[:n_cut]
        row = rows[name, f"a{head[0]}.h{head[1]}"]
        assert row.without_others == circuit.accuracy(cut)
        assert row.without_it_too == circuit.accuracy([*cut, me])
        assert row.minimality == row.without_others / max(row.without_it_too, 1 / N_PAIRS) - 1
    kept = minimal(GROUPS, list(rows.values()), least=0.0)
    assert all({*kept[name]} <= {*heads} for name, heads in GROUPS.items())
    assert minimal(GROUPS, list(rows.values()), least=-2.0) == GROUPS


def test_completeness_knocks_the_same_out_of_both(circuit):
    rows = completeness(circuit, 3, torch.Generator().manual_seed(0))
    assert len(rows) == 3 and all(len(row.cut) == 2 for row in rows)  # ceil(.3 * 6)
    names = {f"a{h[0]}.h{h[1]} ({name})": (name, h) for name, h in circuit.members}
    for row in rows:
        cut = [names[name] for name in row.cut]
        assert (row.circuit, row.model) == (circuit.accuracy(cut), circuit.model_accuracy(cut))
    assert completeness(circuit, 0, torch.Generator()) == ()


# ------------------------------------------------------------------ desiderata


def test_masks_find_the_head_that_carries_the_answer(model):
    """The target is what the patch of one head gives: that head, and no other, is found."""
    batch, heads = boxes_batch(12, seed=5), [(1, 0), (1, 1), (1, 3)]
    _, others = hooked(model, batch.corrupt)
    edits = []
    for row in range(12):
        edits.append(("output", 1, 1, row, 8, 30 * others["output", 1, 1][row, 8]))
    louder = copy.deepcopy(model)
    for_head = louder.transformer.h[1].attn.c_proj.weight
    for_head[8:16] *= 30  # the head now decides alone
    expected, _ = hooked(model, batch.clean, edits)
    target = Batch(**vars(batch) | {"answers": expected.argmax(1, keepdim=True)})
    found = learn_carriers(Ports(louder), heads, "last", [target] * 8, [target], lr=0.3)
    assert (1, 1) in found.heads and found.accuracy >= found.all_heads
    before = louder(batch.clean).logits[:, -1].argmax(1)
    assert found.accuracy > float((before == target.answers[:, 0]).double().mean())


def test_the_patch_of_masks_is_that_of_hooks(model):
    """All heads of a group patched, at the earlier mention, which stands elsewhere in the other."""
    batch, heads = boxes_batch(6, seed=2), [(0, 1), (1, 2)]
    _, others = hooked(model, batch.corrupt)
    edits = []
    for row in range(6):
        both = (batch.clean[row].tolist(), batch.corrupt[row].tolist())
        here, there = (place_of(tokens, "earlier") for tokens in both)
        edits += [("output", *h, row, here, others["output", *h][row, there]) for h in heads]
    expected = hooked(model, batch.clean, edits)[0].argmax(1, keepdim=True)
    target = Batch(**vars(batch) | {"answers": expected})
    found = learn_carriers(Ports(model), heads, "earlier", [target], [target], epochs=1)
    assert found.all_heads == 1.0
    with pytest.raises(DataError, match="there are none"):
        learn_carriers(Ports(model), heads, "earlier", [], [target])


# ------------------------------------------------------------------ the whole, on a shipped model


def test_a_whole_look_at_a_small_model_and_itself():
    model, tokenizer = load_model("zoo/small")
    ports = Ports(model.requires_grad_(False))
    budget = Budget(n_paths=6, n_measured=12, n_masks=8, least=0.001, most=2, n_random=2)
    of = subject("one", ports, tokenizer, budget, seed=0)
    assert [len(side) for side in of.masks["label"]] == [1, 1]
    found, groups = head_groups(of, budget, seed=0)
    assert [group.name for group in found.groups] == list(PLACES)
    assert all(len(group.heads) <= 2 for group in found.groups) and found.groups[0].heads
    assert found.n_pairs == 12 and found.whole.among <= 1
    assert all(row.both == row.tuned == row.base for row in shared(found, found))
    rows = patched_rows(of, of, groups)
    assert {row.what for row in rows} == {"output", "q", "k", "v", "qkv"}
    assert all(row.right == found.whole for row in rows)
