"""Every discovery method on the hand-built models: `python benchmarks/recovery.py`.

Prints the tables of docs/evidence.md, one for each model: area under the ROC curve against the true
circuit, and how many edges of the circuit cut at the true size are true. Learned masks are runs of
the whole pipeline with its default settings. One to two minutes for each sharpness, on one core.

`--seeds 10` prints instead in how many of ten runs the default configuration cuts exactly the true
circuit; a seed decides the model, its pairs, their split and the training.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from circuitprune.attribution import METHODS
from circuitprune.circuits.recovery import auroc
from circuitprune.circuits.selection import select
from circuitprune.data.batches import Batch
from circuitprune.data.pairs import prepare
from circuitprune.engine.ablation import make_ablation
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.errors import ConfigError
from circuitprune.files.whole import read_tensors
from circuitprune.metrics import logit_diff
from circuitprune.models.zoo.duplicate import DUPLICATE
from circuitprune.models.zoo.handmade import HandBuilt
from circuitprune.models.zoo.induction import INDUCTION
from circuitprune.models.zoo.two_hop import TWO_HOP
from circuitprune.patching.acdc import acdc
from circuitprune.pipelines.train import discover
from circuitprune.runs.settings import load_config

MODELS = {built.task.name: built for built in (INDUCTION, TWO_HOP, DUPLICATE)}
THRESHOLDS = (0.01, 0.03, 0.1, 0.3, 1.0)
LEARNED = (
    ("topk", "none"),
    ("topk", "gate_ig"),
    ("topk", "eap"),
    ("hard_concrete", "none"),
    ("hard_concrete", "gate_ig"),
    ("hard_concrete", "eap"),
)


def scored(
    built: HandBuilt, ablation: str, leak: float, sharpness: float
) -> Iterator[tuple[str, Tensor]]:
    """Scores of every attribution method and of ACDC, higher is more important."""
    gated = GatedModel(built.model(leak, sharpness, dtype=torch.float64))
    sizes = dict(n_train=64, n_val=0, n_test=0, seed=0, batch_size=32, max_length=built.length)
    batches = prepare(built.task, built.tokenizer(), **sizes).batches("train")  # type: ignore[arg-type]
    references = References(gated, make_ablation(ablation, gated.ports, batches))

    def metric(logits: Tensor, batch: Batch) -> Tensor:
        return logit_diff(logits, batch)

    for name, method in METHODS.items():
        if method.function is None:
            continue  # ACDC: below
        try:
            yield name, method.score(references, batches, metric, 5).abs()
        except ConfigError:
            continue  # not defined under this ablation
    masks = [acdc(references, batches, limit).mask for limit in THRESHOLDS]
    limits = torch.tensor(THRESHOLDS).unsqueeze(1)
    yield "acdc", (torch.stack(masks) * limits).amax(dim=0)


def learned_ranking(model: Path, out: Path, settings: list[str]) -> Tensor:
    """The ranking of a run of the whole pipeline with these settings beside defaults."""
    options = [f"model.name={model}", "task.name=jsonl", f"task.path={model}/pairs.jsonl"]
    options += ["task.n_val=0", "train.progress=false", f"output_dir={out}", *settings]
    discover(load_config(None, options), say=lambda _: None)
    return read_tensors(out / "gates.safetensors")[0]["ranking"]


def learned(
    built: HandBuilt, ablation: str, leak: float, sharpness: float, others: list[str]
) -> Iterator[tuple[str, Tensor]]:
    """Rankings of learned masks, from each learner and start."""
    with tempfile.TemporaryDirectory() as home:
        model = built.save(Path(home) / "model", 1000, leak, sharpness)
        for learner, init in LEARNED:
            settings = [
                f"ablation={ablation}",
                f"gates.learner={learner}",
                f"attribution.method={init}",
            ]
            ranking = learned_ranking(model, Path(home) / f"{learner}-{init}", settings + others)
            yield f"learned: {learner}, from {init}", ranking


def is_exact(
    built: HandBuilt, ablation: str, leak: float, sharpness: float, seed: int, others: list[str]
) -> bool:
    """Whether the default configuration cuts exactly the true circuit, at its size."""
    with tempfile.TemporaryDirectory() as home:
        model = built.save(Path(home) / "model", 1000, leak, sharpness, seed)
        settings = [f"ablation={ablation}", f"train.seed={seed}", f"task.seed={seed}", *others]
        ranking = learned_ranking(model, Path(home) / "run", settings)
    truth = built.true_circuit(ablation)
    return torch.equal(select(built.graph, ranking, int(truth.sum())), truth)


def print_methods(built: HandBuilt, options: argparse.Namespace) -> None:
    """One row per method, one column per sharpness."""
    truth, rows = built.true_circuit(options.ablation), dict[str, list[str]]()
    for sharpness in options.sharpness:
        setting = (built, options.ablation, options.leak, sharpness)
        for name, scores in [*scored(*setting), *learned(*setting, options.settings)]:
            cut = select(built.graph, scores, int(truth.sum()))
            right = f"{int((cut & truth).sum())} of {int(truth.sum())}"
            rows.setdefault(name, []).append(f"{auroc(scores, truth):.3f}, {right}")
    titles = " | ".join(f"sharpness {s:g}" for s in options.sharpness)
    print(f"\n{built.task.name}\n\n| method | {titles} |\n|---|{'---|' * len(options.sharpness)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_seeds(built: HandBuilt, options: argparse.Namespace) -> None:
    """One row: exact recoveries of the default configuration, at each sharpness."""
    cells = []
    for sharpness in options.sharpness:
        setting = (built, options.ablation, options.leak, sharpness)
        exact = [is_exact(*setting, seed, options.settings) for seed in range(options.seeds)]
        missed = "".join(f", not seed {s}" for s, found in enumerate(exact) if not found)
        cells.append(f"{sum(exact)} of {len(exact)}{missed}")
    print(f"| {built.task.name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--ablation", default="patch")
    parser.add_argument("--leak", type=float, default=0.2)
    parser.add_argument("--sharpness", type=float, nargs="+", default=[5.0, 10.0, 20.0, 40.0])
    parser.add_argument("--seeds", type=int, help="count exact recoveries over so many seeds")
    parser.add_argument("settings", nargs="*", help="key=value of the learned runs' config")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        (print_seeds if options.seeds else print_methods)(MODELS[name], options)


if __name__ == "__main__":
    main()
