"""Shared and private gates: prices, the loss by hand, and what is left when nothing is private."""

import pytest
import torch
from tiny import quick_config, save_model, save_pairs
from torch.testing import assert_close

from circuitprune.circuits.sharing import gates_of
from circuitprune.data.together import TogetherData
from circuitprune.pipelines.learning import fit, make_module
from circuitprune.pipelines.setup import make_setup
from circuitprune.pipelines.together import fit_together, shared_module
from circuitprune.training.gates import TopK, soft_top_k
from circuitprune.training.several import costs_of, start_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and logging
OFF = -60.0
"""A score so low that a gate is shut under every budget."""


@pytest.fixture(scope="module")
def setups(tmp_path_factory):
    """Two tasks of the same pairs: what each does is known from one of them alone."""
    home = tmp_path_factory.mktemp("home")
    save_model(home / "model")
    save_pairs(home / "pairs.jsonl")
    config = quick_config(home, "gates.shared_cost=1", "train.steps=6", "task.n_val=0")
    one = make_setup(config)
    return {"a": one, "b": make_setup(config, (one.gated.model, one.tokenizer))}


# ---------------------------------------------------------------- prices


def test_costs_of_soft_gates_sum_to_the_budget():
    scores, costs = torch.randn(50).double(), torch.rand(50).double() + 0.5
    for k in (2.0, 11.5, 30.0):
        gates = soft_top_k(scores, k, 0.5, costs)
        assert_close((gates * costs).sum().item(), k)
        assert_close(
            soft_top_k(scores, k, 0.5, torch.ones(50).double()), soft_top_k(scores, k, 0.5)
        )


def test_gradient_of_priced_gates_is_a_finite_difference():
    scores = torch.randn(12).double().requires_grad_()
    costs = torch.rand(12).double() + 0.5
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, 4.3, 0.5, costs), scores)


def test_a_hard_mask_takes_the_longest_prefix_that_its_budget_pays():
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    learner = TopK(scores, 1.0, costs=torch.tensor([1.5, 1.0, 1.5, 1.0, 1.0]))
    paid = {1.0: 1, 1.4: 1, 2.5: 2, 3.9: 3, 4.0: 3, 5.0: 4}  # to the nearest, as without prices
    for k, n in paid.items():
        assert learner.gates(k, 1.0).tolist() == [1.0] * n + [0.0] * (5 - n), k


def test_the_start_prices_what_is_shared():
    importance = torch.tensor([[6.0, 1.5, 2.5], [0.0, 2.0, 8.0]])
    rows = start_of(importance, 1.5)
    own = importance / importance.sum(1, keepdim=True)
    worth = torch.cat([own.sum(0, keepdim=True) / 1.5, own])
    assert torch.equal(rows.flatten().argsort(), worth.flatten().argsort(stable=True))
    assert rows[0, 0] < rows[1, 0]  # of use to one task: its own
    assert rows[0, 1] > rows[1, 1] and rows[0, 1] > rows[2, 1]  # to both: shared
    assert costs_of(2, 3, 1.5).tolist() == [1.5] * 3 + [1.0] * 6


# ---------------------------------------------------------------- learning


def test_the_loss_is_the_mean_over_tasks_under_the_gates_of_the_formula(setups):
    generator = torch.Generator().manual_seed(0)
    n_edges = setups["a"].gated.graph.n_edges
    initial = [torch.rand(n_edges, generator=generator) for _ in setups]
    module = shared_module(setups["a"].config, setups, initial)
    batches = next(iter(TogetherData([one.data for one in setups.values()]).train_dataloader()))
    gates = module.learner.sample(0, 3)
    rows, losses = gates.view(3, n_edges), []
    for task, (setup, batch) in enumerate(zip(setups.values(), batches, strict=True)):
        plain = make_module(setup, initial[task])
        logits = setup.references.run(batch)(gates_of(rows, task))
        losses.append(plain.objective(logits, batch).mean())
    assert_close(module._loss(gates, batches, False), sum(losses) / 2)


def test_without_private_gates_it_is_the_plain_run(setups):
    """Two tasks of the same pairs and no private edge: the scores of an ordinary run."""
    config, n_edges = setups["a"].config, setups["a"].gated.graph.n_edges
    initial = torch.rand(n_edges, generator=torch.Generator().manual_seed(1))
    plain = fit(setups["a"], initial)
    module = shared_module(config, setups, [initial, initial])
    with torch.no_grad():
        start = make_module(setups["a"], initial).learner.scores
        module.learner.scores.copy_(torch.cat([start, torch.full((2 * n_edges,), OFF)]))
    fit_together(config, setups, module)
    shared, *private = module.rows(module.learner.ranking())
    assert_close(shared, plain.learner.ranking(), atol=2e-4, rtol=1e-4)
    assert not torch.equal(shared, start)
    for row in private:
        assert_close(row, torch.full((n_edges,), OFF), atol=1e-3, rtol=0)


def test_an_open_shared_gate_leaves_a_private_one_no_gradient():
    rows = torch.rand(3, 5)
    rows[0] = 1.0
    rows.requires_grad_()
    (gates_of(rows, 0) + gates_of(rows, 1)).sum().backward()
    assert not rows.grad[1:].any()
