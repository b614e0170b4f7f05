"""Long work in shards: each result is a file, so that a killed run goes on where it stopped.

Under torchrun shard i belongs to rank `i % world`. What a shard gives depends on its indices alone,
so one process and many leave the same bytes, as long as each uses as many threads: how a matrix
product is cut into threads decides its last bits.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, distributed
from torch.distributed import DistNetworkError, Store, rendezvous  # type: ignore[attr-defined]

from circuitprune.engine.progress import Progress, silent
from circuitprune.errors import RunError
from circuitprune.files.tensors import noted, taken
from circuitprune.files.whole import read_tensors, write_tensors
from circuitprune.runs import launched
from circuitprune.runs.stopping import Stopped, ask, number_asked

Job = Mapping[str, str | int | float | bool]
"""What decides a shard's numbers: shards of another job are refused, naming what differs."""

PATIENCE = timedelta(days=30)
"""How long a rank waits for the others; it stops as soon as one of them fails."""
LOOKS = 0.02, 0.5
"""Seconds between two looks whether the others have come, the first and the longest."""
_NUMBERS = count()


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1
    store: Store | None = None
    """Where the processes meet; None if there is only one."""
    waits: Iterator[int] = field(default_factory=count)
    """Numbers of the meetings."""
    name: str = "circuitprune"
    """What the keys of these meetings begin with in the store."""

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes the results."""
        return self.rank == 0

    def first(self, piece: str) -> bool:
        """Whether no process has asked for this piece of work before: whoever is free takes one.

        Raises:
            RunError: another process failed, `together`.
            Stopped: a signal stopped another.
        """
        self._refuse_ended()
        return self.store is None or self.store.add(f"{self.name}/taken/{piece}", 1) == 1

    def wait(self) -> None:
        """Return when every process has come here.

        It looks again and again, since a signal is not heard inside of torch's own waiting.

        Raises:
            RunError: another process failed, `together`.
            Stopped: a signal stopped another.
        """
        if self.store is None:
            return
        meeting = f"{self.name}/{next(self.waits)}"
        if self.store.add(f"{meeting}/came", 1) == self.world:
            self.store.set(f"{meeting}/all", "1")
        self._until(lambda store: store.check([f"{meeting}/all"]))
        seen = self.store.add(f"{meeting}/seen", 1)
        if self.leads:  # it may keep the store: it stays until nobody asks for this any more
            self._until(lambda store: max(seen, store.add(f"{meeting}/seen", 0)) == self.world)

    def _until(self, holds: Callable[[Store], bool]) -> None:
        assert self.store is not None
        pause, longest = LOOKS
        while not holds(self.store):
            self._refuse_ended()
            time.sleep(pause)
            pause = min(2 * pause, longest)

    @contextmanager
    def together(self) -> Iterator[None]:
        """While it lasts, what ends one process ends those that wait for it, saying why.

        Raises:
            RunError: in place of what torch says of a process that is gone.
            Stopped: as that process.
        """
        try:
            yield
        except BaseException as error:
            if self.store is not None:
                if isinstance(error, RuntimeError):
                    self._refuse_ended()
                number = error.number if isinstance(error, Stopped) else 0
                told = f"{number} process {self.rank}: {str(error) or type(error).__name__:.500}"
                with suppress(DistNetworkError):  # the process that keeps the store ended first
                    if self.store.add(f"{self.name}/ends", 1) == 1:
                        self.store.set(f"{self.name}/ended", told)
            raise

    def _refuse_ended(self) -> None:
        if self.store is None:
            return
        try:
            if not self.store.check([f"{self.name}/ended"]):
                return
            number, _, told = self.store.get(f"{self.name}/ended").decode().partition(" ")
        except RuntimeError as error:  # of the store: the process that keeps it is gone
            raise RunError("stopped with another process, which is gone") from error
        if int(number):
            raise Stopped(int(number))
        raise RunError(f"stopped with another process, {told}")


def processes() -> Ranks:
    """The processes that torchrun started, or this one alone.

    They meet in torchrun's store, so that nothing here depends on the kind of device.

    Raises:
        RunError: `WORLD_SIZE` is set, but there is no store.
    """
    world, name = launched.world(), f"circuitprune/{next(_NUMBERS)}"
    if world == 1:
        return Ranks()
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
    except (ValueError, RuntimeError) as error:
        raise RunError(
            f"WORLD_SIZE={world}, but the processes cannot meet: {error}; start them with torchrun"
        ) from error
    return Ranks(rank, world, store, name=name)


def asked_of_any() -> bool:
    """Whether a signal has asked one of the processes to stop: the same answer in all of them.

    All that train together call it at the same places.
    """
    if distributed.is_available() and distributed.is_initialized():
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        number = torch.tensor(number_asked(), device=device)
        distributed.all_reduce(number, distributed.ReduceOp.MAX)
        if int(number):
            ask(int(number))
    return number_asked() > 0


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many CPU threads for torch, whatever OMP_NUM_THREADS says, then as before; None: as is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_shards(
    plan: list[Int[Tensor, " _"]],
    score: Callable[[Int[Tensor, " n"]], Shaped[Tensor, "n ..."]],
    folder: Path | None = None,
    job: Job | None = None,
    ranks: Ranks | None = None,
    progress: Progress = silent,
) -> Shaped[Tensor, "total ..."] | None:
    """The results of all shards, in the plan's order; those already in `folder` are not repeated.

    Args:
        plan: Indices of each shard; the same on every rank.
        score: A row of results for each index; must not depend on other shards.
        folder: Where shard i is kept as `00012.safetensors`, its indices with it; None keeps
            nothing, and computes all of it here.
        job: What decides the numbers, kept in every file.
        ranks: Who computes what; each waits for all the others.
        progress: Told the indices that are done, everybody's.

    Returns:
        `torch.cat` of the results; None on ranks that do not lead.

    Raises:
        RunError: a file of another job or of another plan. A damaged file is computed again.
    """
    ranks, job = ranks or Ranks(), job or {}
    if folder is None:
        return torch.cat([score(indices).cpu() for indices in plan])
    missing = [i for i, indices in enumerate(plan) if _load(folder, i, indices, job) is None]
    total = sum(map(len, plan))
    progress(total - sum(len(plan[i]) for i in missing), total)
    for i in missing:
        if i % ranks.world == ranks.rank:
            tensors = {"indices": plan[i], "values": score(plan[i])}
            write_tensors(_path(folder, i), tensors, {"job": json.dumps(job, sort_keys=True)})
            progress(_done(folder, plan), total)
    ranks.wait()
    progress(total, total)
    if not ranks.leads:
        return None
    found = [_load(folder, i, indices, job) for i, indices in enumerate(plan)]
    lost = [str(_path(folder, i)) for i, values in enumerate(found) if values is None]
    if lost:
        raise RunError(f"{', '.join(lost[:3])} went missing; run the same command again")
    return torch.cat([values for values in found if values is not None])


def _path(folder: Path, i: int) -> Path:
    return folder / f"{i:05d}.safetensors"


def _load(
    folder: Path, i: int, indices: Int[Tensor, " n"], job: Job
) -> Shaped[Tensor, "n ..."] | None:
    """The values of a shard; None if there are none that can be trusted."""
    path = _path(folder, i)
    if not path.exists():
        return None
    try:
        tensors, notes = read_tensors(path)
        theirs = noted(path, notes, "job")
        rows, values = taken(path, tensors, "indices", (None,), "integer"), tensors["values"]
    except (RunError, KeyError):
        return None
    if not isinstance(theirs, dict) or values.shape[:1] != rows.shape:
        return None
    different = differences(theirs, dict(job))
    if different or not torch.equal(rows, indices):
        raise RunError(
            f"{path} is of another job ({different or 'other indices'}); choose another output_dir "
            "or remove the folder"
        )
    return values


def differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """`key: 1 there, 2 now` for everything that differs between two flat mappings."""
    keys = [*wanted, *(key for key in found if key not in wanted)]
    pairs = [(key, found.get(key), wanted.get(key)) for key in keys]
    return ", ".join(
        f"{key:.60}: {a!r:.200} there, {b!r:.200} now" for key, a, b in pairs if a != b
    )


def _done(folder: Path, plan: list[Tensor]) -> int:
    """Indices whose shard is there, whoever wrote it."""
    return sum(len(indices) for i, indices in enumerate(plan) if _path(folder, i).exists())
