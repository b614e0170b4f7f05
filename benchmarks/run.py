"""Cost of each kind of work as a ratio to one plain forward of the same model in the same process.

    python benchmarks/run.py [--batch 16] [--repeats 7] [--row step ...]

The shape is GPT-2 small with random weights (nothing is downloaded): 12 layers, 12 heads, d_model
768, vocabulary 50,257, 20 tokens a prompt, float32, two threads, metric at the last position.
Machines are shared and noisy, so plain forwards and the work alternate and the ratio is of their
medians. Each row runs in a process of its own; peak memory is that process's peak RSS.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from circuitprune.ablation import Patch
from circuitprune.attribution import METHODS
from circuitprune.data import Batch
from circuitprune.engine import GatedModel
from circuitprune.gates import TopK
from circuitprune.graph import Graph
from circuitprune.metrics import kl_divergence, logit_diff
from circuitprune.references import References

TARGETS = {
    "step": (3.3, 2.3),
    "eap": (3.5, None),
    "eap_ig_inputs": (11.0, None),
    "gate_ig": (18.0, None),
    "circuit": (1.2, None),
    "graph": (0.05, None),
}
"""Row -> (ratio, peak RSS in GB) to reach; None where there is no target."""
N_POS = 20


def random_batch(n: int, vocabulary: int) -> Batch:
    """Random prompts of one length, answers drawn at random."""
    generator = torch.Generator().manual_seed(0)

    def tokens(*shape: int) -> Tensor:
        return torch.randint(0, vocabulary, shape, generator=generator)

    return Batch(
        index=torch.arange(n),
        clean=tokens(n, N_POS),
        corrupt=tokens(n, N_POS),
        mask=torch.ones(n, N_POS, dtype=torch.bool),
        last=torch.full((n,), N_POS - 1),
        answers=tokens(n, 1),
        wrong=tokens(n, 1),
    )


def work(row: str, references: References, batch: Batch) -> Callable[[], object]:
    """The function that a row times; references are cached where a run would have them."""
    gated = references.gated
    n_edges = gated.graph.n_edges

    def metric(logits: Float[Tensor, "batch vocab"], of: Batch) -> Float[Tensor, " batch"]:
        return logit_diff(logits, of.answers, of.wrong)

    if row == "graph":
        return lambda: Graph(12, 12, 12).edges
    if row in METHODS:  # attribution sees each pair once: nothing of it is cached
        fresh = References(gated, references.ablation, max_gb=0)
        steps = {"eap": 1, "eap_ig_inputs": 5, "gate_ig": 6}[row]
        return lambda: METHODS[row](fresh, [batch], metric, steps)
    if row == "circuit":
        mask = (torch.rand(n_edges) < 0.05).float()

        @torch.no_grad()
        def evaluate() -> Tensor:
            ablated, full = references.ablated(batch), references.full_logits(batch)
            return kl_divergence(full, gated(mask, batch.clean, batch.mask, ablated, batch.last))

        return evaluate
    learner = TopK(torch.randn(n_edges))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.05)
    steps_done = iter(range(10**9))

    def step() -> None:
        gates, full = learner.sample(0, next(steps_done)), references.full_logits(batch)
        ablated = references.ablated(batch)
        logits = gated(gates, batch.clean, batch.mask, ablated, batch.last)
        del ablated  # as at the end of a LightningModule's training_step
        optimizer.zero_grad()
        kl_divergence(full, logits).mean().backward()
        optimizer.step()

    return step


def measure(row: str, n_batch: int, repeats: int, n_layers: int) -> dict[str, float | str]:
    """Median seconds of the work and of plain forwards between them, their ratio, and peak RSS."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=n_layers)).eval()
    gated = GatedModel(model)
    batch = random_batch(n_batch, model.config.vocab_size)
    references = References(gated, Patch(gated.ports), max_gb=4)
    todo = work(row, references, batch)

    @torch.no_grad()
    def plain() -> None:
        model(batch.clean)

    plain()
    todo()
    plain_times, times = [], []
    for _ in range(repeats):
        plain_times.append(_seconds(plain))
        times.append(_seconds(todo))
    plain_times.append(_seconds(plain))
    ratio = statistics.median(times) / statistics.median(plain_times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "row": row,
        "batch": n_batch,
        "layers": n_layers,
        "plain_s": statistics.median(plain_times),
        "ratio": ratio,
        "best_ratio": min(times) / min(plain_times),
        "peak_gb": peak,
    }


def _seconds(todo: Callable[[], object]) -> float:
    start = time.perf_counter()
    todo()
    return time.perf_counter() - start


def main() -> None:
    """Print a table of all rows, each measured in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="*", default=[16])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--row", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        row, n_batch = options.row[0], options.batch[0]
        print(json.dumps(measure(row, n_batch, options.repeats, options.layers)))
        return
    print("| work | batch | ratio (median) | ratio (best) | peak RSS | plain forward | target |")
    print("|---|---|---|---|---|---|---|")
    for n_batch in options.batch:
        for row in options.row:
            command = [sys.executable, __file__, "--in-process", "--row", row]
            command += ["--batch", str(n_batch), "--repeats", str(options.repeats)]
            command += ["--layers", str(options.layers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(_line(json.loads(done.stdout.splitlines()[-1])), flush=True)


def _line(found: dict) -> str:
    ratio, memory = TARGETS[found["row"]]
    target = f"<= {ratio:g}" + (f", < {memory:g} GB" if memory else "")
    return (
        f"| {found['row']} | {found['batch']} | {found['ratio']:.2f} | {found['best_ratio']:.2f} "
        f"| {found['peak_gb']:.2f} GB | {found['plain_s']:.2f} s | {target} |"
    )


if __name__ == "__main__":
    main()
