"""Processes that hold one model together: each does all of the work, the first alone shows it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import distributed

from circuitprune.config import RunConfig
from circuitprune.errors import ConfigError
from circuitprune.pipelines.setup import Print, device_of, silent
from circuitprune.runs import launched
from circuitprune.runs.lock import NAME
from circuitprune.runs.shards import PATIENCE, processes


@contextmanager
def in_step(config: RunConfig, say: Print) -> Iterator[tuple[RunConfig, Print]]:
    """A run's config and what prints, for one of the processes that divide its model.

    Every pass through a divided model waits for all processes, so all must make the same passes in
    the same order: each does the whole run. The first does it in the run's folder, each of the
    others silently in a copy of that folder which nobody sees. Without `model.shard` nothing
    changes.

    Raises:
        ConfigError: no torchrun, so nobody to divide a model with.
    """
    if not config.model.shard:
        yield config, say
        return
    if launched.started() == 1:
        raise ConfigError(
            "model.shard=true divides the model among processes, but this is the only one: start "
            "it with torchrun, or give model.shard=false"
        )
    ranks, device = processes(), device_of(config.train.device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with ranks.together(), TemporaryDirectory() as aside, launched.stepping():
        if not ranks.leads:
            say, config = silent, _aside(config, Path(aside) / "run")
        distributed.init_process_group(backend, timeout=PATIENCE)
        try:
            ranks.wait()  # all have a copy of the folder as it was
            yield config, say
            ranks.wait()
        finally:
            distributed.destroy_process_group()


def _aside(config: RunConfig, folder: Path) -> RunConfig:
    """The same run, silent, in another folder, which holds what the run's own does."""
    own = Path(config.output_dir)
    if own.is_dir():
        shutil.copytree(own, folder, ignore=shutil.ignore_patterns(NAME))
    train = replace(config.train, progress=False)
    return replace(config, output_dir=str(folder), train=train)
