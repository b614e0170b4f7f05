"""Shards: computed once, the same whoever computes them, refused if they are another job's."""

import os
from threading import Thread

import pytest
import torch
from torch.distributed import HashStore

from circuitprune.errors import RunError
from circuitprune.files.whole import read_tensors, write_tensors
from circuitprune.runs.shards import Ranks, differences, processes, run_shards, threads
from circuitprune.runs.stopping import Stopped

PLAN = list(torch.tensor([4, 2, 0, 5, 1, 3, 6]).split(3))
JOB = {"model": "m", "steps": 5, "lr": 0.1, "slow": False}


class Score:
    """The square of each index, counting how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, indices: torch.Tensor) -> torch.Tensor:
        self.asked.append(indices.tolist())
        return indices.double() ** 2


def test_the_results_are_in_the_plans_order(tmp_path):
    expected = torch.tensor([16, 4, 0, 25, 1, 9, 36]).double()
    assert torch.equal(run_shards(PLAN, Score()), expected)
    assert torch.equal(run_shards(PLAN, Score(), tmp_path, JOB), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00000.safetensors",
        "00001.safetensors",
        "00002.safetensors",
    ]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_shards(PLAN, Score(), None, JOB)
    assert not list(tmp_path.iterdir())


def test_rows_may_have_any_shape(tmp_path):
    def rows(indices):
        return torch.stack([torch.arange(6).view(2, 3) == i for i in indices])

    found = run_shards(PLAN, rows, tmp_path)
    assert found.shape == (7, 2, 3) and found.dtype == torch.bool
    assert torch.equal(found, run_shards(PLAN, rows))


def test_what_is_there_is_not_computed_again(tmp_path):
    first, second = Score(), Score()
    whole = run_shards(PLAN, first, tmp_path, JOB)
    (tmp_path / "00001.safetensors").unlink()
    assert torch.equal(run_shards(PLAN, second, tmp_path, JOB), whole)
    assert first.asked == [[4, 2, 0], [5, 1, 3], [6]] and second.asked == [[5, 1, 3]]


def test_an_exception_leaves_the_shards_before_it(tmp_path):
    def fails(indices):
        if 5 in indices:
            raise OSError("power cut")
        return indices

    with pytest.raises(OSError, match="power cut"):
        run_shards(PLAN, fails, tmp_path, JOB)
    assert [p.name for p in tmp_path.iterdir()] == ["00000.safetensors"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_shard_is_computed_again(tmp_path, damage):
    whole = run_shards(PLAN, Score(), tmp_path, JOB)
    path = tmp_path / "00001.safetensors"
    good = path.read_bytes()
    if damage == "foreign":
        write_tensors(path, {"scores": torch.zeros(3)}, {})
    else:
        bad = {"flip": good[:-1] + bytes([good[-1] ^ 1]), "cut": good[:50], "empty": b""}
        path.write_bytes(bad[damage])
    score = Score()
    assert torch.equal(run_shards(PLAN, score, tmp_path, JOB), whole)
    assert score.asked == [[5, 1, 3]] and path.read_bytes() == good


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({**JOB, "steps": 6}, ["steps: 5 there, 6 now"]),
        ({**JOB, "model": "n", "lr": 0.2}, ["model: 'm' there, 'n' now", "lr: 0.1 there, 0.2 now"]),
        ({**JOB, "new": 1}, ["new: None there, 1 now"]),
        ({"model": "m", "steps": 5, "lr": 0.1}, ["slow: False there, None now"]),
    ],
)
def test_shards_of_another_job_are_refused_with_what_differs(tmp_path, job, words):
    run_shards(PLAN, Score(), tmp_path, JOB)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    score = Score()
    with pytest.raises(RunError) as caught:
        run_shards(PLAN, score, tmp_path, job)
    assert all(word in str(caught.value) for word in [*words, "00000.safetensors", "output_dir"])
    assert not score.asked and before == {p: p.read_bytes() for p in tmp_path.iterdir()}


def test_shards_of_another_plan_are_refused(tmp_path):
    run_shards(PLAN, Score(), tmp_path, JOB)
    with pytest.raises(RunError, match="other indices"):
        run_shards(PLAN[::-1], Score(), tmp_path, JOB)


def test_differences_of_equal_jobs_are_none():
    assert differences(JOB, dict(reversed(JOB.items()))) == ""


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_each_rank_does_its_own_and_the_first_reads_all(tmp_path, world):
    """The others' shards are there when the first is let through the barrier."""
    asked = []
    for rank in reversed(range(world)):
        score = Score()
        found = run_shards(PLAN, score, tmp_path, JOB, Ranks(rank, world))
        asked += score.asked
        assert score.asked == [p.tolist() for i, p in enumerate(PLAN) if i % world == rank]
        assert (found is None) == (rank != 0)
    assert torch.equal(found, run_shards(PLAN, Score()))
    assert sorted(map(tuple, asked)) == sorted(tuple(p.tolist()) for p in PLAN)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    run_shards(PLAN, Score(), tmp_path / "alone", JOB)
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "alone").iterdir()}


def test_a_shard_that_went_missing_is_named(tmp_path):
    with pytest.raises(RunError, match=r"00001\.safetensors went missing"):
        run_shards(PLAN, Score(), tmp_path, JOB, Ranks(0, 2))


def test_a_shard_holds_its_indices_and_its_job(tmp_path):
    run_shards(PLAN, Score(), tmp_path, JOB)
    tensors, notes = read_tensors(tmp_path / "00002.safetensors")
    assert tensors["indices"].tolist() == [6] and tensors["values"].tolist() == [36]
    assert '"steps": 5' in notes["job"]


def test_progress_counts_the_indices_of_all(tmp_path):
    """Also those that another process, or this one before it was killed, has done."""
    calls = []
    run_shards(PLAN, Score(), tmp_path, JOB, Ranks(1, 2), lambda *told: calls.append(told))
    assert calls == [(0, 7), (3, 7), (7, 7)]
    calls.clear()
    run_shards(PLAN, Score(), tmp_path, JOB, progress=lambda *told: calls.append(told))
    assert calls == [(3, 7), (6, 7), (7, 7), (7, 7)]


def test_threads_are_set_and_given_back():
    before = torch.get_num_threads()

    def fail():
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before


def test_one_process_needs_no_others(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = processes()
    ranks.wait()
    assert ranks.leads and ranks.world == 1


def test_nobody_passes_before_all_have_come():
    store, passed = HashStore(), []

    def come(rank: int) -> None:
        ranks = Ranks(rank, 3, store)
        for meeting in range(2):
            ranks.wait()
            passed.append(meeting)

    others = [Thread(target=come, args=[rank], daemon=True) for rank in range(2)]
    for thread in others:
        thread.start()
        thread.join(0.05)
    assert passed == [] and all(thread.is_alive() for thread in others)
    come(2)
    for thread in others:
        thread.join(30)
    assert sorted(passed) == [0, 0, 0, 1, 1, 1]


def test_ranks_without_an_address_are_refused(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(RunError, match="WORLD_SIZE=2"):
        processes()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ValueError("no such pair"), RunError, "another process, process 1: no such pair"),
        (Stopped(15), Stopped, "15"),
    ],
)
def test_who_waits_for_one_that_ended_ends_too(error, kind, words):
    store = HashStore()
    with pytest.raises(type(error)), Ranks(1, 2, store).together():
        raise error
    with pytest.raises(kind, match=words), Ranks(0, 2, store).together():
        Ranks(0, 2, store).wait()
