"""The objects of a run, made and checked from its config before anything is trained or written."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuitprune.ablation import Ablation, make_ablation
from circuitprune.config import RunConfig
from circuitprune.data import SPLITS, PairData, prepare
from circuitprune.engine import GatedModel
from circuitprune.errors import ConfigError, DataError
from circuitprune.evidence.examples import few_pairs
from circuitprune.metrics import TASK_METRICS, TaskMetric
from circuitprune.models import load_model
from circuitprune.predictions import predictions
from circuitprune.references import References
from circuitprune.selfcheck import self_check
from circuitprune.splits import resampled
from circuitprune.tasks import get_task
from circuitprune.verification import Evidence, evaluate_full


@dataclass(frozen=True)
class Setup:
    """The objects of a run, before anything is trained or written."""

    config: RunConfig
    gated: GatedModel
    tokenizer: PreTrainedTokenizerBase
    data: PairData
    references: References
    task_metric: TaskMetric
    metric_name: str
    full: Evidence
    """The full model on the training pairs."""

    @property
    def held_out(self) -> str:
        """The split to verify on: test, else validation, else training pairs."""
        return next(name for name in ("test", "val", "train") if self.data.splits[name])

    def example_pairs(self, circuit: Bool[Tensor, " edge"], n: int = 12) -> dict:
        """`pairs.json`: the first `n` held-out pairs as tokens, and what follows by `predictions`.

        Args:
            circuit: Whose predictions stand beside the model's.
            n: Pairs at most.
        """
        split, tokens = self.held_out, self.tokenizer.convert_ids_to_tokens
        examples, size = self.data.splits[split], self.config.verify.batch_size
        batches = few_pairs(self.data.batches(split, size), n)
        follows = predictions(self.references, circuit, batches, self._spell)
        names = ("clean", "corrupt", "answers", "wrong")
        pairs = [
            {**{k: tokens(list(getattr(example, k))) for k in names}, "next": found}
            for example, found in zip(examples, follows, strict=False)
        ]
        about = {"split": split, "n": len(examples), "n_edges": int(circuit.sum())}
        return {**about, "pairs": pairs}

    def _spell(self, token: int) -> str:
        """A token as the tokenizer names it, or its id where a model has more than it knows."""
        return self.tokenizer.convert_ids_to_tokens([token])[0] or str(token)


def make_setup(config: RunConfig) -> Setup:
    """Load, check and split everything that a run needs; nothing is written.

    Raises:
        ModelError, DataError: the model or the pairs cannot be used, or the model cannot do the
            task.
    """
    device = _device(config.train.device)
    model, tokenizer = load_model(config.model.name, config.model.dtype, config.model.revision)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps it in an untyped decorator
    gated = GatedModel(model, config.model.kv_readers)
    self_check(gated)
    data = make_pairs(config, model, tokenizer)
    batches = data.batches("train", config.verify.batch_size)
    on_device = [batch.to(device) for batch in batches]
    ablation = make_ablation(config.ablation, gated.ports, on_device)
    references = _references(gated, ablation, data, config)
    metric_name = _metric_name(config.task.metric, data)
    task_metric = TASK_METRICS[metric_name]
    full = evaluate_full(references, batches, task_metric)
    if full["accuracy"] < config.task.min_accuracy:
        raise DataError(
            f"the model cannot do this task: it is right on {full['accuracy']:.1%} of "
            f"{int(full['n'])} training pairs, below task.min_accuracy="
            f"{config.task.min_accuracy:.1%}, and a circuit of a failing model explains nothing. "
            "Use another model or task, or lower task.min_accuracy."
        )
    return Setup(config, gated, tokenizer, data, references, task_metric, metric_name, full)


def make_pairs(
    config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PairData:
    """The pairs of a run, split; the training pairs resampled if the config says so.

    Raises:
        DataError: too few pairs that this tokenizer and model can use.
    """
    task = config.task
    data = prepare(
        get_task(task.name, task.path),
        tokenizer,
        n_train=task.n_train,
        n_val=task.n_val,
        n_test=task.n_test,
        seed=task.seed,
        corruption=task.corruption,
        split_by=task.split_by,
        batch_size=config.train.batch_size,
        bos=task.bos,
        max_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )
    if task.resample is not None:
        data.splits["train"] = resampled(data.splits["train"], task.resample)
    data.seed = config.train.seed
    return data


def _references(
    gated: GatedModel, ablation: Ablation, data: PairData, config: RunConfig
) -> References:
    """References with the pairs that training visits in them, held-out prompts checked to fit."""
    train, val, test = (data.batches(name, config.verify.batch_size) for name in SPLITS)
    if ablation.kind != "patch":
        for batch in (*val, *test):
            ablation(batch)  # a view: costs nothing, and refuses prompts that are too long
    references = References(gated, ablation, config.cache.max_gb)
    references.fill([*train, *val])
    return references


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device=cuda, but this torch finds no CUDA device; use cpu or auto")
    return torch.device(name)


def _metric_name(name: str, data: PairData) -> str:
    """`auto` is the probability difference for answer sets, the logit difference for one answer."""
    if name != "auto":
        return name
    examples = data.splits["train"]
    if any(not example.wrong for example in examples):
        return "answer_prob"
    sets = any(len(example.answers) > 1 or len(example.wrong) > 1 for example in examples)
    return "prob_diff" if sets else "logit_diff"


def describe(setup: Setup) -> str:
    """The first screen of a run."""
    config, graph = setup.config, setup.gated.graph
    by_kv_head = replace(graph, n_kv_readers=setup.gated.ports.n_kv_heads)
    family = setup.gated.model.config.get_text_config().model_type
    used = "KV head" if config.model.kv_readers == "kv_head" else "query head"
    lines = [
        f"model     {config.model.name} (family {family}, {config.model.dtype}, "
        f"{setup.gated.model.config._attn_implementation} attention, {setup.gated.device})",
        f"graph     {graph.n_layers} layers, {graph.n_heads} heads, {by_kv_head.n_edges:,} edges "
        f"by KV head, {graph.n_edges_ungrouped:,} by query head; readers here by {used}",
        f"task      {config.task.name}, ablation {config.ablation}, metric {setup.metric_name}",
        *(f"pairs     {line.strip()}" for line in setup.data.report.summary().splitlines()),
        f"full      accuracy {setup.full['accuracy']:.1%}, {setup.metric_name} "
        f"{setup.full['metric']:.3f} on {int(setup.full['n'])} training pairs",
    ]
    return "\n".join(lines)


def pairs_text(setup: Setup, n: int) -> str:
    """Decoded training pairs, tokens apart, so that misalignment is seen."""
    tokenizer, lines = setup.tokenizer, []
    for example in setup.data.splits["train"][:n]:
        for name in ("clean", "corrupt", "answers", "wrong"):
            tokens = getattr(example, name)
            shown = tokenizer.convert_ids_to_tokens(list(tokens[:40]))
            lines.append(f"    {name:8} {' '.join(map(repr, shown))}{' ...' * (len(tokens) > 40)}")
        lines.append("")
    return "\n".join(lines).rstrip()


def memory_text(setup: Setup) -> str:
    """An upper estimate of what one training step holds, and what ACDC does while it searches."""
    graph, config = setup.gated.graph, setup.config
    size = torch.finfo(setup.gated.dtype).bits // 8
    longest = max(len(example.clean) for example in setup.data.splits["train"])
    vector = longest * graph.d_model * size
    weights = sum(p.numel() for p in setup.gated.model.parameters()) * size
    n_pairs = sum(map(len, setup.data.splits.values()))
    cached = min(config.cache.max_gb * 1e9, graph.n_writers * vector * n_pairs)
    step = (
        config.train.batch_size
        * vector
        * (3 * graph.n_writers + graph.n_readers + 3 * graph.readers_per_layer)
    )
    search = _searched(setup, vector) if config.init.method == "acdc" else 0
    parts = [f"weights {_bytes(weights)}", f"cached references {_bytes(cached)}"]
    parts += [f"a training step {_bytes(step)}"]
    parts += [f"ACDC's search up to {_bytes(search)}"] if search else []
    return f"memory    about {_bytes(weights + cached + max(step, search))}: {', '.join(parts)}"


def _searched(setup: Setup, vector: int) -> int:
    """What ACDC holds of all training pairs at once, most while few edges are cut, in bytes.

    See `CandidateRuns`: what writers write when ablated, in the whole model and in the circuit, the
    ablated streams, queries, keys and values of both runs, and the inputs of later readers.

    Args:
        setup: The run.
        vector: Bytes of one writer's output on one pair.
    """
    graph = setup.gated.graph
    writers, streams, heads = 3 * graph.n_writers, 3 * graph.n_layers + 1, 6 * graph.n_layers
    later = graph.n_readers - graph.readers_per_layer
    return len(setup.data.splits["train"]) * vector * (writers + streams + heads + later)


def _bytes(number: int | float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
