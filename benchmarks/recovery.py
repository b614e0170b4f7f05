"""Every discovery method on the hand-built induction model: `python benchmarks/recovery.py`.

Prints the table of docs/evidence.md: area under the ROC curve against the true circuit, and how
many edges of the circuit cut at the true size are true. Learned masks are runs of the whole
pipeline with its default settings. About a minute for each sharpness, on one core.
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
from circuitprune.models.zoo.induction import (
    LENGTH,
    Induction,
    induction_graph,
    induction_model,
    induction_tokenizer,
    save_induction,
    true_circuit,
)
from circuitprune.patching.acdc import acdc
from circuitprune.pipelines.train import discover
from circuitprune.runs.settings import load_config

THRESHOLDS = (0.01, 0.03, 0.1, 0.3, 1.0)
LEARNED = (
    ("topk", "none"),
    ("topk", "gate_ig"),
    ("topk", "eap"),
    ("hard_concrete", "none"),
    ("hard_concrete", "gate_ig"),
    ("hard_concrete", "eap"),
)


def scored(ablation: str, leak: float, sharpness: float) -> Iterator[tuple[str, Tensor]]:
    """Scores of every attribution method and of ACDC, higher is more important."""
    gated = GatedModel(induction_model(leak, sharpness, dtype=torch.float64))
    sizes = dict(n_train=64, n_val=0, n_test=0, seed=0, batch_size=32, max_length=LENGTH)
    batches = prepare(Induction(), induction_tokenizer(), **sizes).batches("train")  # type: ignore[arg-type]
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


def learned(
    ablation: str, leak: float, sharpness: float, others: list[str]
) -> Iterator[tuple[str, Tensor]]:
    """Rankings of learned masks, from runs of the whole pipeline with `others` beside defaults."""
    with tempfile.TemporaryDirectory() as home:
        model = save_induction(Path(home) / "model", 1000, leak, sharpness)
        for learner, init in LEARNED:
            out = Path(home) / f"{learner}-{init}"
            options = [f"model.name={model}", "task.name=jsonl", f"task.path={model}/pairs.jsonl"]
            options += [
                f"ablation={ablation}",
                f"gates.learner={learner}",
                f"attribution.method={init}",
            ]
            options += ["task.n_val=0", "train.progress=false", f"output_dir={out}", *others]
            discover(load_config(None, options), say=lambda _: None)
            tensors, _ = read_tensors(out / "gates.safetensors")
            yield f"learned: {learner}, from {init}", tensors["ranking"]


def main() -> None:
    """Print one row per method, one column per sharpness."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ablation", default="patch")
    parser.add_argument("--leak", type=float, default=0.2)
    parser.add_argument("--sharpness", type=float, nargs="+", default=[5.0, 10.0, 20.0, 40.0])
    parser.add_argument("settings", nargs="*", help="key=value of the learned runs' config")
    options = parser.parse_args()
    torch.set_num_threads(1)
    truth, rows = true_circuit(options.ablation), dict[str, list[str]]()
    for sharpness in options.sharpness:
        setting = (options.ablation, options.leak, sharpness)
        for name, scores in [*scored(*setting), *learned(*setting, options.settings)]:
            cut = select(induction_graph(), scores, int(truth.sum()))
            right = f"{int((cut & truth).sum())} of {int(truth.sum())}"
            rows.setdefault(name, []).append(f"{auroc(scores, truth):.3f}, {right}")
    titles = " | ".join(f"sharpness {s:g}" for s in options.sharpness)
    print(f"| method | {titles} |\n|---|{'---|' * len(options.sharpness)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
