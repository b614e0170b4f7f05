"""Gates against Monte Carlo, finite differences and SciPy; where they start against its promise."""

import math

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from circuitprune.errors import ConfigError
from circuitprune.training.gates import (
    HARD_CONCRETE_TEMPERATURE,
    MASKS,
    HardConcrete,
    TopK,
    cooled_by,
    log_alpha_for,
    noise_generator,
    open_probability,
    sample_hard_concrete,
    soft_top_k,
)
from circuitprune.training.starts import calibrated_log_alpha, calibrated_probability, normal_scores

SIGMAS = 5
"""A Monte-Carlo mean is this many standard errors off once in two million tries."""


def random_scores(n, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, generator=generator, dtype=torch.float64)


def assert_share(flags, probability):
    """The share of True among `flags` is this probability, to Monte-Carlo error."""
    n = flags.numel()
    error = SIGMAS * math.sqrt(probability * (1 - probability) / n) + 1 / n
    share = flags.double().mean().item()
    assert abs(share - probability) < error, f"{share} of {n} are open, expected {probability}"


# ------------------------------------------------------------------ law 10: hard concrete


@pytest.mark.parametrize("log_alpha", [-4.0, -1.6, 0.0, 0.7, 3.0])
def test_law_10_sampled_gates_match_the_closed_forms(log_alpha):
    """`P(z = 0)`, `P(z > 0)`, `P(z = 1)` of a stretched, clamped binary concrete variable."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(400_000, generator=generator, dtype=torch.float64)
    at = torch.full_like(uniform, log_alpha)
    gates = sample_hard_concrete(at, uniform)
    assert gates.min() >= 0 and gates.max() <= 1
    closed = torch.sigmoid(torch.tensor(HARD_CONCRETE_TEMPERATURE * math.log(1 / 11) - log_alpha))
    assert_share(gates == 0, closed.item())
    assert_share(gates > 0, open_probability(at[:1]).item())
    assert_close(open_probability(at[:1]).item(), 1 - closed.item(), rtol=1e-6, atol=1e-6)
    whole = torch.sigmoid(torch.tensor(log_alpha - HARD_CONCRETE_TEMPERATURE * math.log(11)))
    assert_share(gates == 1, whole.item())


def test_law_10_the_constant_is_the_published_one():
    """`P(z = 0) = sigmoid(-1.5986 - log_alpha)` at temperature 2/3 (METHODS.md 2.1)."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert_close(torch.logit(open_probability(zero)).item(), 1.5986, rtol=0, atol=1e-4)


def test_law_10_expected_density_is_the_share_of_open_gates():
    gates = HardConcrete(random_scores(500, scale=3.0) - 1)
    expected = gates.expected_density().item()
    opened = torch.cat([gates.sample(seed=1, step=step) > 0 for step in range(200)])
    assert_share(opened, expected)  # strata only lower the variance
    assert 0.2 < expected < 0.8
    assert_close(gates.probabilities().mean().item(), expected)


def test_expected_density_has_the_gradient_of_its_closed_form():
    gates = HardConcrete(random_scores(7))
    gates.expected_density().backward()
    p = gates.probabilities()
    assert_close(gates.log_alpha.grad, p * (1 - p) / 7)


def test_a_gate_is_its_formula_inside_and_flat_at_both_ends():
    log_alpha = torch.tensor([0.3, -9.0, 9.0], dtype=torch.float64, requires_grad=True)
    uniform = torch.tensor([0.4, 0.2, 0.8], dtype=torch.float64)
    gates = sample_hard_concrete(log_alpha, uniform)
    inside = 1.2 / (1 + math.exp(-(math.log(0.4 / 0.6) + 0.3) / (2 / 3))) - 0.1
    assert_close(gates.detach(), torch.tensor([inside, 0.0, 1.0], dtype=torch.float64))
    gates.sum().backward()
    slope = (inside + 0.1) * (1 - (inside + 0.1) / 1.2) * 1.5
    assert_close(log_alpha.grad, torch.tensor([slope, 0.0, 0.0], dtype=torch.float64))


def test_open_probability_and_its_inverse():
    p = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    assert_close(open_probability(log_alpha_for(p)), p)


# ------------------------------------------------------------------ soft top-k

SCORES = {
    "random": random_scores(200),
    "wide": random_scores(200, scale=1e3),
    "tied": torch.zeros(200, dtype=torch.float64),
    "half_tied": torch.cat([torch.full((100,), 2.0), random_scores(100)]).double(),
    "two": torch.tensor([1.0, -3.0], dtype=torch.float64),
}


@pytest.mark.parametrize("temperature", [0.01, 0.5, 20.0])
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_soft_top_k_sums_to_k(scores, temperature):
    n = len(scores)
    for k in (0.01, 0.5, 1.0, 0.1 * n, n / 2 + 0.3, n - 0.5):
        gates = soft_top_k(scores, k, temperature)
        assert_close(gates.sum().item(), k, rtol=1e-9, atol=1e-9)
        assert gates.min() >= 0 and gates.max() <= 1


def test_soft_top_k_sums_to_k_in_float32_over_many_edges():
    scores = random_scores(30_000).float()
    for k in (8.0, 300.0, 29_999.5):
        assert_close(soft_top_k(scores, k, 0.5).sum().item(), k, rtol=1e-4, atol=1e-3)


def test_equal_scores_share_the_budget_equally():
    assert_close(soft_top_k(SCORES["tied"], 50.0, 0.5), torch.full((200,), 0.25).double())


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("k", [0.7, 3.0, 7.5])
def test_gradient_of_soft_top_k_is_a_finite_difference(k, temperature):
    """Through tau: raising one score closes the others."""
    scores = random_scores(8).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, k, temperature), scores)
    jacobian = torch.autograd.functional.jacobian(lambda s: soft_top_k(s, k, temperature), scores)
    assert_close(jacobian.sum(0), torch.zeros(8).double(), rtol=0, atol=1e-9)  # the sum stays k
    assert (jacobian.diagonal() >= 0).all() and jacobian.min() < -1e-4


def test_gradient_of_soft_top_k_of_tied_scores():
    scores = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: soft_top_k(s, 2.2, 0.5), scores)


def test_gradient_of_soft_top_k_is_finite_where_every_gate_is_saturated():
    scores = (100.0 * torch.arange(6)).requires_grad_()
    gates = soft_top_k(scores, 2.0, 0.01)
    assert_close(gates.detach(), torch.tensor([0.0, 0, 0, 0, 1, 1]))
    gates.square().sum().backward()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("shift", [1.0, -40.0, 1e4])
def test_adding_a_constant_to_all_scores_changes_no_gate(shift):
    scores = random_scores(50)
    assert_close(
        soft_top_k(scores + shift, 12.5, 0.5), soft_top_k(scores, 12.5, 0.5), rtol=1e-9, atol=1e-9
    )


# ------------------------------------------------------------------ random budgets


@pytest.mark.parametrize(("k_min", "k_max"), [(8.0, None), (2.5, 90.0)])
def test_budgets_are_log_uniform(k_min, k_max):
    gates = TopK(random_scores(400), k_min, k_max)
    high = k_max or 400.0
    budgets = torch.tensor([gates.budget(seed=3, step=step) for step in range(2000)])
    assert budgets.min() >= k_min and budgets.max() <= high
    position = (budgets / k_min).log() / math.log(high / k_min)
    assert scipy.stats.kstest(position.numpy(), "uniform").pvalue > 0.01
    serial = torch.corrcoef(torch.stack([position[1:], position[:-1]]))[0, 1]
    assert abs(serial) < SIGMAS / math.sqrt(2000)


def test_one_budget_only():
    gates = TopK(random_scores(40), k_min=10.0, k_max=10.0)
    assert {round(gates.budget(0, step), 9) for step in range(20)} == {10.0}


def test_k_min_is_lowered_to_a_small_graph():
    assert TopK(random_scores(3)).budget(0, 0) == pytest.approx(3.0)


def test_the_temperature_falls_by_the_same_factor_at_each_step():
    """12 steps for 60 edges: by 1 + 15 / 5 in all; as many steps as edges, or more: by 1 + 15."""
    assert [cooled_by(15.0, steps, 60) for steps in (0, 12, 60, 600)] == [1, 4, 16, 16]
    settings = {"temperature": 0.5, "mask": "sigmoid", "cooled": 4.0, "steps": 12}
    gates = TopK(random_scores(60), k_min=3.0, **settings)
    expected_at = {0: 0.5, 1: 0.5 * 4 ** (-1 / 12), 6: 0.25, 12: 0.125, 13: 0.125}
    for step, temperature in expected_at.items():
        expected = soft_top_k(gates.scores, gates.budget(0, step), temperature)
        assert_close(gates.sample(0, step), expected)


def test_straight_through_gates_are_the_hard_top_k():
    gates = TopK(random_scores(60).float(), k_min=3.0, mask="straight_through")
    sizes = []
    for step in range(40):
        k = round(gates.budget(0, step))
        expected = torch.zeros(60)
        expected[gates.ranking().topk(k).indices] = 1
        assert_close(gates.sample(0, step).detach(), expected)
        sizes.append(k)
    assert len(set(sizes)) > 10


@pytest.mark.parametrize(
    ("k", "n"), [(0.2, 1), (2.4, 2), (2.5, 2), (2.6, 3), (3.5, 3), (39.5, 39), (40.0, 40)]
)
def test_a_hard_mask_keeps_the_nearest_number_and_of_two_the_smaller(k, n):
    learner = TopK(random_scores(40), k_min=1.0)
    hard = learner.gates(k, 1.0).detach()
    assert hard.unique().tolist() == ([0.0, 1.0] if n < 40 else [1.0]) and hard.sum() == n
    assert hard.bool()[learner.scores.detach().topk(n).indices].all()


def test_straight_through_gates_are_exactly_0_or_1():
    """Training sees the circuit that is verified later, to the last bit."""
    gates = TopK(random_scores(60).float(), k_min=3.0, mask="straight_through")
    for step in range(40):
        sample = gates.sample(0, step).detach()
        assert_close(sample, sample.round(), rtol=0, atol=0)


def test_straight_through_gradient_is_that_of_the_soft_gates():
    scores, weight = random_scores(30), random_scores(30, seed=1)
    grads = []
    for mask in ("straight_through", "sigmoid", "mixed"):
        gates = TopK(scores, k_min=3.0, temperature=0.7, mask=mask)
        (gates.sample(0, 5) @ weight).backward()
        grads.append(gates.scores.grad)
    by_hand = scores.clone().requires_grad_()
    (soft_top_k(by_hand, gates.budget(0, 5), 0.7) @ weight).backward()
    assert_close(grads[0], grads[1])
    assert_close(grads[0], grads[2])
    assert_close(grads[0], by_hand.grad)
    assert by_hand.grad.abs().max() > 1e-2


def test_mixed_gates_lie_between_the_hard_and_the_soft_ones():
    scores = random_scores(60)
    kinds = {mask: TopK(scores, k_min=3.0, mask=mask) for mask in MASKS}
    weights = []
    for step in range(40):
        mixed, hard, soft = (kinds[m].sample(0, step).detach() for m in MASKS)
        weights.append(kinds["mixed"].hardness(0, step))
        assert_close(mixed, torch.lerp(soft, hard, weights[-1]))
    assert min(weights) < 0.1 and max(weights) > 0.9


def test_an_unknown_mask_lists_the_known():
    with pytest.raises(ConfigError, match="mixed, straight_through, sigmoid"):
        TopK(random_scores(5), k_min=1.0, mask="hard")


def test_soft_gates_sum_to_their_budget():
    gates = TopK(random_scores(50), k_min=2.0, mask="sigmoid")
    for step in range(10):
        sample = gates.sample(4, step)
        assert_close(sample.sum().item(), gates.budget(4, step), rtol=1e-9, atol=1e-9)
        assert ((sample > 0) & (sample < 1)).all()


def test_the_largest_budget_is_within_reach():
    gates = TopK(random_scores(20), k_min=20.0, k_max=20.0, mask="straight_through")
    assert_close(gates.sample(0, 0).detach(), torch.ones(20).double())


# ------------------------------------------------------------------ noise


@pytest.fixture(params=[TopK, HardConcrete])
def learner(request):
    return request.param(random_scores(100))


def test_noise_is_a_function_of_seed_and_step(learner):
    first = learner.sample(7, 3)
    torch.manual_seed(99)
    torch.rand(5)
    learner.sample(7, 4)
    assert_close(learner.sample(7, 3), first, rtol=0, atol=0)


def test_noise_leaves_the_global_generator_alone(learner):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    learner.sample(7, 3)
    assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_noise_differs_between_steps_and_seeds(learner):
    if isinstance(learner, TopK):
        learner.mask = "sigmoid"  # hard gates of close budgets may agree
    samples = [learner.sample(seed, step) for seed in range(4) for step in range(4)]
    for i, one in enumerate(samples):
        for other in samples[:i]:
            assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("seed", "step", "first"), [(0, 0, 0.496257), (3, 5, 0.156657), (5, 3, 0.237569)]
)
def test_noise_is_what_it_was(seed, step, first):
    """By these numbers a run that began under an older version goes on as it would have."""
    assert torch.rand((), generator=noise_generator(seed, step)).item() == pytest.approx(
        first, abs=1e-6
    )


def test_generators_of_many_seeds_and_steps_are_all_different():
    draws = [torch.rand((), generator=noise_generator(s, t)) for s in range(40) for t in range(40)]
    assert len({d.item() for d in draws}) > 1590  # 24 bits: a few collide by chance


def test_hard_concrete_gates_are_independent_of_each_other_and_of_earlier_steps():
    gates = HardConcrete(torch.zeros(50, dtype=torch.float64))
    samples = torch.stack([gates.sample(0, step).detach() for step in range(2000)])
    assert (torch.corrcoef(samples.T) - torch.eye(50)).abs().max() < 6 / math.sqrt(2000)
    serial = torch.corrcoef(torch.stack([samples[1:].flatten(), samples[:-1].flatten()]))[0, 1]
    assert abs(serial) < SIGMAS / math.sqrt(samples.numel())


# ------------------------------------------------------------------ ranking and probabilities


def test_probabilities_are_ordered_like_the_ranking(learner):
    p, ranking = learner.probabilities(), learner.ranking()
    assert p.min() >= 0 and p.max() <= 1 and p.std() > 0.05
    assert not p.requires_grad and not ranking.requires_grad
    in_order = p[ranking.argsort(descending=True)]
    assert (in_order.diff() <= 0).all()
    assert in_order[0] > in_order[-1]


def test_probabilities_of_top_k_are_the_share_of_budgets_that_keep_an_edge():
    gates = TopK(random_scores(100), k_min=4.0, k_max=60.0)
    budgets = torch.tensor([gates.budget(0, step) for step in range(4000)])
    rank = gates.ranking().argsort(descending=True).argsort() + 1
    for edge in range(0, 100, 7):
        assert_share(budgets >= rank[edge], gates.probabilities()[edge].item())


def test_probabilities_of_a_single_budget_are_0_or_1():
    scores = random_scores(40)
    p = TopK(scores, k_min=10.0, k_max=10.0).probabilities()
    expected = torch.zeros(40).double()
    expected[scores.topk(10).indices] = 1
    assert_close(p, expected)


def test_a_learner_trains_its_own_copy_of_the_scores():
    scores = random_scores(20)
    for learner in (TopK(scores), HardConcrete(scores)):
        (parameter,) = learner.parameters()
        parameter.data.zero_()
        assert_close(learner.ranking(), torch.zeros(20).double())
    assert scores.abs().min() > 0


# ------------------------------------------------------------------ where gates start


@pytest.mark.parametrize("sharpness", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.37, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [13, 1000])
def test_calibrated_probability_has_the_density_asked_for(n, density, sharpness):
    importance = random_scores(n)
    p = calibrated_probability(importance, density, sharpness)
    assert_close(p.mean().item(), density, rtol=0, atol=1e-6)
    assert (p[importance.argsort()].diff() > 0).all()
    assert p.min() >= 0 and p.max() <= 1


def test_calibrated_probability_depends_on_ranks_alone():
    importance = random_scores(100)
    expected = calibrated_probability(importance, 0.3)
    assert_close(calibrated_probability(importance.exp() * 1e6, 0.3), expected)


def test_sharper_separates_more():
    importance = random_scores(100)
    spreads = [calibrated_probability(importance, 0.3, s).std() for s in (0.05, 0.2, 1.0)]
    assert spreads[0] > spreads[1] > spreads[2]


@pytest.mark.parametrize("sharpness", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_calibrated_log_alpha_starts_at_the_density_asked_for(density, sharpness, dtype):
    gates = HardConcrete(calibrated_log_alpha(random_scores(800).to(dtype), density, sharpness))
    assert gates.log_alpha.dtype == dtype
    assert_close(gates.expected_density().item(), density, rtol=0, atol=1e-4)
    opened = torch.cat([gates.sample(0, step) > 0 for step in range(100)])
    assert_share(opened, density)


def test_calibrated_log_alpha_is_finite_however_sharp():
    """A parameter at infinity can never be trained."""
    assert calibrated_log_alpha(random_scores(1000), 0.5, 0.01).isfinite().all()


def published_log_alpha(importance, density, sharpness):
    """METHODS.md 3.6: b bisected in [0, 1], then the inverse of the gate's median."""
    quantile = importance.argsort().argsort().double() / (len(importance) - 1)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        mean = torch.sigmoid((quantile - middle) / sharpness).mean().item()
        low, high = (middle, high) if mean > density else (low, middle)
    p = torch.sigmoid((quantile - (low + high) / 2) / sharpness)
    return HARD_CONCRETE_TEMPERATURE * torch.logit((p + 0.1) / 1.2)


def test_the_published_start_misses_its_density():
    """Asked for 0.10 open, it opens 0.63 of the gates, and the mean gate is 0.29."""
    gates = HardConcrete(published_log_alpha(random_scores(2000), 0.10, 0.2))
    samples = torch.cat([gates.sample(0, step).detach() for step in range(100)])
    assert gates.expected_density() - 0.10 > 0.15
    assert samples.mean() - 0.10 > 0.15
    assert_share(samples > 0, gates.expected_density().item())
    assert_close(gates.expected_density().item(), 0.63, rtol=0, atol=0.01)
    assert_close(samples.mean().item(), 0.29, rtol=0, atol=0.01)


def test_normal_scores_keep_the_ranks_and_look_normal():
    importance = random_scores(500).exp() * 1e-7
    scores = normal_scores(importance)
    assert scores.argsort().tolist() == importance.argsort().tolist()
    assert scipy.stats.kstest(scores.numpy(), "norm").statistic < 1 / 500
    assert_close(scores.sort().values, -scores.sort().values.flip(0), rtol=0, atol=1e-12)
    assert_close(normal_scores(importance * 1e9), scores)


def test_equal_importance_is_ranked_in_the_order_of_the_edges():
    """Of two that tie, the earlier one is taken first, as `selection.rank` takes them."""
    scores = normal_scores(torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]))
    assert scores.argsort(descending=True).tolist() == [0, 2, 1, 3, 4]
    assert (normal_scores(torch.zeros(2000)).diff() < 0).all()
    p = calibrated_probability(torch.zeros(2000).double(), 0.3)
    assert (p.diff() < 0).all()


@pytest.mark.parametrize("k", [1, 3, 1000])
def test_hard_masks_take_tied_edges_in_the_order_of_the_edges(k):
    learner = TopK(torch.zeros(2000), float(k), float(k), mask="straight_through")
    assert learner.sample(0, 0).nonzero().flatten().tolist() == list(range(k))


# ------------------------------------------------------------------ errors


BUDGETS = [(0.0, None), (-1.0, 5.0), (3.0, 21.0), (3.0, 0.0), (8.0, 7.0)]


@pytest.mark.parametrize(("k_min", "k_max"), BUDGETS)
def test_budgets_that_no_graph_has_are_errors(k_min, k_max):
    with pytest.raises(ConfigError, match=r"0 < gates\.k_min <= gates\.k_max <= 20 edges, got"):
        TopK(random_scores(20), k_min, k_max)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(ConfigError, match=f"temperature must be positive, got {temperature}"):
        TopK(random_scores(20), temperature=temperature)


@pytest.mark.parametrize("density", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_density_must_lie_between_0_and_1(density):
    for start in (calibrated_probability, calibrated_log_alpha):
        with pytest.raises(ConfigError, match=rf"\(0, 1\), got {density}"):
            start(random_scores(20), density)


def test_normal_scores_are_the_quantiles_in_the_middle_of_each_rank():
    found = normal_scores(torch.tensor([0.3, 9.0, 0.2, 5.0]).double())
    quantiles = [3 / 8, 7 / 8, 1 / 8, 5 / 8]
    assert_close(found, torch.tensor(scipy.stats.norm.ppf(quantiles)))
