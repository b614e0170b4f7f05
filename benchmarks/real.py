"""Cost of each kind of work on a real model and real pairs, in plain forwards of the same batch.

    python benchmarks/real.py FOLDER [--task ioi] [--batch 16] [--row step eap ...] [--cpu]

As `benchmarks/run.py`, whose rows and rules it shares, but the model is in a folder, the pairs are
a task's and padded as they are, and what clean and corrupt prompts begin with alike is run once:
the share of the prompts' tokens that is, is printed in front. `dry-run` is CPU seconds of the whole
command `circuitprune train TASK --dry-run`.
"""

import argparse
import json
import resource
import subprocess
import sys

import torch
from run import TARGETS, timed

from circuitprune.data.pairs import Batch, prepare
from circuitprune.data.tasks import get_task
from circuitprune.engine.gated import GatedModel
from circuitprune.models.loading import load_model

ROWS = [row for row in TARGETS if row not in ("graph", "eap_ig_activations")]


def loaded(folder: str, task: str, n: int) -> tuple[GatedModel, Batch]:
    """The model under gates, and the first batch of the task's training pairs."""
    model, tokenizer = load_model(folder)
    data = prepare(get_task(task), tokenizer, n_train=n, n_val=0, n_test=0, seed=0)
    return GatedModel(model), data.batches("train", n)[0]


def measure(
    row: str, folder: str, task: str, n: int, repeats: int, cpu: bool
) -> dict[str, float | str]:
    """`timed` on a real batch, with the share of its tokens that is run once."""
    torch.set_num_threads(1 if cpu else 2)
    torch.manual_seed(0)
    gated, batch = loaded(folder, task, n)
    once = int(batch.shared().sum()) / int(batch.mask.sum())
    return {"once": once, **timed(row, gated, batch, repeats, cpu)}


def dry_run_seconds(folder: str, task: str) -> float:
    """CPU seconds of the command, its imports and the loading of the model included."""
    command = [sys.executable, "-m", "circuitprune", "train", task, "--dry-run"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, f"model.name={folder}"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a table of all rows, each measured in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row", nargs="*", choices=[*ROWS, "dry-run"], default=[*ROWS, "dry-run"])
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of one thread")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shared = (options.folder, options.task, options.batch, options.repeats, options.cpu)
    if options.in_process:
        print(json.dumps(measure(options.row[0], *shared)))
        return
    print("| work | ratio | best | peak RSS | plain forward | tokens run once |")
    print("|---|---|---|---|---|---|")
    for row in options.row:
        if row == "dry-run":
            seconds = dry_run_seconds(options.folder, options.task)
            print(f"| dry-run | {seconds:.0f} s of CPU | | | | |", flush=True)
            continue
        command = [sys.executable, __file__, options.folder, "--in-process", "--row", row]
        command += ["--task", options.task, "--batch", str(options.batch)]
        command += ["--repeats", str(options.repeats), *(["--cpu"] if options.cpu else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(_line(json.loads(done.stdout.splitlines()[-1])), flush=True)


def _line(found: dict[str, float | str]) -> str:
    return (
        f"| {found['row']} | {found['ratio']:.2f} | {found['best_ratio']:.2f} "
        f"| {found['peak_gb']:.2f} GB | {found['plain_s']:.2f} s | {found['once']:.0%} |"
    )


if __name__ == "__main__":
    main()
