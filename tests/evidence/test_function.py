"""The section about what a circuit does, on the model whose answer to that is known."""

from dataclasses import replace
from functools import cache
from importlib import import_module

import pytest
import torch
from evidence_cases import in_a_file, written
from models.test_induction import data, references

from circuitprune.engine.evaluation import evaluate_full
from circuitprune.evidence import EVIDENCE
from circuitprune.evidence.case import Case
from circuitprune.evidence.function import Function, function
from circuitprune.evidence.results import verdict_in
from circuitprune.lens.heads import attention_patterns
from circuitprune.metrics import logit_diff
from circuitprune.models.zoo.induction import (
    INDUCTION_HEAD,
    LENGTH,
    PREVIOUS_HEAD,
    induction_tokenizer,
    true_circuit,
)


@cache
def base() -> Case:
    mask = true_circuit()
    return Case(
        references(0.0),
        data().batches("test"),
        data().batches("train"),
        logit_diff,
        mask,
        mask.float(),
        {0.05: mask},
        seed=3,
        tokenizer=induction_tokenizer(),
    )


@cache
def found() -> Function:
    return function(base())


def test_it_is_registered_and_plain_json():
    assert EVIDENCE["function"] is function
    assert written(found()) == found() and len(in_a_file(found())) < 20_000


def test_the_same_case_gives_the_same_bytes_whatever_the_global_seed():
    torch.manual_seed(5)
    assert in_a_file(function(base())) == in_a_file(found())


def test_only_nodes_of_the_circuit_are_described():
    assert [row.head for row in found().heads] == [PREVIOUS_HEAD, INDUCTION_HEAD]
    nodes = {row.node for row in found().direct}
    assert nodes == {"input", PREVIOUS_HEAD, INDUCTION_HEAD, "not kept", "biases"}
    for example in found().examples:
        assert set(example.attention) == {PREVIOUS_HEAD, INDUCTION_HEAD}


def test_direct_shares_sum_to_the_models_logit_difference():
    total = sum(row.share for row in found().direct)
    full = evaluate_full(references(0.0), data().batches("test"), logit_diff).metric
    assert total == pytest.approx(full, abs=1e-3)
    first = found().direct[0]
    assert first.node == INDUCTION_HEAD and first.edge_to_logits_kept
    assert first.share == pytest.approx(full, abs=1e-2)


def test_the_lens_ends_at_the_models_own_numbers():
    lens = {row.at: row for row in found().lens}
    full = evaluate_full(references(0.0), data().batches("test"), logit_diff).metric
    assert list(lens) == ["a0", "m0", "a1", "m1", "logits"]
    assert lens["logits"].logit_diff == pytest.approx(full, abs=1e-3)
    corrupt = [
        (references(0.0).gated.plain(batch.corrupt, batch.mask, batch.last), batch)
        for batch in data().batches("test")
    ]
    swapped = torch.cat([logit_diff(logits, batch) for logits, batch in corrupt]).mean().item()
    assert lens["logits"].logit_diff_corrupt == pytest.approx(swapped, abs=1e-3)
    assert lens["logits"].answer_rank == lens["m1"].answer_rank == 0
    assert abs(lens["a1"].logit_diff) < 0.01


def test_the_heads_are_called_by_their_names():
    labels = {row.head: row.labels for row in found().heads}
    assert labels == {PREVIOUS_HEAD: ("previous",), INDUCTION_HEAD: ("induction", "copying")}
    assert f"{INDUCTION_HEAD} induction/copying" in found().sentence
    assert "from m1 on" in found().sentence


def test_attention_to_the_answer_is_what_the_patterns_say():
    heads = {row.head: row for row in found().heads}
    assert heads[INDUCTION_HEAD].to_answers > 0.99 > 0.01 > heads[INDUCTION_HEAD].to_wrong
    gated, sums = references(0.0).gated, {"to_answers": 0.0, "to_wrong": 0.0}
    for batch in data().batches("test"):
        layer, head = 0, 2
        pattern = attention_patterns(gated, batch.clean, batch.mask)[layer][:, head]
        for row in range(len(batch)):
            for at, token in enumerate(batch.clean[row].tolist()):
                weight = pattern[row, batch.last[row], at].item() / 64
                sums["to_answers"] += weight * (token in batch.answers[row].tolist())
                sums["to_wrong"] += weight * (token in batch.wrong[row].tolist())
    for name, expected in sums.items():
        assert getattr(heads[PREVIOUS_HEAD], name) == pytest.approx(expected, rel=1e-4)


def test_examples_show_what_the_induction_head_looks_at():
    assert len(found().examples) == 2
    for example in found().examples:
        clean, weights = example.clean, example.attention[INDUCTION_HEAD][-1]
        assert len(clean) == len(example.corrupt) == len(weights) == LENGTH
        after = clean.index(clean[-1]) + 1
        assert weights[after] > 0.99 and (clean[after],) == example.answers
        assert example.lens["logits"][0] == clean[after]
        assert example.attention[PREVIOUS_HEAD][-1][-2] > 0.99


def test_the_whole_pattern_is_the_models_to_three_digits():
    gated, batch = references(0.0).gated, data().batches("test")[0]
    patterns = attention_patterns(gated, batch.clean, batch.mask)
    for row, example in enumerate(found().examples):
        for name, (layer, head) in {PREVIOUS_HEAD: (0, 2), INDUCTION_HEAD: (1, 1)}.items():
            triangle = example.attention[name]
            assert [len(weights) for weights in triangle] == list(range(1, LENGTH + 1))
            for at, weights in enumerate(triangle):
                theirs = patterns[layer, row, head, at, : at + 1].tolist()
                assert weights == tuple(round(weight, 3) for weight in theirs)


def test_of_a_pattern_too_large_for_the_file_the_answer_position_is_left(monkeypatch):
    monkeypatch.setattr(
        import_module("circuitprune.evidence.shown_pairs"),
        "MOST_WEIGHTS",
        LENGTH * (LENGTH + 1) - 1,
    )  # of two heads
    for few, whole in zip(function(base()).examples, found().examples, strict=True):
        assert few.attention == {name: rows[-1:] for name, rows in whole.attention.items()}
        assert len(few.attention[INDUCTION_HEAD][0]) == LENGTH


def test_it_describes_and_gives_no_verdict():
    assert found().n_pairs == 64 and verdict_in(found()) is None


def test_without_a_tokenizer_ids_are_shown():
    bare = function(replace(base(), tokenizer=None))
    assert all(token.isdigit() for token in bare.examples[0].clean)


def test_an_empty_circuit_has_nothing_to_describe():
    empty = function(replace(base(), mask=torch.zeros_like(true_circuit())))
    assert empty.heads == () and [row.node for row in empty.direct] == [
        "not kept",
        "biases",
    ]
