"""Heads replaced at positions, path scores and CMAP, against plain hooks on the untouched model."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import LLAMA, tiny_lm
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, LlamaConfig

from circuitprune.data.batches import Batch
from circuitprune.errors import DataError, GraphError
from circuitprune.metrics import logit_diff
from circuitprune.models.ports import Ports
from circuitprune.patching.across_heads import check_alike, input_patched, output_patched
from circuitprune.patching.head_groups import (
    MEASURES,
    STAGES,
    find_groups,
    path_scores,
    places,
    strongest,
)
from circuitprune.patching.head_runs import Swap, run_heads, taking

N_HEADS, D_HEAD = 4, 8
FAMILIES = ("gpt2", "llama")


def boxes_batch(n=3, seed=0):
    """Prompts of 9 random tokens; the third from last stands once before, somewhere."""
    random = torch.Generator().manual_seed(seed)
    clean = torch.stack([torch.randperm(20, generator=random)[:9] for _ in range(n)]) + 2
    corrupt = torch.stack([torch.randperm(20, generator=random)[:9] for _ in range(n)]) + 2
    for row in range(n):
        clean[row, 6] = clean[row, 1 + row % 4]
        corrupt[row, 6] = corrupt[row, (2 + row) % 4]
    one = torch.arange(n)
    answers, wrong = clean[:, 3:4].clone(), clean[:, 5:6].clone()
    mask = torch.ones_like(clean, dtype=torch.bool)
    return Batch(one, clean, corrupt, mask, torch.full((n,), 8), answers, wrong)


@pytest.fixture(params=FAMILIES)
def model(request):
    return copy.deepcopy(tiny_lm(request.param)).double().requires_grad_(False)


# ------------------------------------------------------------------ the slow reference


def layers_of(model):
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def modules_of(model, layer):
    """Output projection, and per part its module, its first column and its number of heads."""
    attention = layers_of(model)[layer]
    if hasattr(attention, "attn"):
        fused = attention.attn.c_attn
        parts = {p: (fused, i * N_HEADS * D_HEAD, N_HEADS) for i, p in enumerate("qkv")}
        return attention.attn.c_proj, parts
    of = attention.self_attn
    return of.o_proj, {"q": (of.q_proj, 0, 4), "k": (of.k_proj, 0, 2), "v": (of.v_proj, 0, 2)}


def hooked(model, tokens, edits=(), record=()):
    """Logits at the last token and `{(part, layer, head): [batch, pos, d_head]}`, one by one.

    An edit is (part, layer, head, row, position, value).
    """
    seen, handles = {}, []
    for layer in range(len(layers_of(model))):
        output, parts = modules_of(model, layer)

        def of_output(module, args, layer=layer):
            values = args[0].clone()
            for part, at, head, row, position, value in edits:
                if part == "output" and at == layer:
                    values[row, position, head * D_HEAD : (head + 1) * D_HEAD] = value
            for head in range(N_HEADS):
                seen["output", layer, head] = values[..., head * D_HEAD : (head + 1) * D_HEAD]
            return (values, *args[1:])

        handles.append(output.register_forward_pre_hook(of_output))
        for part, (module, first, n_heads) in parts.items():

            def of_part(module, _, out, layer=layer, part=part, first=first, n_heads=n_heads):
                out = out.clone()
                for what, at, head, row, position, value in edits:
                    if what == part and at == layer:
                        start = first + head * D_HEAD
                        out[row, position, start : start + D_HEAD] = value
                for head in range(n_heads):
                    start = first + head * D_HEAD
                    seen[part, layer, head] = out[..., start : start + D_HEAD]
                return out

            handles.append(module.register_forward_hook(of_part))
    try:
        logits = model(tokens).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits, seen


def place_of(row, place):
    """Position of one prompt's place, by looking."""
    last = len(row) - 1
    if place != "earlier":
        return {"last": last, "query": last - 2}[place]
    (found,) = [i for i in range(last - 2) if row[i] == row[last - 2]]
    return found


# ------------------------------------------------------------------ runs


def test_nothing_swapped_is_the_model(model):
    batch, ports = boxes_batch(), Ports(model)
    assert_close(run_heads(ports, batch.clean_prompts).logits, model(batch.clean).logits[:, -1])


@pytest.mark.parametrize("part", ["q", "k", "v", "output"])
def test_a_swap_is_that_of_hooks(model, part):
    batch, ports = boxes_batch(), Ports(model)
    own, others = hooked(model, batch.corrupt)
    head = 1 if part in "kv" and hasattr(model, "model") else 3
    values = run_heads(ports, batch.corrupt_prompts, record=(part,)).parts[part]
    here = places(batch, "earlier")
    shared = N_HEADS // values[0].shape[2]
    swap = Swap(part, values, taking(ports, [(1, head * shared)], here, part))
    found = run_heads(ports, batch.clean_prompts, [swap]).logits
    edits = []
    for row in range(3):
        position = place_of(batch.clean[row].tolist(), "earlier")
        edits.append((part, 1, head, row, position, others[part, 1, head][row, position]))
    expected, _ = hooked(model, batch.clean, edits)
    assert_close(found, expected)
    assert not torch.equal(found, own)


def test_places_are_seen_and_strange_prompts_refused():
    batch = boxes_batch()
    for place in ("last", "query", "earlier"):
        for row in range(3):
            expected = place_of(batch.clean[row].tolist(), place)
            assert places(batch, place)[row].nonzero().flatten().tolist() == [expected]
    batch.clean[0, 6] = 0
    with pytest.raises(DataError, match="exactly once"):
        places(batch, "earlier")


# ------------------------------------------------------------------ path patching


def slow_score(model, batch, stage, receivers, sender):
    """One head's score at one stage by each metric, example by example."""
    share = was = change = 0.0
    for row in range(len(batch)):
        clean, corrupt = batch.clean[row : row + 1], batch.corrupt[row : row + 1]
        position = place_of(clean[0].tolist(), stage.place)
        before, mine = hooked(model, clean)
        _, theirs = hooked(model, corrupt)
        edits = []
        for layer in range(len(layers_of(model))):
            for head in range(N_HEADS):
                for at in range(position, clean.shape[1]):
                    source = theirs if (layer, head, at) == (*sender, position) else mine
                    edits.append(
                        ("output", layer, head, 0, at, source["output", layer, head][0, at])
                    )
        after, seen = hooked(model, clean, edits)
        if receivers:
            port = stage.port
            shared = N_HEADS // modules_of(model, 0)[1][port][2]
            entered = {(layer, head // shared) for layer, head in receivers}
            edits = [
                (port, layer, head, 0, position, seen[port, layer, head][0, position])
                for layer, head in entered
            ]
            after, _ = hooked(model, clean, edits)
        answer, wrong = int(batch.answers[row, 0]), int(batch.wrong[row, 0])
        p, q = (float(logits.softmax(-1)[0, answer]) for logits in (before, after))
        share += (q - p) / p / len(batch)
        d, e = (float(logits[0, answer] - logits[0, wrong]) for logits in (before, after))
        was, change = was + d, change + e - d
    return {"answer_prob": share, "logit_diff": change / was if was > 0 else 0.0}


@pytest.mark.parametrize("metric", MEASURES)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_path_scores_are_those_of_hooks(model, stage, metric):
    batch, receivers = boxes_batch(), () if stage.into is None else ((1, 0), (1, 3))
    if logit_diff(model(batch.clean).logits[:, -1], batch).mean() < 0:
        batch = replace(batch, answers=batch.wrong, wrong=batch.answers)
    found = path_scores(Ports(model), [batch], stage, receivers, metric=metric)
    senders = [(0, 1), (0, 2)] if receivers else [(0, 1), (1, 2)]
    for sender in senders:
        expected = slow_score(model, batch, stage, receivers, sender)[metric]
        assert expected and float(found[sender]) == pytest.approx(expected, rel=1e-9)
    if receivers:
        assert not found[1].any()


def test_a_model_that_prefers_wrong_answers_has_no_logit_difference_to_lose(model):
    batch = boxes_batch()
    if logit_diff(model(batch.clean).logits[:, -1], batch).mean() > 0:
        batch = replace(batch, answers=batch.wrong, wrong=batch.answers)
    assert not path_scores(Ports(model), [batch], STAGES[0], metric="logit_diff").any()


def test_batches_make_no_difference_and_groups_follow_from_scores(model):
    batch, ports = boxes_batch(4), Ports(model)
    halves = [
        Batch(**{n: getattr(batch, n)[part] for n in Batch.__dataclass_fields__})
        for part in (slice(0, 1), slice(1, 4))
    ]
    groups, scores = find_groups(ports, [batch], least=0.0, most=2)
    for one, two in zip(
        scores.values(), find_groups(ports, halves, 0.0, 2)[1].values(), strict=True
    ):
        assert_close(one, two)
    fetchers = scores["value fetcher"]
    lowest = sorted((float(fetchers[i, j]), (i, j)) for i in range(2) for j in range(4))[:2]
    assert groups["value fetcher"] == tuple(head for score, head in lowest if score <= 0)
    assert strongest(fetchers, least=1e9, most=8) == ()
    with pytest.raises(DataError, match="no batches"):
        path_scores(ports, [], STAGES[0])


# ------------------------------------------------------------------ across models


def other(model):
    """A model of the same size with other weights."""
    donor = copy.deepcopy(model)
    random = torch.Generator().manual_seed(9)
    for weight in donor.parameters():
        weight.add_(0.3 * torch.randn(weight.shape, generator=random, dtype=weight.dtype))
    return donor


GROUPS = {"value fetcher": ((1, 0), (1, 2)), "structure reader": ((0, 3),)}


def test_outputs_of_a_donor_are_those_of_hooks(model):
    donor, batch = other(model), boxes_batch()
    _, theirs = hooked(donor, batch.clean)
    edits = []
    for row in range(3):
        tokens = batch.clean[row].tolist()
        for name, place in (("value fetcher", "last"), ("structure reader", "earlier")):
            at = place_of(tokens, place)
            for layer, head in GROUPS[name]:
                edits.append(
                    ("output", layer, head, row, at, theirs["output", layer, head][row, at])
                )
    expected, _ = hooked(model, batch.clean, edits)
    assert_close(output_patched(Ports(model), Ports(donor), batch, GROUPS), expected)


@pytest.mark.parametrize("parts", [("q",), ("k", "v"), ("q", "k", "v")])
def test_inputs_of_a_donor_are_those_of_hooks(model, parts):
    donor, batch = other(model), boxes_batch()
    _, mine = hooked(model, batch.clean)
    _, theirs = hooked(donor, batch.clean)
    edits = []
    for row in range(3):
        tokens, at_place, touched = batch.clean[row].tolist(), set(), set()
        for name, place in (("value fetcher", "last"), ("structure reader", "earlier")):
            at = place_of(tokens, place)
            for layer, head in GROUPS[name]:
                at_place.add((layer, head, at))
                size = N_HEADS // modules_of(model, 0)[1]["k"][2]
                for one in range(head // size * size, (head // size + 1) * size):
                    touched |= {(layer, one, position) for position in range(9)}
                for part in parts:
                    reads = head if part == "q" else head // size
                    for position in [at] if part == "q" else range(at + 1):
                        value = theirs[part, layer, reads][row, position]
                        edits.append((part, layer, reads, row, position, value))
        for layer, head, position in touched - at_place:
            value = mine["output", layer, head][row, position]
            edits.append(("output", layer, head, row, position, value))
    expected, _ = hooked(model, batch.clean, edits)
    found = input_patched(Ports(model), Ports(donor), batch, GROUPS, parts)
    assert_close(found, expected)
    assert not torch.allclose(found, model(batch.clean).logits[:, -1])


def test_a_model_is_its_own_donor_and_others_are_refused(model):
    batch, ports = boxes_batch(), Ports(model)
    own = model(batch.clean).logits[:, -1]
    assert_close(output_patched(ports, ports, batch, GROUPS), own)
    assert_close(input_patched(ports, ports, batch, GROUPS), own)
    smaller = Ports(tiny_lm("llama" if hasattr(model, "transformer") else "gpt2"))
    with pytest.raises(GraphError, match="equal sizes"):
        output_patched(ports, smaller, batch, GROUPS)


@pytest.mark.parametrize("other", [{"num_key_value_heads": 4}, {"num_hidden_layers": 3}])
def test_one_difference_alone_is_refused(other):
    """As many edges over more KV heads; as many KV heads in more layers."""
    tokens = dict(vocab_size=30, pad_token_id=0)
    host, donor = (
        Ports(AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA | more, **tokens)), "query_head")
        for more in ({}, other)
    )
    assert (host.graph == donor.graph) != (host.n_kv_heads == donor.n_kv_heads)
    with pytest.raises(GraphError, match="equal sizes"):
        check_alike(host, donor)
