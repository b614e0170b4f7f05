"""Law 6 for the plain run with taps: its scores are minus the gate gradient, and EAP by hooks."""

import pytest
import reference
import torch
from conftest import VOCAB, random_batch
from torch.testing import assert_close

from circuitprune.data.pairs import Batch
from circuitprune.engine import projecting, tapped
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.tapped import edge_scores, edge_scores_at

every_graph = pytest.mark.parametrize(("family", "kv_readers"), reference.GRAPHS)
ANSWERS, WRONG = [[5, 7], [11], [2], [30]], [[6], [12, 3], [40], [31]]
LENGTHS = {"padded": [9, 9, 7, 6], "unpadded": [8, 8, 8]}


def pairs(lengths, seed=0) -> Batch:
    nothing = torch.zeros(len(lengths), 1, dtype=torch.long)
    return Batch(torch.arange(len(lengths)), *random_batch(lengths, seed), nothing, nothing)


def logit_diff(logits, batch=None):
    return reference.logit_diff(logits, ANSWERS[: len(logits)], WRONG[: len(logits)])


def prob_diff(logits, batch=None):
    return reference.prob_diff(logits, ANSWERS[: len(logits)], WRONG[: len(logits)])


def minus_kl(logits, batch=None):
    """From a fixed other distribution, so that it is not flat at the clean run."""
    generator = torch.Generator().manual_seed(5)
    other = torch.randn(4, VOCAB, generator=generator, dtype=torch.float64)[: len(logits)]
    return -reference.kl(other, logits)


METRICS = {"logit_diff": logit_diff, "prob_diff": prob_diff, "minus_kl": minus_kl}


@pytest.fixture
def gated(tiny_model, family, kv_readers) -> GatedModel:
    return GatedModel(tiny_model(family), kv_readers=kv_readers)


def scores_of(gated, batch, metric=logit_diff):
    return edge_scores(gated, batch, metric, gated.record(batch.corrupt, batch.mask))


def scores_at(gated, batch, embeddings, factors=1.0):
    """With the gradient of a run that starts elsewhere, and each writer's difference scaled."""
    now, other = (gated.record(x, batch.mask) for x in (batch.clean, batch.corrupt))
    return edge_scores_at(gated, batch, logit_diff, (other - now) * factors, embeddings)


def gate_gradient(gated, batch, metric):
    ablated = gated.record(batch.corrupt, batch.mask)
    gates = torch.ones(gated.graph.n_edges, dtype=torch.float64, requires_grad=True)
    logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
    return torch.autograd.grad(metric(logits).sum(), gates)[0]


@every_graph
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_law_6_scores_are_minus_the_gradient_of_the_gates(gated, lengths, metric, tolerance):
    batch = pairs(lengths)
    scores = scores_of(gated, batch, metric)
    assert_close(scores, -gate_gradient(gated, batch, metric), **tolerance)
    assert scores.abs().median() > 1e-5 and (scores != 0).all()


@every_graph
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_law_6_scores_are_edge_attribution_patching_by_hooks(
    gated, model, family, lengths, tolerance
):
    batch, untouched = pairs(lengths), model
    if gated.graph.n_kv_readers != reference.sizes(model, family).n_kv:
        untouched = reference.ungrouped_model(model, family)
    expected = reference.eap_by_hooks(
        untouched,
        family,
        gated.graph,
        batch.clean,
        batch.corrupt,
        batch.mask,
        lambda logits: logit_diff(reference.at_last(logits, batch.last)).sum(),
    )
    assert_close(scores_of(gated, batch), expected, **tolerance)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_norms_of_unknown_form_are_taken_back_by_autograd(tiny_model, family, monkeypatch):
    """Which is what a family with a norm of its own gets, in both runs."""
    batch, gated = pairs(LENGTHS["padded"]), GatedModel(tiny_model(family))
    expected = scores_of(gated, batch), gate_gradient(gated, batch, logit_diff)
    for module in (tapped, projecting):
        monkeypatch.setattr(module, "closed_form", lambda norm: None)
    assert_close(scores_of(gated, batch), expected[0], rtol=1e-4, atol=1e-5)
    assert_close(gate_gradient(gated, batch, logit_diff), expected[1], rtol=1e-4, atol=1e-5)


@every_graph
def test_scores_are_summed_over_examples_whatever_the_batch(gated, tolerance):
    """Each row alone and without padding adds up to the whole."""
    batch, total = pairs(LENGTHS["padded"]), 0
    for row, last in enumerate(batch.last.tolist()):
        alone = Batch(**{name: value[row : row + 1] for name, value in vars(batch).items()})
        short = {name: getattr(alone, name)[:, : last + 1] for name in ("clean", "corrupt", "mask")}
        alone = Batch(**{**vars(alone), **short})

        def metric(logits, _, row=row):
            return reference.logit_diff(logits, [ANSWERS[row]], [WRONG[row]])

        total = total + scores_of(gated, alone, metric)
    assert_close(scores_of(gated, batch), total, **tolerance)


@every_graph
def test_scores_are_linear_in_the_difference_writer_by_writer(gated, tolerance):
    batch = pairs(LENGTHS["padded"])
    clean = gated.record(batch.clean, batch.mask)[0]
    factors = torch.linspace(-2, 3, gated.graph.n_writers, dtype=torch.float64)
    scaled = scores_at(gated, batch, clean, factors[:, None, None, None])
    expected = scores_of(gated, batch) * factors[gated.graph.edge_writer]
    assert_close(scaled, expected, **tolerance)


@every_graph
def test_what_stands_in_the_padding_does_not_matter(gated, tolerance):
    """Not in the prompts, and not in the ablated values: no gradient arrives there."""
    batch = pairs(LENGTHS["padded"])
    ablated = gated.record(batch.corrupt, batch.mask)
    clean = torch.where(batch.mask, batch.clean, 17)
    ablated[:, ~batch.mask] = 50.0
    scores = edge_scores(gated, Batch(**{**vars(batch), "clean": clean}), logit_diff, ablated)
    assert_close(scores, scores_of(gated, batch), **tolerance)


@every_graph
def test_embeddings_replace_what_enters_the_first_layer(gated, tolerance):
    """The clean ones change nothing; the corrupt ones give the scores at the corrupt run."""
    batch = pairs(LENGTHS["padded"])
    swapped = Batch(**{**vars(batch), "clean": batch.corrupt, "corrupt": batch.clean})
    clean, corrupt = (gated.record(x, batch.mask)[0] for x in (batch.clean, batch.corrupt))
    at_clean = scores_at(gated, batch, clean)
    assert_close(at_clean, scores_of(gated, batch), **tolerance)
    at_corrupt = scores_at(gated, batch, corrupt)
    assert_close(at_corrupt, -scores_of(gated, swapped), **tolerance)
    assert (at_clean - at_corrupt).abs().max() > 1e-3


@every_graph
def test_nothing_is_left_behind(gated, model):
    """In the model; the ablated values are used up, and a second call gives the same scores."""
    batch = pairs(LENGTHS["padded"])
    before = [set(vars(module)) for module in model.modules()]
    plain = gated.plain(batch.clean, batch.mask)
    ablated = gated.record(batch.corrupt, batch.mask)
    kept = ablated.clone()
    scores = edge_scores(gated, batch, logit_diff, ablated)
    assert not scores.requires_grad
    difference = kept - gated.record(batch.clean, batch.mask)
    read = batch.mask.expand(gated.graph.n_writers, -1, -1).clone()
    read[-1] &= torch.arange(batch.mask.shape[1]) == batch.last[:, None]  # by the logits alone
    assert_close(ablated[read], difference[read])
    assert [set(vars(module)) for module in model.modules()] == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert_close(gated.plain(batch.clean, batch.mask), plain, rtol=0, atol=0)
    assert_close(edge_scores(gated, batch, logit_diff, kept), scores, rtol=0, atol=0)


@pytest.mark.parametrize(("family", "kv_readers"), [("gpt2", "kv_head")])
def test_scores_do_not_depend_on_whether_the_caller_records_gradients(gated):
    batch = pairs(LENGTHS["padded"])
    clean = gated.record(batch.clean, batch.mask)[0]
    expected = scores_of(gated, batch)
    with torch.no_grad():
        assert_close(scores_of(gated, batch), expected)
        assert_close(scores_at(gated, batch, clean), expected)
        assert not torch.is_grad_enabled()


@every_graph
def test_an_exception_in_the_metric_leaves_the_model_as_it_was(gated, model):
    batch = pairs(LENGTHS["padded"])
    before = [set(vars(module)) for module in model.modules()]

    def broken(logits, batch):
        raise KeyError("metric")

    with pytest.raises(KeyError):
        scores_of(gated, batch, broken)
    assert [set(vars(module)) for module in model.modules()] == before
