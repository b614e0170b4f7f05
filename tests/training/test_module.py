"""Mask training: what is trained and saved, resuming to the bit, refusals, and that it learns."""

import math
from pathlib import Path

import pytest
import torch
from conftest import build_tiny_model
from engine.test_evaluation import pairs
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tiny import quick_config, save_model, save_pairs
from torch import Tensor

from circuitprune.circuits.selection import select
from circuitprune.data.batches import Batch
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.evaluation import evaluate
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError, NonFiniteError, RunError
from circuitprune.metrics import kl_divergence, logit_diff
from circuitprune.pipelines import train as run
from circuitprune.pipelines.setup import Setup, make_setup
from circuitprune.runs.folder import step_of
from circuitprune.training.density import DensitySchedule, FixedPenalty, Lagrangian
from circuitprune.training.gates import HardConcrete, Learner, TopK
from circuitprune.training.module import MaskTraining
from circuitprune.training.objectives import OBJECTIVES, make_objective
from circuitprune.training.starts import calibrated_log_alpha
from circuitprune.views.tensorboard.callback import Pictures

LEARNERS = {
    "topk": ["gates.learner=topk"],
    "hard_concrete": ["gates.learner=hard_concrete", "train.lr=0.2"],
}
STEPS = 12
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and logging


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the tiny model and its pairs."""
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(params=LEARNERS)
def learner(request) -> str:
    return request.param


@pytest.fixture
def references() -> References:
    """The 3-layer GPT-2 of the laws, in float64, with `patch`."""
    gated = GatedModel(build_tiny_model("gpt2"))
    return References(gated, make_ablation("patch", gated.ports, []))


def new_setup(home: Path, learner: str, *overrides: str) -> Setup:
    return make_setup(quick_config(home, *LEARNERS[learner], *overrides))


def module_of(setup: Setup) -> MaskTraining:
    """The module of a config, from a fixed made-up importance instead of an attribution."""
    generator = torch.Generator().manual_seed(0)
    return run.make_module(setup, torch.rand(setup.gated.graph.n_edges, generator=generator))


def fit(module: MaskTraining, setup: Setup, root: Path, *callbacks: Callback, **options) -> Trainer:
    """Train as `run.train` does, without logs."""
    validates = bool(setup.data.splits["val"])
    resume = options.pop("resume", None)
    if resume is not None:
        setup.data.start_step = step_of(resume)
    trainer = Trainer(
        **{
            "max_steps": STEPS,
            "accelerator": "cpu",
            "val_check_interval": 4 if validates else None,
            "check_val_every_n_epoch": None if validates else 1,
            "limit_val_batches": 1.0 if validates else 0,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": root,
            "callbacks": list(callbacks),
            **options,
        }
    )
    trainer.fit(module, datamodule=setup.data, ckpt_path=resume, weights_only=True)
    return trainer


class Recorder(Callback):
    """The examples and the sampled gates of every step, and what the base model was like."""

    def __init__(self) -> None:
        self.examples: list[list[int]] = []
        self.gates: list[Tensor] = []
        self.in_training: set[bool] = set()
        self.base_gradients: set[bool] = set()

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.examples.append(batch.index.tolist())
        with torch.no_grad():
            self.gates.append(module.learner.sample(module.noise_seed, module.global_step))

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        base = module.references.gated.model
        self.in_training |= {part.training for part in base.modules()}
        self.base_gradients |= {p.requires_grad or p.grad is not None for p in base.parameters()}


class SaveAt(Callback):
    """Saves a checkpoint inside the loop, after a step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


# ---------------------------------------------------------------- what is trained and saved


def test_a_checkpoint_holds_the_gates_the_multipliers_and_the_optimiser_only(
    home, learner, tmp_path
):
    setup = new_setup(home, learner)
    module, path = module_of(setup), tmp_path / "x.ckpt"
    fit(module, setup, tmp_path, SaveAt(3, path), max_steps=3)
    checkpoint = torch.load(path, weights_only=True)
    names = {"topk": {"learner.scores"}, "hard_concrete": {"learner.log_alpha"}}[learner]
    if learner == "hard_concrete":
        names = names | {"penalty.multipliers"}
    assert set(checkpoint["state_dict"]) == names
    assert {n for n, _ in module.named_parameters()} == names
    assert checkpoint["job"] == module.job and module.job["model_fingerprint"]
    (optimizer,) = checkpoint["optimizer_states"]
    shapes = {tuple(t.shape) for s in optimizer["state"].values() for t in s.values()}
    assert shapes <= {(), (setup.gated.graph.n_edges,), (2,)}
    assert path.stat().st_size < 20_000  # the base model has 100,000 bytes


def test_the_base_model_is_frozen_and_in_eval_throughout(home, learner, tmp_path):
    setup, recorder = new_setup(home, learner), Recorder()
    module = module_of(setup)
    before = {name: value.clone() for name, value in setup.gated.model.state_dict().items()}
    module.train()
    fit(module, setup, tmp_path, recorder)
    assert module.learner.training
    assert recorder.in_training == {False} and recorder.base_gradients == {False}
    for name, value in setup.gated.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_one_step_is_the_step_done_by_hand(home, learner, tmp_path):
    setup, twin = new_setup(home, learner), new_setup(home, learner)
    module, by_hand = module_of(setup), module_of(twin)
    fit(module, setup, tmp_path, max_steps=1)
    config, parameters = twin.config, list(by_hand.learner.parameters())
    batch = next(iter(twin.data.train_dataloader()))
    gates = by_hand.learner.sample(config.train.seed, 0)
    references = twin.references
    tokens, mask, last, prefix = references.rest(batch).clean_prompts
    ablated = references.ablated(references.rest(batch))
    logits = twin.gated(gates, tokens, mask, ablated, last, prefix)
    loss = kl_divergence(references.full_logits(batch), logits).mean()
    groups = [{"params": parameters, "lr": by_hand.lr}]
    if isinstance(by_hand.learner, HardConcrete):
        multipliers = by_hand.penalty.multipliers
        gap = by_hand.learner.expected_density() - config.gates.init_density
        loss = loss + multipliers[0] * gap + multipliers[1] * gap**2
        groups.append({"params": [multipliers], "lr": by_hand.penalty_lr, "maximize": True})
    optimizer = torch.optim.Adam(groups)
    loss.backward()
    optimizer.step()
    for (name, ours), (_, expected) in zip(
        module.named_parameters(), by_hand.named_parameters(), strict=True
    ):
        assert torch.equal(ours, expected), name
    assert not torch.equal(module.learner.ranking(), module_of(twin).learner.ranking())


def test_the_multipliers_ascend(home, tmp_path):
    setup = new_setup(home, "hard_concrete", "gates.target_density=0.01", "gates.warmup=0")
    module = module_of(setup)
    fit(module, setup, tmp_path, max_steps=3)
    assert bool((module.penalty.multipliers > 0).all())  # too dense from the start: dearer


@pytest.mark.parametrize(("warmup", "end"), [(0, 0.1), (4, 0.0), (3, 1.0)])
def test_the_learning_rate_is_a_warm_up_and_a_line(home, tmp_path, warmup, end):
    setup = new_setup(home, "topk", f"train.lr_warmup={warmup}", f"train.lr_end={end}")
    module, rates = module_of(setup), []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(module, setup, tmp_path, Watch())
    for step, rate in enumerate(rates):
        if step < warmup:
            expected = (step + 1) / (warmup + 1)
        else:
            done = (step - warmup) / (STEPS - warmup)
            expected = 1 - (1 - end) * done
        assert rate == pytest.approx(module.lr * expected)
    assert len(rates) == STEPS
    assert module._lr_factor(2 * STEPS) == pytest.approx(end)  # and no further down


# ---------------------------------------------------------------- the same again, and resuming


@pytest.mark.parametrize("n_val", [0, 8])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(home, learner, tmp_path, at, n_val):
    """Steps 4 and 8 validate; an epoch of 24 pairs in batches of 7 ends inside step 4."""
    odd = [f"task.n_val={n_val}", "train.batch_size=7"]
    setup, whole = new_setup(home, learner, *odd), Recorder()
    module, path = module_of(setup), tmp_path / "at.ckpt"
    trainer = fit(module, setup, tmp_path, whole, SaveAt(at, path))
    final = trainer.optimizers[0].state_dict()["state"]

    setup, rest = new_setup(home, learner, *odd), Recorder()
    resumed = module_of(setup)
    trainer = fit(resumed, setup, tmp_path, rest, resume=path)
    assert rest.examples == whole.examples[at:] and len(whole.examples) == STEPS
    for ours, theirs in zip(rest.gates, whole.gates[at:], strict=True):
        assert torch.equal(ours, theirs)
    for name, value in module.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    for index, state in trainer.optimizers[0].state_dict()["state"].items():
        assert all(torch.equal(state[key], final[index][key]) for key in state)
    assert trainer.global_step == STEPS


def test_noise_and_examples_depend_on_the_seed(home, learner, tmp_path):
    seen = []
    for seed in (0, 0, 1):
        setup, recorder = new_setup(home, learner, f"train.seed={seed}"), Recorder()
        torch.manual_seed(len(seen))  # the global stream has no say
        fit(module_of(setup), setup, tmp_path, recorder)
        seen.append(recorder)
    assert seen[0].examples == seen[1].examples != seen[2].examples
    for first, again, other in zip(*(r.gates for r in seen), strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("sizes", "shown"), [((0.001, 0.04, 0.2), "0.04"), ((0.2, 0.5), "0.2"), ((0.07, 0.02), "0.07")]
)
def test_the_circuit_that_is_drawn_is_the_one_nearest_to_a_twentieth(references, sizes, shown):
    learner = TopK(torch.zeros(references.gated.graph.n_edges))
    objective = make_objective("kl", references, logit_diff, 1.0)
    module = MaskTraining(learner, references, objective, logit_diff, sizes)
    assert module.shown_size == shown and set(module.cut()) == {f"{size:g}" for size in sizes}


def test_each_step_has_noise_and_a_target_of_its_own(home, tmp_path, monkeypatch):
    """Of its number, a resumed run's of that of the whole run."""
    setup = new_setup(home, "hard_concrete", "train.seed=3", "gates.warmup=1.0")
    module, sampled, targets = module_of(setup), [], []
    sample, schedule = module.learner.sample, module.schedule
    monkeypatch.setattr(module.learner, "sample", lambda *at: sampled.append(at) or sample(*at))
    module.schedule = lambda step: targets.append((step, schedule(step))) or schedule(step)
    fit(module, setup, tmp_path, max_steps=5)
    assert sampled == [(3, step) for step in range(5)]
    start, end = setup.config.gates.init_density, setup.config.gates.target_density
    line = [(step, pytest.approx(start + (end - start) * step / STEPS)) for step in range(5)]
    assert targets == line


def test_the_noise_differs_from_step_to_step(references):
    learner = HardConcrete(torch.zeros(references.gated.graph.n_edges))
    samples = [learner.sample(0, step) for step in range(4)]
    for i in range(4):
        for j in range(i):
            assert not torch.equal(samples[i], samples[j])


# ---------------------------------------------------------------- refusals


def test_a_checkpoint_of_another_model_is_refused(home, tmp_path):
    setup = new_setup(home, "topk")
    module, path = module_of(setup), tmp_path / "x.ckpt"
    fit(module, setup, tmp_path, SaveAt(2, path), max_steps=2)
    other = module_of(setup)
    other.job = {**module.job, "model_fingerprint": "another"}
    known = f"model_fingerprint '{module.job['model_fingerprint']}', here 'another'"
    with pytest.raises(RunError, match=known):
        fit(other, setup, tmp_path, resume=path)


@pytest.mark.parametrize(
    ("learner", "other"), [("topk", "hard_concrete"), ("hard_concrete", "topk")]
)
def test_a_checkpoint_of_another_learner_is_refused(home, tmp_path, learner, other):
    setup, path = new_setup(home, learner), tmp_path / "x.ckpt"
    fit(module_of(setup), setup, tmp_path, SaveAt(2, path), max_steps=2)
    setup = new_setup(home, other)
    with pytest.raises(RunError, match=f"gates.learner '{learner}', here '{other}'"):
        fit(module_of(setup), setup, tmp_path, resume=path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_step_and_examples(home, tmp_path, bad):
    setup, recorder = new_setup(home, "topk"), Recorder()
    module = module_of(setup)
    honest = module.objective

    def spoilt(circuit: Tensor, batch: Batch) -> Tensor:
        loss = honest(circuit, batch)
        return loss * bad if module.global_step == 3 else loss

    module.objective = spoilt
    with pytest.raises(NonFiniteError) as caught:
        fit(module, setup, tmp_path, recorder)
    assert "step 3" in str(caught.value) and str(recorder.examples[3]) in str(caught.value)
    assert bool(torch.isfinite(module.learner.ranking()).all())


def test_a_gradient_that_is_not_finite_stops_and_names_the_parameter(home, tmp_path):
    setup = new_setup(home, "topk")
    module = module_of(setup)
    module.objective = lambda circuit, batch: (circuit - circuit).abs().sqrt().sum(1)
    with pytest.raises(NonFiniteError, match=r"learner\.scores.*step 0"):
        fit(module, setup, tmp_path)
    assert bool(torch.isfinite(module.learner.ranking()).all())


# ---------------------------------------------------------------- that it learns


def descend(
    references: References,
    learner: Learner,
    batch: Batch,
    steps: int,
    lr: float,
    objective: str = "kl",
) -> list[float]:
    """The module's learner and optimiser in a plain loop; the loss of each step."""
    loss_of = make_objective(objective, references, logit_diff, 1.0)
    module = MaskTraining(learner, references, loss_of, logit_diff, [0.1], steps=steps, lr=lr)
    chosen = module.configure_optimizers()
    optimizer, rates = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    ablated = references.ablated(batch)
    losses = []
    for step in range(steps):
        gates = learner.sample(0, step)
        circuit = references.gated(gates, batch.clean, batch.mask, ablated, batch.last)
        loss = loss_of(circuit, batch).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return losses


@pytest.mark.parametrize("target", [0.1, 0.6])
@pytest.mark.parametrize("kind", ["lagrangian", "fixed"])
def test_hard_concrete_reaches_the_target_density(kind, target):
    """Every edge is worth something, so only the penalty keeps any out: the worst ones.

    The multipliers swing around the target, so they end further from it than a steep fixed price.
    """
    generator, n_edges, steps = torch.Generator().manual_seed(0), 200, 1000
    worth = torch.rand(n_edges, generator=generator) + 0.05
    learner = HardConcrete(calibrated_log_alpha(torch.rand(n_edges, generator=generator), 0.9))
    assert learner.expected_density().item() == pytest.approx(0.9, abs=1e-4)
    penalty = Lagrangian() if kind == "lagrangian" else FixedPenalty(30.0)
    schedule = DensitySchedule(0.9, target, 7 * steps // 10)
    groups = [{"params": list(learner.parameters()), "lr": 0.1}]
    if kind == "lagrangian":
        groups.append({"params": list(penalty.parameters()), "lr": 0.2, "maximize": True})
    optimizer = torch.optim.Adam(groups)
    rates = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    for step in range(steps):
        loss = 1 - (learner.sample(0, step) * worth).mean()
        loss = loss + penalty(learner.expected_density(), schedule(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    near = 0.06 if kind == "lagrangian" else 0.02
    assert learner.expected_density().item() == pytest.approx(target, abs=near)
    n_kept = round(target * n_edges)
    kept = learner.ranking().topk(n_kept).indices
    assert worth[kept].mean() > 0.85 * worth.topk(n_kept).values.mean()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_falls(references, objective):
    batch, n_edges = pairs(), references.gated.graph.n_edges
    importance = torch.rand(n_edges, generator=torch.Generator().manual_seed(0))
    learner = HardConcrete(calibrated_log_alpha(importance, 0.5))
    losses = descend(references, learner, batch, 40, 0.2, objective)
    assert sum(losses[-10:]) < sum(losses[:10])


def test_an_unknown_objective_lists_the_known(references):
    with pytest.raises(ConfigError, match="cross_entropy"):
        make_objective("guess", references, logit_diff, 1.0)


@pytest.mark.parametrize("mask", ["mixed", "straight_through", "sigmoid"])
def test_topk_finds_circuits_that_beat_every_random_one(references, mask):
    graph, batch = references.gated.graph, pairs()
    generator = torch.Generator().manual_seed(0)
    learner = TopK(torch.randn(graph.n_edges, generator=generator), mask=mask)
    start = learner.ranking().clone()
    descend(references, learner, batch, 80, 0.1)
    for n_edges in (graph.n_edges // 10, graph.n_edges // 3):
        masks = {"learned": select(graph, learner.ranking(), n_edges)}
        masks["start"] = select(graph, start, n_edges)
        for i in range(10):
            scores = torch.rand(graph.n_edges, generator=generator)
            masks[f"random {i}"] = select(graph, scores, n_edges)
        kl = {name: e.kl for name, e in evaluate(references, masks, [batch], logit_diff).items()}
        learned = kl.pop("learned")
        assert learned < 0.8 * min(kl.values())


def test_topk_finds_planted_edges(references):
    """The loss is how far the gates are from a planted circuit's, so the best ranking is known."""
    n_edges = references.gated.graph.n_edges
    generator = torch.Generator().manual_seed(1)
    planted = torch.randperm(n_edges, generator=generator)[:12]
    worth = torch.zeros(n_edges).index_fill(0, planted, 1.0)
    learner = TopK(torch.randn(n_edges, generator=generator), k_min=4.0)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.1)
    for step in range(150):
        optimizer.zero_grad()
        (-(learner.sample(0, step) * worth).sum()).backward()
        optimizer.step()
    assert set(learner.ranking().topk(12).indices.tolist()) == set(planted.tolist())


def test_the_target_density_moves_along_a_line():
    schedule = DensitySchedule(0.9, 0.1, 5)
    for step, target in enumerate([0.9, 0.74, 0.58, 0.42, 0.26, 0.1, 0.1, 0.1]):
        assert schedule(step) == pytest.approx(target)
    assert DensitySchedule(0.9, 0.1, 0)(0) == pytest.approx(0.1)


def test_drawing_changes_no_gate_and_no_checkpoint(home, learner, tmp_path):
    """The same bits with TensorBoard's pictures as without, at a checkpoint and at the end."""
    found, saved = [], []
    for name in ("plain", "drawn"):
        setup = new_setup(home, learner)
        module, checkpoint = module_of(setup), tmp_path / f"{name}.ckpt"
        logger = TensorBoardLogger(tmp_path, name=name, version="") if name == "drawn" else False
        pictures = Pictures()
        fit(module, setup, tmp_path, SaveAt(6, checkpoint), pictures, logger=logger)
        found.append(module.state_dict())
        saved.append(torch.load(checkpoint, weights_only=True))
    assert pictures.drawn_at == {"gates": STEPS, "circuit": STEPS}
    for a, b in (found, [one["state_dict"] for one in saved]):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert saved[0].keys() == saved[1].keys()
