"""Twenty steps of training on real weights: they help, and a run that was cut goes on as if not."""

import pytest

from circuitprune.pipelines.train import discover
from circuitprune.runs.frontier import Frontier
from circuitprune.runs.settings import load_config
from circuitprune.training.module import MaskTraining

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Lightning's advice
]

QUICK = [
    "task.n_train=8",
    "task.n_val=0",
    "task.n_test=8",
    "train.steps=20",
    "train.batch_size=4",
    "train.checkpoint_every=10",
    "train.progress=false",
    "verify.sizes=[0.02]",
]
BYTES = ("scores.safetensors", "gates.safetensors", "frontier.json", "circuits", "pairs.json")
CUT_AT = 13


class PowerCut(Exception):
    """Ends a run at a step, without a word."""


@pytest.fixture(scope="module")
def run(real_model, tmp_path_factory):
    home, model = tmp_path_factory.mktemp("runs"), real_model("smollm2-135m")

    def run(name: str, *overrides: str) -> Frontier:
        named = [f"model.name={model}", f"output_dir={home / name}"]
        return discover(load_config("smollm2_sva", [*QUICK, *named, *overrides]), lambda _: None)

    run.home = home
    return run


@pytest.fixture(scope="module")
def whole(run) -> Frontier:
    return run("whole")


def kl(frontier: Frontier) -> float:
    (point,) = frontier.points
    return point.evidence.kl


def test_twenty_steps_lower_the_kl_of_held_out_pairs(run, whole):
    assert kl(whole) < 0.9 * kl(run("untrained", "train.steps=0"))


def test_a_run_that_was_cut_goes_on_to_the_same_bytes(run, whole, monkeypatch):
    honest = MaskTraining.training_step

    def cut(self, batch, batch_idx):
        if self.global_step == CUT_AT:
            raise PowerCut
        return honest(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(MaskTraining, "training_step", cut)
        with pytest.raises(PowerCut):
            run("cut")
    run("cut", "train.resume=auto")
    for path in [run.home / "whole" / name for name in BYTES]:
        for one in sorted(path.iterdir()) if path.is_dir() else [path]:
            resumed = run.home / "cut" / one.relative_to(run.home / "whole")
            assert resumed.read_bytes() == one.read_bytes(), one.name
