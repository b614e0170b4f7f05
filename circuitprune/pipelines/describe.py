"""What a run says of itself before it starts: the first screen, the pairs, the memory, the cost."""

from dataclasses import replace

import torch

from circuitprune.files.text import line
from circuitprune.pipelines.setup import Setup


def cost_text(setup: Setup) -> str:
    """What the run will cost, in plain forwards of its pairs, as measured in benchmarks/."""
    settings, graph, verify = setup.config.attribution, setup.gated.graph, setup.config.verify
    cost = setup.method.cost
    n_circuits = len(verify.thresholds or verify.sizes)
    if settings.method == "acdc":
        n_circuits = len(settings.acdc_thresholds)
    scores = "not known" if cost is None else f"about {cost(graph, settings.steps):,.0f}"
    return (
        f"cost      in plain forwards of the pairs: scores {scores} "
        f"({len(setup.data.splits['train'])} training pairs), verification about "
        f"{1.2 * (n_circuits + 1):,.0f} ({len(setup.data.splits[setup.held_out])} "
        f"{setup.held_out} pairs)"
    )


def describe(setup: Setup) -> str:
    """The first screen of a run."""
    config, graph = setup.config, setup.gated.graph
    by_kv_head = replace(graph, n_kv_readers=setup.gated.ports.n_kv_heads)
    family = setup.gated.model.config.get_text_config().model_type
    used = "KV head" if config.model.kv_readers == "kv_head" else "query head"
    lines = [
        f"model     {line(config.model.name)} (family {family}, {config.model.dtype}, "
        f"{setup.gated.model.config._attn_implementation} attention, {setup.gated.device})",
        f"graph     {graph.n_layers} layers, {graph.n_heads} heads, {by_kv_head.n_edges:,} edges "
        f"by KV head, {graph.n_edges_ungrouped:,} by query head; readers here by {used}",
        f"task      {line(config.task.name)}, ablation {config.ablation}, metric "
        f"{setup.metric_name}",
        *(f"pairs     {one.strip()}" for one in setup.data.report.summary().splitlines()),
        f"full      accuracy {setup.full.accuracy:.1%}, {setup.metric_name} "
        f"{setup.full.metric:.3f} on {setup.full.n} training pairs",
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
    search = _searched(setup, vector) if config.attribution.method == "acdc" else 0
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
