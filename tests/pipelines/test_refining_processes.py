"""Refinement in several processes: the bytes of one, also after a stop, and each does its share."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from ranks import several
from tiny import save_model, save_pairs, settings

from circuitprune.cli import attribute_main, main, train_main
from circuitprune.errors import NonFiniteError
from circuitprune.patching.circuit_kl import CircuitKL
from circuitprune.pipelines.sharing import Sharing
from circuitprune.runs.shards import Ranks

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' advice
FEW = ["refinement.tries=4", "refinement.most_rounds=1", "refinement.max_size=0.3"]
SCORED = ["attribution.method=eap", "verify.batch_size=8"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl")
    assert attribute_main([*settings(folder), *SCORED, f"output_dir={folder / 'run'}"]) == 0
    return folder


def refine(home: Path) -> int:
    return main(["refine", str(home / "run"), *FEW])


def everything(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "events" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def left(home: Path) -> dict[str, bytes]:
    """What the command left, which goes, as files name their folder."""
    folder = home / "run_refined"
    found = everything(folder)
    shutil.rmtree(folder)
    return found


@pytest.fixture(scope="module")
def alone(home) -> dict[str, bytes]:
    assert several(1, lambda rank: refine(home)) == [0]
    found = left(home)
    rounds = [one["rounds"] for one in json.loads(found["refinement.json"])["circuits"]]
    assert len(rounds) == 2 and any(len(one) > 1 for one in rounds)
    return found


@pytest.mark.parametrize("world", [2, 3])
def test_processes_refine_to_the_bytes_of_one(home, alone, tmp_path, capfd, world):
    def work(rank: int) -> int:
        pieces, done = Sharing.pieces, []

        def counting(sharing: Sharing, n: int, rows):
            def noting(some):
                done.extend(some)
                return rows(some)

            return pieces(sharing, n, noting)

        Sharing.pieces = counting
        code = refine(home)
        (tmp_path / str(rank)).write_text(str(len(done)))
        return code

    assert several(world, work) == [0] * world
    assert left(home) == alone
    counts = [int((tmp_path / str(rank)).read_text()) for rank in range(world)]
    assert counts == sorted(counts, reverse=True) and counts[-1] > sum(counts) / (2 * world)
    assert capfd.readouterr().out.count("Refining 2 circuits") == 1


def test_a_signal_to_one_stops_all_and_others_go_on(home, alone):
    """Once the state of a search is kept, in the midst of the next round; then with more."""
    output = home / "run_refined"

    def interrupted(rank: int) -> int:
        slopes, stopped = CircuitKL.slopes, []

        def stops(kl: CircuitKL, mask):
            if rank == 1 and not stopped and [*output.glob("refining/*.json")]:
                stopped.append(mask)
                os.kill(os.getpid(), signal.SIGTERM)
            return slopes(kl, mask)

        CircuitKL.slopes = stops
        return refine(home)

    assert several(2, interrupted) == [75, 75]
    assert [*(output / "refining").glob("*.json")] and not (output / "COMPLETE").exists()
    assert several(3, lambda rank: refine(home)) == [0, 0, 0]
    assert left(home) == alone


def test_an_error_of_one_ends_all_and_is_told(home, capfd):
    def fails(rank: int) -> int:
        def broken(*_):
            raise NonFiniteError("the KL became nan")

        if rank == 1:
            CircuitKL.slopes = broken
        return refine(home)

    assert 0 not in several(2, fails, seconds=60)
    told = capfd.readouterr().err
    assert "stopped with another process, process 1: the KL became nan" in told
    assert "bug" not in told
    shutil.rmtree(home / "run_refined")


def test_an_attribution_with_refine_leaves_the_circuits_of_one_process(home, tmp_path):
    """Its scores are those of one process to rounding, and so is the rest."""
    folder = tmp_path / "run"
    typed = [*settings(home), *SCORED, *FEW, "refine=true", "model.dtype=float64"]
    points = []
    for world in (1, 2):
        assert (
            several(world, lambda rank: attribute_main([*typed, f"output_dir={folder}"]))
            == [0] * world
        )
        assert not (folder / "refining").exists()
        circuits = {path.name: json.loads(path.read_text()) for path in folder.glob("circuits/*")}
        kept = {
            name: [edge for edge, one in circuit["edges"].items() if one["in_graph"]]
            for name, circuit in circuits.items()
        }
        frontier = json.loads((folder / "frontier.json").read_text())["points"]
        points.append((kept, [point["kl"] for point in frontier]))
        shutil.rmtree(folder)
    (ours, kl), (theirs, other) = points
    assert ours == theirs and kl == pytest.approx(other, rel=1e-8)


REFINED = ("refined.safetensors", "refinement.json")
"""What depends on nothing but the order of the gates: the same bytes if that is the same."""


def trained(home: Path, folder: Path, *more: str) -> list[str]:
    about = [*SCORED, *FEW, "refine=true", "model.dtype=float64", "train.steps=6"]
    return [*settings(home), *about, f"output_dir={folder}", *more]


@pytest.fixture(scope="module")
def trained_alone(home, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Where one process trains and refines without torchrun, and what that leaves."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train_main(trained(home, folder)) == 0
    found = everything(folder)
    rounds = [one["rounds"] for one in json.loads(found["refinement.json"])["circuits"]]
    assert any(len(one) > 1 for one in rounds)
    shutil.rmtree(folder)
    return folder, found


def same_training(found: dict[str, bytes], alone: dict[str, bytes]) -> None:
    """Gates are those of one process to rounding; what refinement chose is so to the bit."""
    assert found.keys() == alone.keys()
    for name in REFINED:
        assert found[name] == alone[name], name
    ours, theirs = (json.loads(one["frontier.json"])["points"] for one in (found, alone))
    assert ours == theirs


def test_training_with_refine_leaves_the_bytes_of_one_process(home, trained_alone):
    folder, alone = trained_alone
    for world in (1, 2):
        assert several(world, lambda rank: train_main(trained(home, folder))) == [0] * world
        found = everything(folder)
        shutil.rmtree(folder)
        same_training(found, alone)
        if world == 1:
            assert found == alone


def test_training_goes_on_within_its_refinement(home, trained_alone):
    folder, alone = trained_alone

    def interrupted(rank: int) -> int:
        slopes, stopped = CircuitKL.slopes, []

        def stops(kl: CircuitKL, mask):
            if rank == 1 and not stopped and [*folder.glob("refining/*.json")]:
                stopped.append(mask)
                os.kill(os.getpid(), signal.SIGTERM)
            return slopes(kl, mask)

        CircuitKL.slopes = stops
        return train_main(trained(home, folder))

    assert several(2, interrupted) == [75, 75]
    assert [*(folder / "refining").glob("*.json")] and not (folder / "COMPLETE").exists()
    goes_on = trained(home, folder, "train.resume=auto")
    assert several(2, lambda rank: train_main(goes_on)) == [0, 0]
    found = everything(folder)
    shutil.rmtree(folder)
    same_training(found, alone)


def test_no_piece_of_work_is_none(tmp_path):
    """Processes agree on nothing where there is nothing: no file, no meeting."""
    sharing = Sharing(tmp_path / "shared", {}, Ranks(world=2), keeps=False)
    assert not len(list(sharing.pieces(0, lambda some: iter(()))))
    assert not (tmp_path / "shared").exists()
