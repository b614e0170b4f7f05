"""What budgets, directions and averages do in training: laws, steps by hand, resuming."""

import math

import jaxtyping
import pytest
import torch
from conftest import build_tiny_model
from engine.test_evaluation import pairs
from lightning.pytorch.callbacks import Callback
from tiny import quick_config, save_model, save_pairs
from torch.testing import assert_close

from circuitprune.attribution.gate_ig import gate_ig
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.metrics import exact_match, kl_divergence, logit_diff
from circuitprune.pipelines.learning import make_module
from circuitprune.pipelines.setup import make_setup
from circuitprune.training.gates import TopK, corrupts
from circuitprune.training.objectives import make_objective, make_opposite
from circuitprune.training.starts import normal_scores, shared_importance
from training.test_module import STEPS, Recorder, SaveAt, fit

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and logging
NEW = ("gates.direction=joint", "gates.budgets=adaptive", "gates.count=live", "gates.average=0.5")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def references():
    gated = GatedModel(build_tiny_model("gpt2"))
    return References(gated, make_ablation("patch", gated.ports, []))


def new_setup(home, *overrides):
    return make_setup(quick_config(home, *overrides))


def module_of(setup):
    generator = torch.Generator().manual_seed(0)
    return make_module(setup, torch.rand(setup.gated.graph.n_edges, generator=generator))


# ------------------------------------------------------------------ the first step


WEIGHTS = {"log_uniform": lambda a: 1 - a, "uniform": lambda a: a * (1 - a)}


@pytest.mark.parametrize("schedule", WEIGHTS)
def test_from_equal_scores_the_expected_first_step_is_centred_gate_ig(
    references, schedule, monkeypatch
):
    """All gates are then k / n =: a, and `d gate_i / d score_j = a (1 - a) (delta_ij - 1/n) / T`.

    With p the density of a, the mean gradient over budgets is that of gates along the diagonal,
    weighted by `a (1 - a) p(a)`, which is `1 - a` for log-uniform budgets and the density of
    Beta(2, 2) for uniform ones (arXiv 2609.25518).
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # twice as fast
    run, batch = references.run(pairs()), pairs()
    n_edges, temperature = references.gated.graph.n_edges, 0.7
    objective = make_objective("kl", references, logit_diff, 1.0)

    def slope_at(gates, of):
        (slope,) = torch.autograd.grad(objective(run(gates), batch).mean(), of)
        return slope

    learner = TopK(torch.zeros(n_edges).double(), 1.0, None, temperature, "sigmoid", schedule)
    places = (torch.arange(60) + 0.5) / 60
    steps = [
        slope_at(learner.gates(learner.budgets.at(u), 0.0), learner.scores) for u in places.tolist()
    ]
    # the same integral over a = k / n in [1/n, 1], where p(a) is 1 / (a ln n) or 1 / (1 - 1/n)
    width, sums = 1 - 1 / n_edges, dict.fromkeys(WEIGHTS, 0.0)
    for place in places.tolist():
        a = 1 - width * (1 - place)
        gates = torch.full((n_edges,), a, dtype=torch.float64, requires_grad=True)
        slope = slope_at(gates, gates)
        for name, weight in WEIGHTS.items():
            sums[name] = sums[name] + weight(a) * (slope - slope.mean()) / len(places)
    scale = (width / math.log(n_edges) if schedule == "log_uniform" else 1.0) / temperature
    expected = torch.stack(steps).mean(0)
    by_hand = {name: scale * value for name, value in sums.items()}
    assert (expected - by_hand.pop(schedule)).norm() < 0.02 * expected.norm()
    for other in by_hand.values():  # nor is it any weight
        nearest = other * (other @ expected) / (other @ other)
        assert (expected - nearest).norm() > 0.05 * expected.norm()


def test_that_step_follows_the_attribution_of_the_default_start(references):
    """Gate IG has the same integrand under another weight: why it is where training starts."""
    batch, objective = pairs(), make_objective("kl", references, logit_diff, 1.0)
    learner = TopK(torch.zeros(references.gated.graph.n_edges).double(), 1.0, mask="sigmoid")
    for u in torch.linspace(0.02, 0.98, 12).tolist():
        gates = learner.gates(learner.budgets.at(u), 0.0)
        objective(references.run(batch)(gates), batch).mean().backward()

    def fidelity(logits, batch):
        return -kl_divergence(references.full_logits(batch), logits)

    scores = gate_ig(references, [batch], fidelity, 12)  # negative: the edge helps
    step = -learner.scores.grad
    assert torch.corrcoef(torch.stack([step, -scores.to(step)]))[0, 1] > 0.8


# ------------------------------------------------------------------ both directions


@pytest.mark.parametrize("objective", ["kl", "logit_diff"])
def test_a_joint_step_is_the_step_done_by_hand(home, tmp_path, objective):
    """Step 0 of one seed keeps its edges, of another it cuts them."""
    seeds = {corrupts(seed, 0): seed for seed in range(10)}
    assert set(seeds) == {False, True}
    for cuts, seed in seeds.items():
        settings = ("gates.direction=joint", f"objective={objective}", f"train.seed={seed}")
        setup, twin = new_setup(home, *settings), new_setup(home, *settings)
        module, by_hand = module_of(setup), module_of(twin)
        fit(module, setup, tmp_path, max_steps=1)
        batch = next(iter(twin.data.train_dataloader()))
        gates = by_hand.learner.sample(seed, 0)
        logits = twin.references.run(batch)(1 - gates if cuts else gates)
        if objective == "kl":
            corrupt = twin.gated.plain(batch.corrupt, batch.mask, batch.last)
            wanted = corrupt if cuts else twin.references.full_logits(batch)
            loss = kl_divergence(wanted, logits).mean()
        else:
            loss = logit_diff(logits, batch).mean() * (1 if cuts else -1)
        optimizer = torch.optim.Adam(by_hand.learner.parameters(), lr=by_hand.lr)
        loss.backward()
        optimizer.step()
        assert_close(module.learner.scores, by_hand.learner.scores, rtol=1e-4, atol=1e-6)


def test_every_second_step_cuts_and_the_coin_is_its_own(home, references):
    coins = torch.tensor([corrupts(0, step) for step in range(2000)]).double()
    assert abs(coins.mean() - 0.5) < 0.06
    learner = TopK(torch.randn(50))
    for what in (learner.budget, learner.hardness):
        others = torch.tensor([what(0, step) for step in range(2000)]).double()
        assert abs(torch.corrcoef(torch.stack([coins, others.log()]))[0, 1]) < 0.1
    assert module_of(new_setup(home)).opposite is None


def test_the_empty_logits_are_those_of_the_corrupt_run(references):
    batch, none = pairs(), references.gated.graph.no_edges()
    for _ in range(2):  # made, and from the cache
        found = references.empty_logits(batch)
        assert not found.requires_grad
        assert_close(found, references.run(batch)(none.double()))
    assert_close(found, references.gated.plain(batch.corrupt, batch.mask, batch.last))


def test_joint_training_makes_circuits_necessary(references, monkeypatch):
    """What is left without the circuit: nearer to the empty circuit than after training to keep."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as above
    batch, n_edges = pairs(), references.gated.graph.n_edges
    run = references.run(batch)
    about = ("kl", references, logit_diff, 1.0)
    keep, opposite = make_objective(*about), make_opposite(*about)
    left = {}
    for joint in (False, True):
        learner = TopK(torch.zeros(n_edges).double(), k_min=4.0)
        optimizer = torch.optim.Adam(learner.parameters(), lr=0.1)
        for step in range(60):
            optimizer.zero_grad()
            gates, loss = learner.sample(0, step), keep
            if joint and corrupts(0, step):
                gates, loss = 1 - gates, opposite
            loss(run(gates), batch).mean().backward()
            optimizer.step()
        with torch.no_grad():
            hard = learner.gates(n_edges / 5, 1.0)
            left[joint] = opposite(run(1 - hard), batch).mean()
    assert left[True] < 0.9 * left[False]


# ------------------------------------------------------------------ averages, starts, resuming


def test_the_average_is_that_of_the_scores_that_the_last_steps_began_with(home, tmp_path):
    setup, seen = new_setup(home, "gates.average=0.5"), []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            seen.append(module.learner.scores.detach().clone())

    module = module_of(setup)
    before = module.learner.ranking().clone()
    assert torch.equal(before, module.learner.scores)
    fit(module, setup, tmp_path, Watch())
    assert_close(module.learner.ranking(), torch.stack(seen[STEPS // 2 :]).mean(0))
    assert not torch.equal(module.learner.ranking(), module.learner.scores)


def test_a_longer_run_begins_its_average_anew():
    learner = TopK(torch.zeros(3), k_min=1.0, averages=True)
    for value, now in ((1.0, True), (3.0, True), (5.0, False), (6.0, True), (8.0, True)):
        learner.scores.data.fill_(value)
        learner.remember(now)
        expected = {1.0: 1.0, 3.0: 2.0, 5.0: 5.0, 6.0: 6.0, 8.0: 7.0}[value]
        assert_close(learner.ranking(), torch.full((3,), expected))


@pytest.mark.parametrize("at", [3, 8])
def test_with_all_of_it_a_resumed_run_is_the_uninterrupted_one_to_the_bit(home, tmp_path, at):
    setup, whole = new_setup(home, *NEW), Recorder()
    module, path = module_of(setup), tmp_path / "at.ckpt"
    fit(module, setup, tmp_path, whole, SaveAt(at, path))
    setup, rest = new_setup(home, *NEW), Recorder()
    resumed = module_of(setup)
    fit(resumed, setup, tmp_path, rest, resume=path)
    assert len(rest.gates) == STEPS - at
    assert all(map(torch.equal, rest.gates, whole.gates[at:]))
    ours, theirs = resumed.state_dict(), module.state_dict()
    assert set(ours) == {f"learner.{n}" for n in ("scores", "mean", "n_averaged")} | {
        "learner.budgets.top",
        "learner.budgets.probes",
    }
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_adaptive_schedule_is_told_how_circuits_agree(home, tmp_path, monkeypatch):
    setup, told, due = new_setup(home, "gates.budgets=adaptive"), [], []
    module = module_of(setup)
    monkeypatch.setattr(module.learner.budgets, "agreed", told.append)

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            step, references = module.global_step, module.references
            if module.learner.asks(module.noise_seed, step):
                with torch.no_grad():
                    logits = references.run(batch)(module.learner.sample(module.noise_seed, step))
                due.append(exact_match(references.full_logits(batch), logits).mean().item())

    fit(module, setup, tmp_path, Watch())
    assert due and told == pytest.approx(due)


def test_several_starts_are_the_mean_of_their_normal_scores():
    one, two = torch.tensor([3.0, -1.0, 0.5, 0.0]), torch.tensor([0.0, 9.0, float("nan"), 1.0])
    expected = (normal_scores(one.abs()) + normal_scores(torch.tensor([0.0, 9.0, 0.0, 1.0]))) / 2
    assert_close(shared_importance(torch.stack([one, two])), expected)
    assert_close(shared_importance(one), one.abs())
