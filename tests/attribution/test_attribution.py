"""Attribution methods against slow loops, another program's numbers, and their own laws."""

import math
from itertools import pairwise

import pytest
import reference
import torch
from conftest import random_batch
from golden_numbers import golden_batches, golden_model
from golden_numbers import scores as golden_scores
from scipy import stats
from torch.testing import assert_close

from circuitprune.attribution import (
    METHODS,
    Attribution,
    convergence,
    eap,
    eap_ig_inputs,
    gate_ig,
    per_example,
)
from circuitprune.attribution.eap_qk import eap_qk
from circuitprune.attribution.gim import gim
from circuitprune.attribution.methods import names_with
from circuitprune.data.pairs import Batch
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, DataError, NonFiniteError
from circuitprune.metrics import kl_divergence, logit_diff, prob_diff

LENGTHS = [9, 6, 7, 9]
RULES = {"left": (0.0, 0.5), "midpoint": (0.25, 0.75), "right": (0.5, 1.0)}
"""Where two steps stand between the ablated (0) and the clean (1) input."""


def pairs(rows=(0, 1, 2, 3)) -> Batch:
    """Some of four fixed pairs, padded to the longest of these."""
    rows, width = list(rows), max(LENGTHS[row] for row in rows)
    tokens = random_batch(LENGTHS, seed=2)
    answers = torch.tensor([[5, 7], [11, -1], [2, -1], [30, -1]])
    wrong = torch.tensor([[6, -1], [12, 3], [40, -1], [31, -1]])
    parts = (part[rows, :width] for part in tokens[:3])
    return Batch(torch.tensor(rows) + 20, *parts, tokens.last[rows], answers[rows], wrong[rows])


def by_logit_diff(logits, batch):
    return logit_diff(logits, batch)


def by_prob_diff(logits, batch):
    return prob_diff(logits, batch)


def patched(model, kv_readers="kv_head") -> References:
    gated = GatedModel(model, kv_readers)
    return References(gated, make_ablation("patch", gated.ports, []))


def minus_kl(references):
    return lambda logits, batch: -kl_divergence(references.full_logits(batch), logits)


@pytest.fixture
def references(model) -> References:
    return patched(model)


def value(references, gate: float, metric, batch):
    """Mean metric with every gate at one value."""
    gated = references.gated
    gates = torch.full((gated.graph.n_edges,), gate, dtype=torch.float64)
    logits = gated(gates, batch.clean, batch.mask, references.ablated(batch), batch.last)
    return metric(logits, batch).mean()


# ------------------------------------------------------------------ against slow loops


@pytest.mark.parametrize("metric", [by_logit_diff, by_prob_diff])
def test_eap_is_the_mean_over_examples_of_eap_by_hooks(
    references, model, family, metric, tolerance
):
    batch = pairs()
    expected = reference.eap_by_hooks(
        model,
        family,
        references.gated.graph,
        batch.clean,
        batch.corrupt,
        batch.mask,
        lambda logits: metric(reference.at_last(logits, batch.last), batch).mean(),
    )
    assert_close(eap(references, [batch], metric), expected, **tolerance)


@pytest.mark.parametrize(("rule", "positions"), RULES.items())
def test_riemann_rules_are_the_slow_loop(references, model, family, rule, positions, tolerance):
    batch = pairs()
    expected = reference.eap_on_path(
        model,
        family,
        references.gated.graph,
        batch.clean,
        batch.corrupt,
        batch.mask,
        lambda logits: by_logit_diff(reference.at_last(logits, batch.last), batch).mean(),
        positions,
    )
    scores = eap_ig_inputs(references, [batch], by_logit_diff, steps=2, rule=rule)
    assert_close(scores, expected, **tolerance)
    assert (scores - eap(references, [batch], by_logit_diff)).abs().max() > 1e-2


def test_eap_ig_takes_the_left_sum_of_five_steps_unless_told(references):
    given = eap_ig_inputs(references, [pairs()], by_logit_diff, steps=5, rule="left")
    assert_close(eap_ig_inputs(references, [pairs()], by_logit_diff), given)


def test_one_step_at_the_clean_end_is_eap(references, tolerance):
    scores = eap_ig_inputs(references, [pairs()], by_logit_diff, steps=1, rule="right")
    assert_close(scores, eap(references, [pairs()], by_logit_diff), **tolerance)


def test_all_rules_meet_as_steps_grow(tiny_model):
    """The midpoint fastest: its error falls with the square of the number of steps."""
    references = patched(tiny_model("gpt2"))
    fine = eap_ig_inputs(references, [pairs()], by_logit_diff, steps=64, rule="midpoint")
    for rule, gain in (("left", 3), ("right", 3), ("midpoint", 6)):
        coarse, better = (
            eap_ig_inputs(references, [pairs()], by_logit_diff, steps, rule) for steps in (4, 16)
        )
        assert (better - fine).norm() < (coarse - fine).norm() / gain


@pytest.mark.parametrize("method", [eap, eap_ig_inputs, eap_qk, gim])
@pytest.mark.parametrize("family", reference.GROUPED)
def test_a_key_value_head_scores_the_sum_of_its_query_heads(model, method, tolerance):
    """Shared keys feed all heads of the group, so gradients by query head add up."""
    grouped, single = patched(model), patched(model, "query_head")
    graph = grouped.gated.graph
    wide = method(single, [pairs()], by_logit_diff)
    total = torch.zeros(graph.n_edges, dtype=torch.float64)
    total.index_add_(0, graph.group_of_ungrouped, wide)
    assert_close(method(grouped, [pairs()], by_logit_diff), total, **tolerance)


# ------------------------------------------------------------------ law 7: along the gates


LAW_7 = [(family, "logit_diff") for family in reference.FAMILIES]
LAW_7 += [(family, name) for family in ("gpt2", "gemma2") for name in ("prob_diff", "minus_kl")]


@pytest.mark.parametrize(("family", "name"), LAW_7)
def test_law_7_gate_ig_sums_to_the_change_of_the_metric(references, name):
    """To the error of the midpoint rule, which shrinks as steps grow."""
    metric = {
        "logit_diff": by_logit_diff,
        "prob_diff": by_prob_diff,
        "minus_kl": minus_kl(references),
    }[name]
    batch = pairs()
    change = value(references, 0.0, metric, batch) - value(references, 1.0, metric, batch)
    errors = [
        abs(gate_ig(references, [batch], metric, steps).sum() - change).item() for steps in (2, 40)
    ]
    assert errors[1] < 0.02 * abs(change)
    assert errors[1] < errors[0] / 4
    assert abs(change) > 5e-4


def test_gate_ig_with_one_step_is_minus_the_gradient_at_one_half(references, tolerance):
    batch, gated = pairs(), references.gated
    gates = torch.full((gated.graph.n_edges,), 0.5, dtype=torch.float64, requires_grad=True)
    logits = gated(gates, batch.clean, batch.mask, references.ablated(batch), batch.last)
    (slope,) = torch.autograd.grad(by_logit_diff(logits, batch).mean(), gates)
    assert_close(gate_ig(references, [batch], by_logit_diff, steps=1), -slope, **tolerance)


def test_the_kl_to_the_clean_run_is_flat_there_but_not_along_the_gates(references):
    metric = minus_kl(references)
    assert eap(references, [pairs()], metric).abs().max() < 1e-6
    assert gate_ig(references, [pairs()], metric).abs().max() > 1e-2


# ------------------------------------------------------------------ every method


SCORING = names_with("function")
"""Methods that score all edges at once: a search has no part in these laws."""
METRIC_FREE = {name for name, method in METHODS.items() if method.metric == "none"}
UNSIGNED = {name for name, method in METHODS.items() if not method.signed}
PAIR_FREE = {"random"}
"""Methods that never look at a pair."""
ABLATION_FREE = {"random", "ifr"}
"""Methods that never look at what ablated edges carry."""
LEARNED = {"ugs"}
"""Results of an optimisation over batches, not means over examples."""
LIFTED = {"atp", "atp_ig", "exact_nodes"}
"""Scores of nodes turned into scores of edges, which is not linear."""
ONLY_PATCH = {"clean_corrupted", "conductance", "exact_denoising"}
"""Methods that run the corrupt prompts."""


def methods(*without: set[str]):
    """Every method but those of which a law does not hold, each left out by what it is."""
    names = [name for name in SCORING if not any(name in kind for kind in without)]
    return pytest.mark.parametrize("method", [METHODS[name].score for name in names], ids=names)


def test_the_kinds_of_methods_name_methods():
    kinds = (METRIC_FREE, ABLATION_FREE, LEARNED, LIFTED, ONLY_PATCH, UNSIGNED)
    assert set().union(*kinds) <= set(METHODS)
    assert PAIR_FREE == METRIC_FREE & ABLATION_FREE - UNSIGNED


@methods(LEARNED)
def test_scores_are_means_however_examples_are_batched(references, method, tolerance):
    expected = method(references, [pairs()], by_logit_diff, steps=1)
    assert expected.abs().max() > 1e-2
    for parts in ([[0], [1, 2, 3]], [[3, 1], [2, 0]]):
        batches = (pairs(rows) for rows in parts)
        scores = method(references, batches, by_logit_diff, steps=1)
        assert_close(scores, expected, **tolerance)


@methods(METRIC_FREE, LIFTED, LEARNED)
def test_scores_are_linear_in_the_metric(tiny_model, method):
    references = patched(tiny_model("gpt2"))
    scores = [
        method(references, [pairs()], metric, steps=2)
        for metric in (
            by_logit_diff,
            by_prob_diff,
            lambda x, b: 2 * by_logit_diff(x, b) - 3 * by_prob_diff(x, b) + 7,
        )
    ]
    assert_close(2 * scores[0] - 3 * scores[1], scores[2])


@pytest.mark.parametrize("name", sorted(METRIC_FREE))
def test_methods_without_a_metric_never_call_it(tiny_model, name):
    def metric(logits, batch):
        raise AssertionError("the metric was called")

    scores = METHODS[name].score(patched(tiny_model("gpt2")), [pairs()], metric)
    assert scores.isfinite().all() and scores.any()


@methods(ABLATION_FREE, ONLY_PATCH)
@pytest.mark.parametrize("kind", ["zero", "mean", "positional-mean"])
def test_other_ablations_have_scores_of_their_own(tiny_model, method, kind):
    gated = GatedModel(tiny_model("gpt2"))
    other = References(gated, make_ablation(kind, gated.ports, [pairs()]))
    if method is eap_ig_inputs and kind == "zero":
        with pytest.raises(ConfigError, match="use eap_ig_inputs_midpoint"):
            method(other, [pairs()], by_logit_diff, steps=1)
        return
    scores = [method(r, [pairs()], by_logit_diff, steps=1) for r in (other, patched(gated.model))]
    assert (scores[0] - scores[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", sorted(ABLATION_FREE))
def test_methods_without_an_ablation_never_ask_for_it(tiny_model, name):
    references = patched(tiny_model("gpt2"))
    references.ablated = None
    scores = METHODS[name].score(references, [pairs()], by_logit_diff)
    assert scores.isfinite().all() and scores.any()


@pytest.mark.parametrize("name", sorted(UNSIGNED))
def test_unsigned_scores_are_not_negative(references, name):
    assert (METHODS[name].score(references, [pairs()], by_logit_diff, steps=1) >= 0).all()


@methods(ABLATION_FREE, LEARNED)
def test_identical_prompts_have_no_scores(tiny_model, method):
    batch = Batch(**{**vars(pairs()), "corrupt": pairs().clean})
    scores = method(patched(tiny_model("gpt2")), [batch], by_logit_diff, steps=2)
    assert_close(scores, torch.zeros_like(scores))


@methods(PAIR_FREE)
def test_no_batches_is_an_error(tiny_model, method):
    with pytest.raises(DataError, match="given no batches"):
        method(patched(tiny_model("gpt2")), [], by_logit_diff)


@methods(METRIC_FREE)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_name_their_examples(tiny_model, method, bad):
    def metric(logits, batch):
        return by_logit_diff(logits, batch) * (bad if 22 in batch.index else 1.0)

    batches = [pairs([0, 1]), pairs([2, 3])]
    with pytest.raises(NonFiniteError, match=r"on examples \[22, 23\]"):
        method(patched(tiny_model("gpt2")), batches, metric, steps=1)


@methods()
def test_methods_are_attributions_that_leave_the_model_without_gradients(tiny_model, method):
    assert isinstance(method, Attribution)
    model = tiny_model("gpt2")
    before = [set(vars(module)) for module in model.modules()]
    scores = method(patched(model), [pairs()], by_logit_diff, steps=1)
    assert scores.dtype == torch.float64 and not scores.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [set(vars(module)) for module in model.modules()] == before


@pytest.mark.parametrize("name", sorted(ONLY_PATCH))
@pytest.mark.parametrize("kind", ["zero", "mean", "positional-mean"])
def test_methods_that_need_corrupt_runs_refuse_other_ablations(tiny_model, name, kind):
    gated = GatedModel(tiny_model("gpt2"))
    other = References(gated, make_ablation(kind, gated.ports, [pairs()]))
    with pytest.raises(ConfigError, match=f"{name} .* not for '{kind}'; set ablation=patch"):
        METHODS[name].score(other, [pairs()], by_logit_diff)


def test_other_sums_take_no_gradient_at_an_input_of_zeros(tiny_model):
    gated = GatedModel(tiny_model("gpt2"))
    zeros = References(gated, make_ablation("zero", gated.ports, []))
    for rule in ("midpoint", "right"):
        assert eap_ig_inputs(zeros, [pairs()], by_logit_diff, rule=rule).abs().max() < 100


# ------------------------------------------------------------------ examples apart, steps doubled


@methods(LEARNED, LIFTED)
def test_the_mean_of_the_examples_scores_is_the_score(tiny_model, method):
    references = patched(tiny_model("llama"))
    batches = [pairs([0, 1]), pairs([3, 2])]
    each = per_example(method, references, batches, by_logit_diff, steps=1)
    expected = method(references, batches, by_logit_diff, steps=1)
    tolerance = dict(rtol=1e-5, atol=1e-5)
    assert_close(each.mean(0), expected, **tolerance)
    alone = method(references, [pairs([2])], by_logit_diff, steps=1)
    assert_close(each[3], alone, **tolerance)


def test_examples_come_without_their_padding(tiny_model):
    """A method that is no mean shows the order of the examples and their length."""
    seen = []

    def method(references, batches, metric, steps=5):
        (batch,) = batches
        seen.append((batch.index.item(), batch.clean.shape[1], bool(batch.mask.all())))
        assert batch.last.item() == batch.clean.shape[1] - 1 == batch.corrupt.shape[1] - 1
        return torch.zeros(3) + batch.index

    references = patched(tiny_model("gpt2"))
    scores = per_example(method, references, [pairs([1, 0]), pairs([2])], by_logit_diff)
    assert seen == [(21, LENGTHS[1], True), (20, LENGTHS[0], True), (22, LENGTHS[2], True)]
    assert scores.tolist() == [[21.0] * 3, [20.0] * 3, [22.0] * 3]


def test_no_examples_have_no_scores(tiny_model):
    with pytest.raises(DataError, match="given no batches"):
        per_example(eap, patched(tiny_model("gpt2")), [], by_logit_diff)


def test_convergence_is_the_rank_correlation_of_magnitudes(tiny_model):
    references = patched(tiny_model("gpt2"))
    scores = [eap_ig_inputs(references, [pairs()], by_logit_diff, m) for m in (2, 4, 8)]
    found = convergence(eap_ig_inputs, references, iter([pairs()]), by_logit_diff, 2, doublings=2)
    expected = [stats.spearmanr(a.abs(), b.abs()).statistic for a, b in pairwise(scores)]
    assert [entry[:2] for entry in found] == [(2, 4), (4, 8)]
    assert [entry[2] for entry in found] == pytest.approx(expected, abs=1e-12)
    assert expected[0] < expected[1] < 1


def test_a_method_without_steps_has_converged(tiny_model):
    references = patched(tiny_model("gpt2"))
    (entry,) = convergence(eap, references, [pairs()], by_logit_diff)
    assert entry == (5, 10, pytest.approx(1.0))


@pytest.mark.parametrize("steps", [0, -1])
@pytest.mark.parametrize("name", SCORING)
def test_steps_are_at_least_one_where_they_mean_something(tiny_model, name, steps):
    references = patched(tiny_model("gpt2"))
    if METHODS[name].steps:
        with pytest.raises(ConfigError, match=f"1 step or more, a whole number, got steps={steps}"):
            METHODS[name].score(references, [pairs()], by_logit_diff, steps)
    elif "exact" not in name:  # those are slow, and ignore the number like the others
        assert METHODS[name].score(references, [pairs()], by_logit_diff, steps).abs().max() > 0


def test_methods_by_name():
    rules = {f"eap_ig_inputs_{rule}" for rule in ("right", "midpoint")}
    others = {"clean_corrupted", "per_writer_ig", "relp", "relp_ah", "atp", "atp_ig"}
    others |= {
        "ugs",
        "ifr",
        "magnitude",
        "random",
        "exact",
        "exact_denoising",
        "exact_nodes",
        "acdc",
        "mc_ig",
        "conductance",
        "eap_qk",
        "attn_lrp",
        "gim",
    }
    assert (
        set(METHODS) == {"eap", "eap_ig_inputs", "eap_ig_activations", "gate_ig"} | rules | others
    )
    assert METHODS["eap"].score is eap and METHODS["gate_ig"].score is gate_ig
    assert METHODS["eap_ig_inputs"].score is eap_ig_inputs


@pytest.mark.parametrize("rule", ["right", "midpoint"])
def test_methods_of_the_other_riemann_rules(tiny_model, rule):
    references = patched(tiny_model("gpt2"))
    scores = METHODS[f"eap_ig_inputs_{rule}"].score(references, [pairs()], by_logit_diff, 3)
    assert_close(scores, eap_ig_inputs(references, [pairs()], by_logit_diff, 3, rule))


# ------------------------------------------------------------------ numbers of another program


@pytest.mark.parametrize("batch_size", [16, 7])
@pytest.mark.parametrize("name", ["EAP", "EAP-IG-inputs", "EAP-IG-activations", "clean-corrupted"])
def test_all_scores_equal_those_of_eap_ig(name, batch_size):
    """All 479 edges to 1e-9, from batches of any size."""
    references, golden = patched(golden_model()), golden_scores(name)
    method = METHODS[name.lower().replace("-", "_")].score
    scores = method(references, golden_batches(batch_size), by_logit_diff, 5)
    assert set(golden) == set(references.gated.graph.edges) and len(golden) == 479
    expected = torch.tensor([golden[e] for e in references.gated.graph.edges], dtype=torch.float64)
    assert_close(scores, expected, rtol=1e-9, atol=1e-9)
