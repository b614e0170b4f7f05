"""What cut edges carry, against loops over single tokens of untouched Hugging Face runs."""

from copy import deepcopy

import pytest
import reference
import torch
from conftest import random_batch
from torch.testing import assert_close

from circuitprune.attribution import eap
from circuitprune.data.pairs import Batch
from circuitprune.engine.ablation import ABLATIONS, Ablation, make_ablation
from circuitprune.engine.evaluation import evaluate
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.recording import record_writers
from circuitprune.engine.references import References
from circuitprune.engine.selfcheck import self_check
from circuitprune.errors import ConfigError, DataError
from circuitprune.metrics import logit_diff

LENGTHS = [[5, 7, 4], [2], [9, 9, 6, 8], [3, 1]]
"""Of the reference set's batches: the longest is not the first.

No more than 3 positions of padding: Hugging Face's eager attention in float64 is NaN for a query
whose whole window, 4 positions of the tiny Gemma-2, is padding.
"""


def pairs(lengths, seed) -> Batch:
    tokens = random_batch(lengths, seed)
    answers = torch.tensor([[5, 7], [11, -1], [2, -1], [30, -1]])[: len(lengths)]
    wrong = torch.tensor([[6, -1], [12, 3], [40, -1], [31, -1]])[: len(lengths)]
    return Batch(torch.arange(len(lengths)), *tokens, answers, wrong)


@pytest.fixture(scope="module")
def reference_set() -> list[Batch]:
    return [pairs(lengths, seed) for seed, lengths in enumerate(LENGTHS)]


@pytest.fixture
def gated(model) -> GatedModel:
    return GatedModel(model)


def slow_means(model, family, batches):
    """Mean of each writer over all real tokens, and by position, adding one token at a time."""
    everything, by_position = {}, {}
    for batch in batches:
        written = reference.writers(model, family, batch.corrupt, batch.mask)
        for name, value in written.items():
            for row, last in enumerate(batch.last.tolist()):
                for position in range(last + 1):
                    token = value[row, position]
                    everything.setdefault(name, []).append(token)
                    by_position.setdefault(name, {}).setdefault(position, []).append(token)
    means = {name: sum(tokens) / len(tokens) for name, tokens in everything.items()}
    positions = {
        name: torch.stack([sum(at[p]) / len(at[p]) for p in range(len(at))])
        for name, at in by_position.items()
    }
    return means, positions


# ------------------------------------------------------------------ the values


def test_record_is_what_the_writers_wrote(model, family, gated, batch, tolerance):
    written = record_writers(gated.ports, batch.clean, batch.mask)
    expected = reference.writers(model, family, batch.clean, batch.mask)
    assert gated.graph.writers == tuple(expected)
    for value, name in zip(written, expected, strict=True):
        assert_close(batch.real(value), batch.real(expected[name]), **tolerance)


def test_means_are_over_the_real_corrupt_tokens(model, family, gated, reference_set, tolerance):
    means, positions = slow_means(model, family, reference_set)
    mean = make_ablation("mean", gated.ports, reference_set)
    positional = make_ablation("positional-mean", gated.ports, reference_set)
    batch = pairs([9, 4], seed=9)
    for index, name in enumerate(gated.graph.writers):
        for position in range(9):
            for row in range(2):
                value = mean(batch)[index, row, position]
                assert_close(value, means[name], **tolerance)
                value = positional(batch)[index, row, position]
                assert_close(value, positions[name][position], **tolerance)
    assert (mean(batch) - positional(batch)).abs().max() > 0.1


def test_a_reference_set_may_be_read_once_and_in_any_batches(gated, reference_set):
    """A generator of single rows gives the same means."""
    rows = (
        Batch(**{name: value[i : i + 1] for name, value in vars(batch).items()})
        for batch in reversed(reference_set)
        for i in range(len(batch))
    )
    batch = pairs([9], seed=9)
    for kind, alone in (("mean", None), ("positional-mean", rows)):
        together = make_ablation(kind, gated.ports, reference_set)(batch)
        again = make_ablation(kind, gated.ports, alone or iter(reference_set))(batch)
        assert_close(again, together, rtol=1e-6, atol=1e-6)


def test_zero_is_zero_and_patch_is_the_corrupt_run(model, family, gated, tolerance):
    batch = pairs([9, 7, 6], seed=3)
    zero = make_ablation("zero", gated.ports, [])(batch)
    shape = (gated.graph.n_writers, 3, 9, gated.graph.d_model)
    assert_close(zero, torch.zeros(shape).double(), rtol=0, atol=0)
    patch = make_ablation("patch", gated.ports, [])(batch)
    expected = reference.writers(model, family, batch.corrupt, batch.mask)
    for value, name in zip(patch, expected, strict=True):
        assert_close(value[batch.mask], expected[name][batch.mask], **tolerance)


@pytest.mark.parametrize("kind", ABLATIONS)
def test_every_kind_is_an_ablation_of_that_name(tiny_model, reference_set, kind):
    gated = GatedModel(tiny_model("gpt2"))
    ablation = make_ablation(kind, gated.ports, reference_set)
    assert isinstance(ablation, Ablation) and ablation.kind == kind
    values = ablation(pairs([6, 2], seed=4))
    assert values.shape == (gated.graph.n_writers, 2, 6, 32) and values.dtype == torch.float64
    assert not values.requires_grad


@pytest.mark.parametrize("kind", ["zero", "mean", "positional-mean", "optimal"])
def test_constants_are_repeated_without_a_copy(tiny_model, reference_set, kind):
    ablation = make_ablation(kind, GatedModel(tiny_model("gpt2")).ports, reference_set)
    strides = ablation(pairs([6, 2], seed=4)).stride()
    assert strides[1] == 0 and (strides[2] == 0) == (kind != "positional-mean")


# ------------------------------------------------------------------ errors


def test_a_prompt_longer_than_the_reference_set_is_an_error(tiny_model, reference_set):
    ports = GatedModel(tiny_model("gpt2")).ports
    ablation = make_ablation("positional-mean", ports, reference_set)
    ablation(pairs([9], seed=0))
    with pytest.raises(DataError, match=r"knows 9 positions.*has 10 tokens; use ablation 'mean'"):
        ablation(pairs([4, 10], seed=0))
    make_ablation("mean", ports, reference_set)(pairs([10], seed=0))


@pytest.mark.parametrize("kind", ["mean", "positional-mean", "resample", "optimal"])
def test_a_mean_over_nothing_is_an_error(tiny_model, kind):
    with pytest.raises(DataError, match="needs a reference set"):
        make_ablation(kind, GatedModel(tiny_model("gpt2")).ports, [])


def test_an_unknown_kind_names_the_known_ones(tiny_model):
    with pytest.raises(ConfigError) as error:
        make_ablation("noise", GatedModel(tiny_model("gpt2")).ports, [])
    for word in ("'noise'", *ABLATIONS):
        assert word in str(error.value)


# ------------------------------------------------------------------ every kind in use


@pytest.mark.parametrize("kind", ABLATIONS)
def test_gated_runs_of_every_kind_are_the_reference(
    model, family, gated, reference_set, kind, tolerance
):
    batch = pairs([9, 7, 6], seed=5)
    ablated = make_ablation(kind, gated.ports, reference_set)(batch)
    generator = torch.Generator().manual_seed(0)
    gates = torch.rand(gated.graph.n_edges, generator=generator, dtype=torch.float64)
    named = dict(zip(gated.graph.writers, ablated, strict=True))
    by_name = reference.gate_dict(gated.graph, gates)
    expected = reference.gated_logits(model, family, batch.clean, batch.mask, by_name, named)
    logits = gated(gates, batch.clean, batch.mask, ablated)
    assert_close(logits[batch.mask], expected[batch.mask], **tolerance)
    plain = reference.plain_logits(model, batch.clean, batch.mask)
    assert (logits - plain)[batch.mask].abs().max() > 1e-2


@pytest.mark.parametrize("kind", ABLATIONS)
def test_scores_of_every_kind_are_minus_the_gate_gradient(
    model, family, gated, reference_set, kind, tolerance
):
    batch = pairs([9, 7, 6, 8], seed=6)
    ablation = make_ablation(kind, gated.ports, reference_set)
    named = dict(zip(gated.graph.writers, ablation(batch), strict=True))
    answers, wrong = [[5, 7], [11], [2], [30]], [[6], [12, 3], [40], [31]]

    def metric(logits, _):
        return reference.logit_diff(logits, answers, wrong)

    gates = torch.ones(gated.graph.n_edges, dtype=torch.float64, requires_grad=True)
    by_name = reference.gate_dict(gated.graph, gates)
    logits = reference.gated_logits(model, family, batch.clean, batch.mask, by_name, named)
    score = metric(reference.at_last(logits, batch.last), batch).mean()
    (expected,) = torch.autograd.grad(score, gates)
    scores = eap(References(gated, ablation), [batch], metric)
    assert_close(-scores, expected, **tolerance)
    assert scores.abs().median() > 1e-4


# ------------------------------------------------------------------ norms without epsilon


def without_epsilon(model, epsilon: float):
    """The same model with another epsilon in all its norms."""
    model = deepcopy(model)
    for module in model.modules():
        for name in ("eps", "variance_epsilon"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, epsilon)
    return model


@pytest.mark.parametrize("kind", [kind for kind in ABLATIONS if kind != "zero"])
def test_an_epsilon_of_0_is_a_tiny_one(model, reference_set, kind):
    """Real input has a variance, and so has what we put on padding: no 0 is divided by 0.

    Circuits of all sizes, the empty one too, and EAP, on prompts of several lengths.
    """
    found = []
    for epsilon in (0.0, 1e-30):
        gated = GatedModel(without_epsilon(model, epsilon))
        self_check(gated)
        references = References(gated, gated.ablation(kind, reference_set))
        generator = torch.Generator().manual_seed(0)
        masks = {
            str(size): torch.rand(gated.graph.n_edges, generator=generator) < size
            for size in (0.0, 0.02, 0.3, 1.0)
        }
        batches = [pairs([5, 7, 4], 5)]
        kl = {
            name: one.kl for name, one in evaluate(references, masks, batches, logit_diff).items()
        }
        found.append((kl, eap(references, batches, logit_diff)))
    (kl, scores), (expected_kl, expected) = found
    assert kl == pytest.approx(expected_kl, rel=1e-5, abs=1e-9) and kl["0.0"] > 0
    assert_close(scores, expected, rtol=1e-5, atol=1e-8)
    assert scores.isfinite().all()


def test_where_nothing_has_no_value_zero_is_refused(tiny_model, reference_set):
    model = without_epsilon(tiny_model("llama"), 0.0)
    with pytest.raises(ConfigError, match=r"ablation=zero .* norm model.layers.0.input_layernorm"):
        GatedModel(model).ablation("zero", reference_set)
    assert GatedModel(tiny_model("llama")).ablation("zero").kind == "zero"
