"""A mask-training step in 1 and 2 processes, in plain forwards of the whole batch in one.

    python benchmarks/scale.py [MODEL] [--task ioi] [--batch 16] [--repeats 5] [--ranks 1 2]

Each process has one thread, its share of the batch and all gates; a step is the gated forward, the
way back, the sum of the gates' gradients over processes (gloo) and Adam. The plain forward of all
pairs alternates with the steps in the one process; numbers are medians.
"""

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from time import perf_counter

import torch
from torch import distributed

from circuitprune.data.batches import collate
from circuitprune.data.pairs import prepare
from circuitprune.data.tasks import get_task
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.metrics import kl_divergence
from circuitprune.models.loading import load_model


def measure(name: str, task: str, n: int, repeats: int) -> dict[str, float]:
    """Seconds of a step in this many processes, and of a plain forward of all pairs in one."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    model, tokenizer = load_model(name)
    data = prepare(get_task(task), tokenizer, n_train=n, n_val=0, n_test=0, seed=0)
    gated, examples = GatedModel(model), data.splits["train"]
    references, mine = References(gated, "patch"), range(rank, n, world)
    batch = collate([examples[i] for i in mine], mine, data.pad_id)
    (whole,) = data.batches("train", n)
    gates = torch.full((gated.graph.n_edges,), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([gates])

    def step() -> None:
        optimiser.zero_grad()
        logits = references.run(batch)(gates)
        kl_divergence(references.full_logits(batch), logits).mean().backward()
        distributed.all_reduce(gates.grad)
        optimiser.step()

    def plain() -> None:
        with torch.no_grad():
            model(whole.clean, attention_mask=whole.mask.long())

    work = {"step": step} if world > 1 else {"step": step, "plain": plain}
    taken: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, act in work.items():
            distributed.barrier()
            begun = perf_counter()
            act()
            if repeat:  # the first fills the references
                taken[name].append(perf_counter() - begun)
    return {name: median(seconds) for name, seconds in taken.items()}


def main() -> None:
    """Print a row for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="zoo/small")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    if "RANK" in os.environ:
        found = measure(options.model, options.task, options.batch, options.repeats)
        if os.environ["RANK"] == "0":
            print(json.dumps(found))
        return
    print("| processes | step, plain forwards | step, s |\n|---|---|---|")
    plain = None
    for world in sorted({1, *options.ranks}):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        command = [sys.executable, *torchrun, __file__, *sys.argv[1:]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        plain = found.get("plain", plain)
        print(f"| {world} | {found['step'] / plain:.2f} | {found['step']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
