"""Cost of each kind of work as a ratio to one plain forward of the same model in the same process.

    python benchmarks/run.py [--batch 16 32] [--layers 4 12 24] [--row step ...] [--cpu]

The shape is GPT-2 small with random weights (nothing is downloaded): 12 layers, 12 heads, d_model
768, vocabulary 50,257, 20 tokens a prompt, float32, two threads, metric at the last position.
Machines are shared and noisy, so plain forwards and the work alternate and the ratio is of their
medians; `best` is that of their minima. With `--cpu` seconds are the process's own, on one thread,
for a machine on which others work: their turns do not count, the caches that they empty do. Each
row runs in a process of its own; peak memory is that process's peak RSS.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from circuitprune.attribution import METHODS
from circuitprune.circuits.graph import Graph
from circuitprune.data.pairs import Batch
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.metrics import kl_divergence, logit_diff
from circuitprune.patching.effects import edge_effects
from circuitprune.training.gates import TopK

TARGETS = {
    "step": (2.8, 2.0),
    "eap": (2.8, 1.6),
    "eap_ig_inputs": (11.0, None),
    "eap_ig_activations": (160.0, None),
    "gate_ig": (18.0, None),
    "exact": (0.25, None),
    "circuit": (1.2, None),
    "graph": (0.05, None),
}
"""Row -> (ratio, peak RSS in GB) to reach at batch 16; None where there is no target."""
PEAK_AT_32 = {"step": 2.9}
STEPS = {"eap": 1, "eap_ig_inputs": 5, "eap_ig_activations": 5, "gate_ig": 6}
LONG = ("eap_ig_activations", "exact")
"""Rows that are run once, between two plain forwards: they last a minute."""
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
        return logit_diff(logits, of)

    if row == "graph":
        return lambda: Graph(12, 12, 12).edges
    if row in METHODS:  # attribution sees each pair once: nothing of it is cached
        fresh = References(gated, references.ablation, max_gb=0)
        return lambda: METHODS[row].score(fresh, [batch], metric, STEPS[row])
    if row == "circuit":
        mask = (torch.rand(n_edges) < 0.05).float()

        @torch.no_grad()
        def evaluate() -> Tensor:
            return kl_divergence(references.full_logits(batch), references.run(batch)(mask))

        return evaluate
    learner = TopK(torch.randn(n_edges))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.05)
    steps_done = iter(range(10**9))

    def step() -> None:
        logits = references.run(batch)(learner.sample(0, next(steps_done)))
        optimizer.zero_grad()
        kl_divergence(references.full_logits(batch), logits).mean().backward()
        optimizer.step()

    return step


Clock = Callable[[Callable[[], object]], float]
"""Seconds that something takes."""


def seconds_per_exact_edge(references: References, batch: Batch, clock: Clock) -> float:
    """Mean over all edges, from a stratified sample of at least 300.

    Edges of one writer into one attention layer share work, so the sample is of such groups: a
    random writer for each layer, with all its edges into the layer's heads; sixteen random edges
    into MLPs; all edges into the logits. Each stratum's time per edge counts as often as it has
    edges. The recorded run is in every measurement, and is taken off: a run over all edges records
    a batch once in a thousand edges.
    """
    graph, generator = references.gated.graph, torch.Generator().manual_seed(0)

    def seconds(edges: Tensor) -> float:
        def metric(logits: Tensor, of: Batch) -> Tensor:
            return logit_diff(logits, of)

        return clock(lambda: edge_effects(references, [batch], metric, edges))

    every = torch.arange(graph.n_edges)
    logits = every[graph.logits_block.edges]
    record = seconds(logits[:1])
    total = seconds(logits) - record
    for layer in range(graph.n_layers):
        block = graph.attention_block(layer)
        writer = int(torch.randint(block.n_writers, (1,), generator=generator))
        group = graph.block_view(every, block)[:, writer]
        total += (seconds(group) - record) * block.n_writers
    mlps = torch.cat([every[graph.mlp_block(layer).edges] for layer in range(graph.n_layers)])
    sample = mlps[torch.randperm(len(mlps), generator=generator)[:16]]
    total += (seconds(sample) - record) * len(mlps) / len(sample)
    return total / graph.n_edges + record / 1000


def measure(
    row: str, n_batch: int, repeats: int, n_layers: int, cpu: bool
) -> dict[str, float | str]:
    """`timed` on random prompts and the GPT-2-small shape with so many layers."""
    torch.set_num_threads(1 if cpu else 2)
    torch.manual_seed(0)
    gated = GatedModel(GPT2LMHeadModel(GPT2Config(n_layer=n_layers)).eval())
    batch = random_batch(n_batch, gated.model.config.vocab_size)
    return {"batch": n_batch, "layers": n_layers, **timed(row, gated, batch, repeats, cpu)}


def timed(
    row: str, gated: GatedModel, batch: Batch, repeats: int, cpu: bool
) -> dict[str, float | str]:
    """Median seconds of the work and of plain forwards between them, their ratio, and peak RSS."""
    clock = _cpu_seconds if cpu else _seconds
    references = References(gated, "patch", max_gb=4)
    mask = None if bool(batch.mask.all()) else batch.mask.long()

    @torch.no_grad()
    def plain() -> None:
        gated.model(batch.clean, attention_mask=mask, use_cache=False)

    plain()
    plain_times, times = [clock(plain) for _ in range(3)], []
    if row == "exact":
        times.append(seconds_per_exact_edge(references, batch, clock))
    else:
        todo = work(row, references, batch)
        for _ in range(1 if row in LONG else repeats + 1):
            times.append(clock(todo))
            plain_times.append(clock(plain))
        times = times[1:] or times  # the first one warms up
    plain_times += [clock(plain) for _ in range(3)]
    ratio = statistics.median(times) / statistics.median(plain_times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "row": row,
        "plain_s": statistics.median(plain_times),
        "ratio": ratio,
        "best_ratio": min(times) / min(plain_times),
        "peak_gb": peak,
    }


def _seconds(todo: Callable[[], object]) -> float:
    start = time.perf_counter()
    todo()
    return time.perf_counter() - start


def _cpu_seconds(todo: Callable[[], object]) -> float:
    start = time.process_time()
    todo()
    return time.process_time() - start


def main() -> None:
    """Print a table of all rows, each measured in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="*", default=[16])
    parser.add_argument("--layers", type=int, nargs="*", default=[12])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--row", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of one thread")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        row, n_batch = options.row[0], options.batch[0]
        found = measure(row, n_batch, options.repeats, options.layers[0], options.cpu)
        print(json.dumps(found))
        return
    print("| work | batch | layers | ratio | best | peak RSS | plain forward | target |")
    print("|---|---|---|---|---|---|---|---|")
    for n_layers, n_batch, row in product(options.layers, options.batch, options.row):
        command = [sys.executable, __file__, "--in-process", "--row", row]
        command += ["--batch", str(n_batch), "--repeats", str(options.repeats)]
        command += ["--layers", str(n_layers), *(["--cpu"] if options.cpu else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(_line(json.loads(done.stdout.splitlines()[-1])), flush=True)


def _line(found: dict[str, Any]) -> str:
    ratio, memory = TARGETS[found["row"]]
    if found["batch"] == 32:
        memory = PEAK_AT_32.get(found["row"])
    target = f"<= {ratio:g}" + (f", < {memory:g} GB" if memory else "")
    return (
        f"| {found['row']} | {found['batch']} | {found['layers']} | {found['ratio']:.2f} "
        f"| {found['best_ratio']:.2f} | {found['peak_gb']:.2f} GB | {found['plain_s']:.2f} s "
        f"| {target} |"
    )


if __name__ == "__main__":
    main()
