"""What a run says of itself before it starts: the first screen, the pairs, the memory, the cost."""

from dataclasses import replace

from circuitprune.circuits.span_graph import SpanGraph
from circuitprune.engine.selfcheck import FORWARDS, LENGTH, PROMPTS
from circuitprune.files.text import counted, line
from circuitprune.pipelines.memory import forecast
from circuitprune.pipelines.setup import Setup


def cost_text(setup: Setup) -> str:
    """What the run will cost, in plain forwards of its pairs, as measured in benchmarks/."""
    settings, graph, verify = setup.config.attribution, setup.gated.graph, setup.config.verify
    cost, steps = setup.method.cost, setup.method.points(settings.steps)
    n_circuits = len(verify.thresholds or verify.sizes)
    if settings.method == "acdc":
        n_circuits = len(settings.acdc_thresholds)
    scores = "not known" if cost is None else f"about {cost(graph, steps):,.0f}"
    return (
        f"cost      in plain forwards of the pairs: scores {scores} "
        f"({counted(len(setup.data.splits['train']), 'training pair')}), verification about "
        f"{1.2 * (n_circuits + 1):,.0f} ("
        f"{counted(len(setup.data.splits[setup.held_out]), f'{setup.held_out} pair')})"
    )


def check_text() -> str:
    """What the self-check cost."""
    return f"checked   in {FORWARDS} forwards of {PROMPTS} prompts of {LENGTH} tokens"


def describe(setup: Setup) -> str:
    """The first screen of a run."""
    config, graph = setup.config, setup.gated.graph
    whole = setup.gated.ports.graph
    by_kv_head = replace(whole, n_kv_readers=setup.gated.ports.n_kv_heads)
    family = setup.gated.model.config.get_text_config().model_type
    used = "KV head" if config.model.kv_readers == "kv_head" else "query head"
    lines = [
        f"model     {line(config.model.name)} (family {family}, {config.model.dtype}, "
        f"{setup.gated.model.config._attn_implementation} attention, {setup.gated.device})",
        f"graph     {counted(graph.n_layers, 'layer')}, {counted(graph.n_heads, 'head')}, "
        f"{counted(by_kv_head.n_edges, 'edge')} by KV head, {whole.n_edges_ungrouped:,} by query "
        f"head; readers here by {used}",
        *(
            []
            if config.level == "edge"
            else [f"level     {config.level}, {counted(graph.n_edges, 'gate')}"]
        ),
        *([] if config.spans == "none" else [spans_text(setup)]),
        f"task      {line(config.task.name)}, ablation {config.ablation}, metric "
        f"{setup.metric_name}",
        *(f"pairs     {one.strip()}" for one in setup.data.report.summary().splitlines()),
        f"full      accuracy {setup.full.accuracy:.1%}, {setup.metric_name} "
        f"{setup.full.metric:.3f} on {counted(setup.full.n, 'training pair')}",
        f"prefixes  {prefixes_text(setup)}",
    ]
    return "\n".join(lines)


def spans_text(setup: Setup) -> str:
    """How many gates stand at each span."""
    graph = setup.gated.graph
    assert isinstance(graph, SpanGraph)
    counts = zip(graph.spans, graph.exists.sum(dim=0).tolist(), strict=True)
    found = ", ".join(f"{span.name} {n:,}" for span, n in counts)
    return f"spans     by {setup.config.spans}, {counted(graph.n_edges, 'gate')}: {found}"


def prefixes_text(setup: Setup) -> str:
    """How much of the prompts is run once, or why nothing is."""
    config, family = setup.config, setup.gated.model.config.get_text_config().model_type
    if not config.cache.prefixes:
        return "run each time (cache.prefixes=false)"
    if config.ablation != "patch":
        return f"run each time: with ablation={config.ablation}, cut edges carry something there"
    if not setup.references.leaves_out_prefixes:
        return f"run each time: attention of family {family} cannot go on behind a cache"
    batches = setup.data.batches("train")
    shared = sum(int(batch.shared().sum()) for batch in batches)
    whole = sum(int(batch.mask.sum()) for batch in batches)
    n = len(setup.data.splits["train"])
    return f"{shared / n:.1f} of a pair's {whole / n:.1f} tokens come before its first difference"


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
    """What the run will hold, by `memory.forecast`."""
    return f"memory    {forecast(setup.gated, setup.config, setup.data.splits)}"
