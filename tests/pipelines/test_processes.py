"""Training in several processes: what one learns with the same batches, and all end together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from ranks import several
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import quick_config, save_model, save_pairs, settings

from circuitprune.attribution import METHODS
from circuitprune.cli import main, train_main
from circuitprune.errors import ConfigError, NonFiniteError
from circuitprune.files.whole import read_tensors
from circuitprune.pipelines import gathering
from circuitprune.pipelines import stability as module
from circuitprune.pipelines import train as run
from circuitprune.pipelines.learning import fit
from circuitprune.pipelines.metric import attribution_metric
from circuitprune.pipelines.scoring import by_method, scoring_of
from circuitprune.pipelines.setup import make_setup, silent, training_batches
from circuitprune.pipelines.sharing import methods_of
from circuitprune.runs.launched import refuse_several
from circuitprune.runs.shards import processes
from circuitprune.training.module import MaskTraining

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's and transformers' advice

LONG = ["train.steps=100", "train.val_every=50"]
SHORT = ["train.steps=12", "train.val_every=5"]
EVERY = ["train.batch_size=6", "task.n_val=14", "verify.batch_size=4"]
"""Six examples for 1, 2 or 3 processes; four validation batches, the last of two examples."""
EXACT = ["model.dtype=float64"]
"""In float32, Adam makes of the rounding of a gradient near 0 what moves a gate by 1e-4."""
LEARNERS = {
    "top_k": [*LONG],
    "joint": ["gates.direction=joint", *SHORT],
    "adaptive": ["gates.budgets=adaptive", "gates.average=0.5", *SHORT],
    "hard_concrete": ["gates.learner=hard_concrete", *SHORT],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model", "gpt2")
    save_pairs(folder / "pairs.jsonl")
    return folder


@pytest.fixture(scope="module")
def learned(home):
    """What each learner learns in one process: its tensors and the frontiers of validation."""
    known: dict[str, tuple] = {}

    def find(name: str) -> tuple:
        if name not in known:
            setup = make_setup(quick_config(home, *EVERY, *EXACT, *LEARNERS[name]))
            known[name] = setup, *found(fit(setup, None))
        return known[name]

    return find


def found(module: MaskTraining) -> tuple[dict, list]:
    return dict(module.learner.state_dict()), module.curves


# ---------------------------------------------------------------- the same as one process


@pytest.mark.parametrize(
    ("name", "world"), [("top_k", 2), ("joint", 3), ("adaptive", 2), ("hard_concrete", 3)]
)
def test_processes_learn_the_gates_of_one(learned, tmp_path, name, world):
    setup, gates, curves = learned(name)

    def work(rank: int) -> None:
        torch.save(found(fit(setup, None)), tmp_path / f"{rank}.pt")

    assert several(world, work) == [0] * world
    for rank in range(world):
        theirs, seen = torch.load(tmp_path / f"{rank}.pt")
        for key, ours in gates.items():
            far = (theirs[key].double() - ours.double()).abs().max()
            assert far <= 1e-6 * max(1.0, ours.double().abs().max()), key
        assert len(seen) == len(curves) >= 2
        for mine, whole in zip(chain(*seen), chain(*curves), strict=True):
            assert mine == pytest.approx(whole, rel=1e-5, abs=1e-9)


def test_validation_sees_every_pair_once(home, tmp_path):
    """Counted over all processes: 14, none twice, though no number of batches is even."""
    setup = make_setup(quick_config(home, *EVERY, "train.steps=1", "train.val_every=1"))

    def work(rank: int) -> None:
        counts = []
        before = MaskTraining.on_validation_epoch_end

        def counting(module: MaskTraining) -> None:
            ends = module._reference_ends()
            each = [one.evidence().n for one in module._evaluations.values()]
            counts.extend([*each, *(end.n for end in ends)])
            before(module)

        MaskTraining.on_validation_epoch_end = counting
        fit(setup, None)
        (tmp_path / f"{rank}.json").write_text(json.dumps(counts))

    assert several(3, work) == [0, 0, 0]
    for rank in range(3):
        assert set(json.loads((tmp_path / f"{rank}.json").read_text())) == {14}


# ---------------------------------------------------------------- one run of all


def typed(home: Path, folder: Path, *more: str) -> list[str]:
    return [*settings(home), *EVERY, *EXACT, *SHORT, f"output_dir={folder}", *more]


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train_main(typed(home, folder)) == 0
    return folder


def same_results(folder: Path, whole: Path) -> None:
    names = {path.name for path in folder.rglob("*") if "events" not in path.name}
    assert names == {path.name for path in whole.rglob("*") if "events" not in path.name}
    ours, _ = read_tensors(folder / "gates.safetensors")
    theirs, _ = read_tensors(whole / "gates.safetensors")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    ours, theirs = (json.loads((f / "frontier.json").read_text()) for f in (folder, whole))
    assert len(ours["points"]) == len(theirs["points"])
    for one, two in zip(ours["points"], theirs["points"], strict=True):
        assert one["n_edges"] == two["n_edges"]
        assert one["kl"] == pytest.approx(two["kl"], rel=1e-4, abs=1e-7)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_one_process_writes_what_all_found(home, whole, tmp_path, capfd):
    folder = tmp_path / "run"
    assert several(2, lambda rank: train_main(typed(home, folder))) == [0, 0]
    same_results(folder, whole)
    assert capfd.readouterr().out.count("Training topk gates") == 1
    ours, theirs = curves(folder), curves(whole)
    assert ours.keys() == theirs.keys() and "train/loss" in ours
    for tag, points in theirs.items():
        assert [step for step, _ in ours[tag]] == [step for step, _ in points], tag
        for (_, mine), (_, value) in zip(ours[tag], points, strict=True):
            assert mine == pytest.approx(value, rel=1e-4, abs=1e-5), tag


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_to_one_stops_all_and_others_go_on(home, whole, tmp_path, number, code):
    """Two stop after the sixth step, where no checkpoint was due; three go on from there."""
    folder, step = tmp_path / "run", MaskTraining.training_step

    def interrupted(rank: int) -> int:
        def stops(module: MaskTraining, batch, batch_idx):
            if rank == 1 and module.global_step == 5:
                os.kill(os.getpid(), number)
            return step(module, batch, batch_idx)

        MaskTraining.training_step = stops
        return train_main(typed(home, folder))

    assert several(2, interrupted) == [code, code]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6 and not (folder / "COMPLETE").exists()
    if number == signal.SIGTERM:
        goes_on = typed(home, folder, "train.resume=auto")
        assert several(3, lambda rank: train_main(goes_on)) == [0, 0, 0]
        same_results(folder, whole)


# ---------------------------------------------------------------- what ends


def test_an_error_of_one_ends_all_and_is_told(home, tmp_path, capfd):
    step = MaskTraining.training_step

    def fails(rank: int) -> int:
        def broken(module: MaskTraining, batch, batch_idx):
            if rank == 1 and module.global_step == 3:
                raise NonFiniteError("the loss became nan at step 3")
            return step(module, batch, batch_idx)

        MaskTraining.training_step = broken
        return train_main(typed(home, tmp_path / "run"))

    codes = several(2, fails, seconds=60)
    told = capfd.readouterr().err
    assert 0 not in codes
    assert "error on rank 1: the loss became nan at step 3" in told
    assert "error: stopped with another process, process 1: the loss became nan" in told
    assert "bug" not in told


def test_a_batch_that_is_no_multiple_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setattr(run.launched, "world", lambda: 4)
    with pytest.raises(ConfigError, match=r"batch_size=6 cannot be shared evenly by 4 processes"):
        run._prepare(quick_config(home, *EVERY, f"output_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["report", "runs/no"],
        ["finetune"],
        ["train", "ioi", "--dry-run"],
    ],
)
def test_commands_without_shared_work_refuse_several(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == ConfigError.exit_code
    assert "runs in one process, but torchrun started 2" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_several()


# ---------------------------------------------------------------- evidence

VERIFY = ["n_bootstrap=50", "n_random=5", "n_knockouts=3", "n_removed=5", "n_adversarial=3"]


@pytest.fixture(scope="module")
def verified(whole, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verified") / "run"
    shutil.copytree(whole, folder)
    assert main(["verify", str(folder), *VERIFY, "--minimise"]) == 0
    return folder


def same_evidence(folder: Path, alone: Path) -> None:
    ours, theirs = (
        sorted(path.name for path in (f / "evidence").iterdir()) for f in (folder, alone)
    )
    assert ours == theirs and len(ours) > 8
    for name in ("verification.json", "verification.md", *(f"evidence/{one}" for one in ours)):
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name


@pytest.mark.parametrize("world", [2, 3])
def test_processes_gather_the_evidence_of_one(whole, verified, tmp_path, capfd, world):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    by = tmp_path / "by"
    by.mkdir()

    def work(rank: int) -> int:
        before = gathering.keep

        def noting(path: Path, *more) -> None:
            (by / path.stem).write_text(str(rank))
            before(path, *more)

        gathering.keep = noting
        return main(["verify", str(folder), *VERIFY, "--minimise"])

    assert several(world, work) == [0] * world
    same_evidence(folder, verified)
    assert {path.read_text() for path in by.iterdir()} == {str(rank) for rank in range(world)}
    assert capfd.readouterr().out.count("report    ") == 1


def test_a_signal_to_one_stops_the_evidence_of_all(whole, verified, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)

    def interrupted(rank: int) -> int:
        before, kept = gathering.keep, []

        def stops(*piece) -> None:
            before(*piece)
            kept.append(piece)
            if rank == 1 and len(kept) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        gathering.keep = stops
        return main(["verify", str(folder), *VERIFY, "--minimise"])

    assert several(2, interrupted) == [75, 75]
    assert (
        len([*(folder / "evidence").iterdir()]) >= 2 and not (folder / "verification.json").exists()
    )
    assert several(3, lambda rank: main(["verify", str(folder), *VERIFY, "--minimise"])) == [
        0,
        0,
        0,
    ]
    same_evidence(folder, verified)


def test_a_signal_to_torchrun_itself_stops_all_and_the_command_goes_on(whole, verified, tmp_path):
    """As a scheduler sends it: the launcher passes it on, and nobody is left behind."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(ROOT / "scripts" / "verify.py"), str(folder), *VERIFY, "--minimise"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*launcher, "--nproc-per-node=2", *script],
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        until = time.monotonic() + 300
        while not [*folder.glob("evidence/*.json")] and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "stopped by SIGTERM; the same command goes on from here" in told
    with pytest.raises(ProcessLookupError):  # of its own group, which is the launcher's
        os.killpg(process.pid, 0)
    assert not (folder / "verification.json").exists()
    assert several(2, lambda rank: main(["verify", str(folder), *VERIFY, "--minimise"])) == [0, 0]
    same_evidence(folder, verified)


# ---------------------------------------------------------------- stability

STUDY = ["--seeds", "2", "--bootstrap", "2"]


def studied(home: Path, folder: Path) -> list[str]:
    more = ["attribution.method=eap", "train.steps=3", "task.n_val=0", f"output_dir={folder}"]
    return ["stability", *settings(home), *more, *STUDY]


def everything(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "events" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def study(home, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Where a study is made, again and again, as files name their folder; and one process's."""
    folder = tmp_path_factory.mktemp("study") / "study"
    assert main(studied(home, folder)) == 0
    found = everything(folder)
    shutil.rmtree(folder)
    return folder, found


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_runs_of_a_study(home, study, tmp_path, capfd, world):
    (folder, alone), taken = study, tmp_path / "taken"
    taken.mkdir()

    def work(rank: int) -> int:
        before = module.run_once

        def noting(trial, say) -> None:
            (taken / trial.folder.name).write_text(str(rank))
            while len([*taken.iterdir()]) < 2:  # the other has taken one too
                time.sleep(0.02)
            before(trial, say)

        module.run_once = noting
        return main(studied(home, folder))

    try:
        assert several(world, work) == [0] * world
        assert everything(folder) == alone
        logged = {path.parent.name for path in folder.rglob("events*")}
        assert logged == {"seed0", "seed1", "bootstrap0", "bootstrap1"}  # whoever made them
    finally:
        shutil.rmtree(folder)
    assert len([*taken.iterdir()]) == 4
    assert len({path.read_text() for path in taken.iterdir()}) > 1
    assert capfd.readouterr().out.count("Comparing the circuits of 2 runs (seed)") == 1


def test_a_signal_to_one_stops_the_study_of_all(home, study):
    folder, alone = study

    def interrupted(rank: int) -> int:
        before, begun = module.run_once, []

        def stops(trial, say) -> None:
            begun.append(trial)
            if rank == 1 and len(begun) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            before(trial, say)

        module.run_once = stops
        return main(studied(home, folder))

    try:
        assert several(2, interrupted) == [75, 75]
        assert not (folder / "stability.json").exists()
        assert several(3, lambda rank: main(studied(home, folder))) == [0, 0, 0]
        assert everything(folder) == alone
    finally:
        shutil.rmtree(folder)


# ---------------------------------------------------------------- attribution

MEANS = [name for name, method in METHODS.items() if not (method.whole or method.sharded)]
FEW = ["task.n_train=14", "train.batch_size=4", *EXACT]
"""Four batches, the last of two pairs."""


@pytest.fixture
def shared(home, tmp_path):
    """Scores of one process and of several, for the same settings."""

    def find(world: int, *more: str) -> tuple[dict, dict]:
        setup = make_setup(quick_config(home, *FEW, *more))
        alone, folder = tmp_path / "alone.safetensors", tmp_path / "all"
        folder.mkdir()
        scoring_of(setup, alone)

        def work(rank: int) -> None:
            ranks = processes()
            found = scoring_of(setup, folder / "scores.safetensors", ranks=ranks)
            ranks.wait()
            assert (found is not None) == (rank == 0)

        assert several(world, work) == [0] * world
        assert [path.name for path in folder.iterdir()] == ["scores.safetensors"]
        return read_tensors(folder / "scores.safetensors")[0], read_tensors(alone)[0]

    return find


@pytest.mark.parametrize(("world", "method"), [(2, "eap_ig_inputs"), (3, "atp_ig"), (5, "eap")])
def test_processes_score_as_one(shared, world, method):
    """Five processes have four batches: one of them has nothing to do."""
    more = ["attribution.per_example=true"]
    more += ["attribution.convergence=true"] if METHODS[method].steps else []
    ours, theirs = shared(world, f"attribution.method={method}", *more)
    assert ours.keys() == theirs.keys() and {"scores", "per_example"} <= ours.keys()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", MEANS)
def test_a_mean_of_batches_is_the_method(home, method):
    """What sharing rests on, for every method that is not marked otherwise."""
    setup = make_setup(quick_config(home, *FEW, f"attribution.method={method}"))
    batches, metric = training_batches(setup), attribution_metric(setup)
    of_edges, of_nodes = methods_of(setup)
    score = of_nodes or of_edges
    whole = score(setup.references, batches, metric, 2)
    parts = [
        score(setup.references, part, metric, 2) * sum(map(len, part))
        for part in (batches[::2], batches[1::2])
    ]
    torch.testing.assert_close(sum(parts) / 14, whole, rtol=1e-9, atol=1e-13)
    assert whole.std() > 0


def test_what_needs_all_pairs_runs_in_one_process_and_says_so(home, tmp_path, capfd):
    setup = make_setup(quick_config(home, *FEW, "attribution.method=random"))

    def work(rank: int) -> None:
        say = print if rank == 0 else silent
        scoring_of(setup, tmp_path / "scores.safetensors", say, processes())

    assert several(2, work) == [0, 0]
    assert "random needs all pairs at once: one process runs it" in capfd.readouterr().out
    alone = by_method(setup).scores
    assert torch.equal(read_tensors(tmp_path / "scores.safetensors")[0]["scores"], alone)
