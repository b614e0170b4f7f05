"""Learned constants and Gaussian draws: what they are, against loops and the gated forward."""

import pytest
import reference
import torch
from conftest import random_batch
from torch.testing import assert_close

from circuitprune.data.pairs import Batch
from circuitprune.engine import ablation as module
from circuitprune.engine.ablation import ROWS, Constant, Resample, make_ablation
from circuitprune.engine.cut_run import cut_logits
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.optimal import cut_cost, optimal_constants, random_cuts
from circuitprune.engine.references import References
from circuitprune.metrics import kl_divergence


def pairs(lengths, seed) -> Batch:
    tokens = random_batch(lengths, seed)
    one = torch.ones(len(lengths), 1, dtype=torch.long)
    return Batch(torch.arange(len(lengths)), *tokens, 5 * one, 6 * one)


@pytest.fixture(scope="module")
def reference_set() -> list[Batch]:
    return [pairs([9, 8, 7], 0), pairs([6, 9], 1)]


# ---------------------------------------------------------------- a run with whole writers cut


def test_a_cut_run_is_the_gated_run_with_all_edges_of_a_writer_closed(model, family, tolerance):
    """On every family; one example after the other, as gates are of a whole batch."""
    gated, batch = GatedModel(model), pairs([9, 8, 7], 2)
    graph = gated.graph
    generator = torch.Generator().manual_seed(1)
    constants = torch.randn(graph.n_writers, graph.d_model, generator=generator).double()
    cut = random_cuts(3, graph.n_writers, 0)
    cut[0], cut[1, :] = True, False
    found = cut_logits(gated.ports, batch.clean_prompts, constants, cut)
    ablated = Constant("", constants)(batch)
    for row in range(3):
        gates = (~cut[row])[graph.edge_writer].double()
        logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
        assert_close(found[row], logits[row], **tolerance)
    plain = gated.plain(batch.clean, batch.mask, batch.last)
    assert_close(found[1], plain[1], **tolerance)
    assert (found[2] - plain[2]).abs().max() > 1e-3


def test_gradients_of_constants_are_finite_differences(tiny_model):
    gated, batch = GatedModel(tiny_model("gpt2")), pairs([6, 5], 3)
    constants = torch.randn(gated.graph.n_writers, 32).double().requires_grad_()
    cut = random_cuts(2, gated.graph.n_writers, 4)
    (grad,) = torch.autograd.grad(cut_cost(gated.ports, batch, constants, cut).sum(), constants)
    for writer in range(gated.graph.n_writers):
        step = torch.zeros_like(constants)
        step[writer, 3] = 1e-5
        ends = [
            cut_cost(gated.ports, batch, (constants + sign * step).detach(), cut).sum()
            for sign in (1, -1)
        ]
        assert grad[writer, 3].item() == pytest.approx(
            ((ends[0] - ends[1]) / 2e-5).item(), abs=1e-6
        )
    assert bool((grad[~cut.any(dim=0)] == 0).all()) and grad.abs().max() > 1e-4


# ---------------------------------------------------------------- optimal


def test_learned_constants_cost_less_than_means(tiny_model):
    """Under cuts that they were not learned with; a random model has nothing to share with others.

    On the shipped model, 128 IOI pairs: 5.37 nats with means and 3.94 with these; 5.51 and 3.99 on
    other pairs.
    """
    gated = GatedModel(tiny_model("gpt2"))
    batches = [pairs([9, 8, 7, 6, 9, 9, 8, 8], 20)]
    mean, optimal = (
        make_ablation(kind, gated.ports, batches).value.squeeze(1) for kind in ("mean", "optimal")
    )
    costs = [
        torch.cat(
            [
                cut_cost(gated.ports, batch, constants, random_cuts(len(batch), len(mean), 99 + i))
                for i in range(20)
                for batch in batches
            ]
        ).mean()
        for constants in (mean, optimal)
    ]
    assert costs[1] < 0.9 * costs[0]


def test_no_step_gives_the_means_and_the_draws_depend_on_the_step_alone(tiny_model, reference_set):
    gated = GatedModel(tiny_model("gpt2"))
    mean = make_ablation("mean", gated.ports, reference_set).value.squeeze(1)
    spread = torch.ones(len(mean)).double()
    assert torch.equal(optimal_constants(gated.ports, reference_set, mean, spread, 0), mean)
    one, two = (optimal_constants(gated.ports, reference_set, mean, spread, 3) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one, mean)


def test_the_descent_is_adams_with_a_rate_that_falls_linearly(tiny_model, reference_set):
    gated = GatedModel(tiny_model("gpt2"))
    mean = make_ablation("mean", gated.ports, reference_set).value.squeeze(1)
    spread = torch.linspace(0.5, 2, len(mean)).double()
    offset, first, second = (torch.zeros_like(mean) for _ in range(3))
    for step in range(4):
        batch, free = reference_set[step % 2], offset.clone().requires_grad_()
        cut, values = random_cuts(len(batch), len(mean), step), mean + spread[:, None] * free
        (slope,) = torch.autograd.grad(cut_cost(gated.ports, batch, values, cut).mean(), free)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope.square()
        sure = [first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))]
        offset = offset - 0.1 * (1 - step / 4) * sure[0] / (sure[1].sqrt() + 1e-8)
    found = optimal_constants(gated.ports, reference_set, mean, spread, 4)
    assert_close(found, mean + spread[:, None] * offset)


def test_every_example_has_a_cut_and_sets_of_one_and_of_nearly_all_occur():
    cuts = torch.cat([random_cuts(50, 30, step) for step in range(20)])
    sizes = cuts.sum(dim=1)
    assert sizes.min() == 1 and sizes.max() >= 29 and bool((sizes > 0).all())
    assert abs(cuts.double().mean().item() - 0.5) < 0.05


def test_the_best_constants_have_no_gradient_left(tiny_model, reference_set):
    """A loop over one pair and one cut, as slow and plain as it can be."""
    gated, batch = GatedModel(tiny_model("gpt2")), reference_set[1]
    cut = torch.zeros(2, gated.graph.n_writers, dtype=torch.bool)
    cut[:, -1] = True
    constants = torch.zeros(gated.graph.n_writers, 32).double().requires_grad_()
    optimizer = torch.optim.LBFGS([constants], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        full = gated.plain(batch.clean, batch.mask, batch.last)
        loss = kl_divergence(
            full, cut_logits(gated.ports, batch.clean_prompts, constants, cut)
        ).mean()
        loss.backward()
        return loss

    before, after = closure().item(), 0.0
    optimizer.step(closure)
    after = closure().item()
    assert after < before and constants.grad.abs().max() < 1e-4


def test_constants_move_in_units_of_the_spread(model, family, reference_set, monkeypatch):
    """The spread that they are given is the root mean square of its output around its mean."""
    given = {}

    def noted(ports, batches, means, spread):
        given.update(means=means, spread=spread)
        return means

    monkeypatch.setattr(module, "optimal_constants", noted)
    make_ablation("optimal", GatedModel(model).ports, reference_set)
    for writer, rows in enumerate(slow_rows(model, family, reference_set).values()):
        around = rows - rows.mean(dim=0)
        assert_close(given["means"][writer], rows.mean(dim=0))
        assert_close(given["spread"][writer], around.square().mean().sqrt())


# ---------------------------------------------------------------- resample


def slow_rows(model, family, batches):
    """What each writer wrote at every real token of the corrupt prompts, by name."""
    rows = {}
    for batch in batches:
        for name, value in reference.writers(model, family, batch.corrupt, batch.mask).items():
            for row, last in enumerate(batch.last.tolist()):
                rows.setdefault(name, []).extend(value[row, : last + 1])
    return {name: torch.stack(tokens) for name, tokens in rows.items()}


def test_the_gaussian_has_the_mean_and_covariance_of_the_reference_set(
    model, family, reference_set, tolerance
):
    gated = GatedModel(model)
    found = make_ablation("resample", gated.ports, reference_set)
    assert isinstance(found, Resample) and found.rows.shape[1] == 39 < ROWS
    for writer, rows in enumerate(slow_rows(model, family, reference_set).values()):
        assert_close(found.mean[writer], rows.mean(dim=0), **tolerance)
        assert_close(found.rows[writer].T @ found.rows[writer], rows.T.cov(), **tolerance)


def test_draws_are_of_that_gaussian_at_each_position_and_writer(tiny_model):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 3, generator=generator).double()
    rows = torch.randn(2, 5, 3, generator=generator).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    drawn = [Resample(mean, rows, seed)(pairs([4], 0))[:, 0] for seed in range(4000)]
    drawn = torch.stack(drawn)  # [draw, writer, pos, d_model]
    for writer in range(2):
        for position in range(4):
            here = drawn[:, writer, position]
            assert_close(here.mean(dim=0), mean[writer], rtol=0, atol=0.12)
            assert_close(here.T.cov(), rows[writer].T.cov(), rtol=0.1, atol=0.15)
    apart = drawn[:, 0, 0], drawn[:, 0, 1], drawn[:, 1, 0]
    for one, other in ((0, 1), (0, 2)):
        both = torch.cat([apart[one], apart[other]], dim=1).T.corrcoef()[:3, 3:]
        assert both.abs().max() < 0.08


def test_the_draw_of_a_pair_is_what_it_was():
    """Another would be other numbers for every run under `resample`."""
    clean, corrupt = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 8]])
    mask, answers = torch.ones_like(clean, dtype=torch.bool), torch.tensor([[0]])
    batch = Batch(torch.tensor([0]), clean, corrupt, mask, torch.tensor([2]), answers, answers + 1)
    drawn = Resample(torch.zeros(1, 1), torch.ones(1, 1, 1), seed=3)(batch).flatten()
    assert_close(drawn, torch.tensor([-0.96459812, 0.80280071, 0.16091859]))


def test_a_pair_carries_the_same_whatever_stands_beside_it(tiny_model, reference_set):
    gated = GatedModel(tiny_model("gpt2"))
    ablation = make_ablation("resample", gated.ports, reference_set)
    batch = pairs([9, 4], 5)
    both = ablation(batch)
    alone = Batch(*(getattr(batch, name)[1:] for name in FIELDS))
    assert torch.equal(both[:, 1:], ablation(alone))
    assert torch.equal(both[:, 1, 4:], both[:, 1, 3:4].expand(-1, 5, -1))  # padding goes on
    references = References(gated, ablation, max_gb=1.0)
    for _ in range(2):  # computed, then cached
        assert torch.equal(references.ablated(batch)[:], both)
    gates = torch.ones(gated.graph.n_edges).double()
    plain = gated.plain(batch.clean, batch.mask, batch.last)
    assert_close(references.run(batch)(gates), plain)


FIELDS = ("index", "clean", "corrupt", "mask", "last", "answers", "wrong")


def test_cuts_are_uniform_in_share_and_one_only_where_there_is_none():
    """Shares are uniform in [0, 1]: of 4 writers 2 are cut in the mean; 1 row in 5 had none."""
    cut = random_cuts(20_000, 4, 3)
    assert cut.any(dim=1).all()
    assert cut.sum(1).double().mean().item() == pytest.approx(2 + 1 / 5, abs=0.03)
    assert cut.double().mean(0).tolist() == pytest.approx([2.2 / 4] * 4, abs=0.02)
