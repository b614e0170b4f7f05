"""Slow, obvious forms of the attribution methods: loops over hooks, writers, readers and positions.

As in `reference.py`, nothing is shared with the package but the names of `Graph`.
"""

from collections.abc import Callable
from copy import deepcopy

import reference
import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from circuitprune.circuits.graph import Graph

# ------------------------------------------------------------------ nodes


def node_scores_by_hooks(
    model: PreTrainedModel,
    family: str,
    clean: Tensor,
    corrupt: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """`<corrupt - clean, d metric / d output>` of each writer, by one hook at its output."""
    now = reference.writers(model, family, clean, mask)
    other = reference.writers(model, family, corrupt, mask)
    scores = {}
    for name in now:
        gradient = output_gradient(model, family, clean, mask, metric, name)
        scores[name] = ((other[name] - now[name]) * gradient).sum()
    return scores


def output_gradient(
    model: PreTrainedModel,
    family: str,
    tokens: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
    name: str,
) -> Tensor:
    """Gradient of the metric at what one writer writes: at a zero that is added to it."""
    where, module = reference.changed_output, None
    if name == "input":
        where, module = reference.changed_input, reference.blocks(model, family)[0]
    else:
        number, head = reference.parse_node(name)
        layer = reference.layers(model, family)[number]
        module = layer.mlp_end if head is None else layer.output
    width = model.config.hidden_size
    nothing = torch.zeros(*tokens.shape, width, dtype=model.dtype, requires_grad=True)
    with where(module, lambda value: value + nothing):
        score = metric(reference.plain_logits(model, tokens, mask))
    return torch.autograd.grad(score, nothing)[0]


def node_circuit(graph: Graph, kept: set[str]) -> Tensor:
    """The edges among the kept nodes; `input` and `logits` are always kept."""
    group = graph.n_heads // graph.n_kv_readers
    names = [name.split("->") for name in graph.edges]

    def nodes_of(reader: str) -> list[str]:
        if "<" not in reader:
            return [reader]
        layer, index, port = reference.parse_port(reader)
        if port == "q" or group == 1:
            return [f"a{layer}.h{index}"]
        return [f"a{layer}.h{head}" for head in range(index * group, (index + 1) * group)]

    there = kept | {"input", "logits"}
    return torch.tensor(
        [writer in there and any(n in there for n in nodes_of(reader)) for writer, reader in names]
    )


# ------------------------------------------------------------------ integrated along a writer


def writer_ig(
    model: PreTrainedModel,
    family: str,
    graph: Graph,
    clean: Tensor,
    corrupt: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
    positions: list[float],
) -> Tensor:
    """Change of each writer times the gradients of runs in which it stands between two values."""
    ablated = reference.writers(model, family, corrupt, mask)
    scores = torch.zeros(graph.n_edges, dtype=model.dtype)
    for writer in graph.writers:
        own = [e for e in graph.edges if e.split("->")[0] == writer]
        for position in positions:
            gates = {e: torch.ones((), dtype=model.dtype) for e in graph.edges}
            for edge in own:
                gates[edge] = torch.tensor(position, dtype=model.dtype, requires_grad=True)
            logits = reference.gated_logits(model, family, clean, mask, gates, ablated)
            slopes = torch.autograd.grad(metric(logits), [gates[e] for e in own])
            for edge, slope in zip(own, slopes, strict=True):
                scores[graph.edge_index(edge)] -= slope / len(positions)
    return scores


# ------------------------------------------------------------------ relevance propagation


class FrozenNorm(Module):
    """A norm written out, its standard deviation a constant."""

    def __init__(self, norm: Module) -> None:
        super().__init__()
        self.norm, self.layer_norm = norm, type(norm).__name__ == "LayerNorm"

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if self.layer_norm:
            centred = x - x.mean(-1, keepdim=True)
            spread = ((centred**2).mean(-1, keepdim=True) + norm.eps).sqrt().detach()
            return norm.weight * centred / spread + norm.bias
        gemma = "Gemma" in type(norm).__name__
        eps = norm.eps if gemma else norm.variance_epsilon
        spread = ((x**2).mean(-1, keepdim=True) + eps).sqrt().detach()
        return (1 + norm.weight if gemma else norm.weight) * x / spread


class PropagatingMlp(Module):
    """An MLP written out by the identity and the half rule."""

    def __init__(self, mlp: Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        if hasattr(mlp, "gate_proj"):
            gate, up = identity(mlp.act_fn, mlp.gate_proj(x)), mlp.up_proj(x)
            return mlp.down_proj((gate * up.detach() + gate.detach() * up) / 2)
        if hasattr(mlp, "c_fc"):
            return mlp.c_proj(identity(mlp.act, mlp.c_fc(x)))
        return mlp.dense_4h_to_h(identity(mlp.act, mlp.dense_h_to_4h(x)))


class HalvingMlp(Module):
    """An MLP written out, each factor of a gated one's product with half of the gradient."""

    def __init__(self, mlp: Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        if not hasattr(mlp, "gate_proj"):
            return mlp(x)
        gate, up = mlp.act_fn(mlp.gate_proj(x)), mlp.up_proj(x)
        return mlp.down_proj((gate * up.detach() + gate.detach() * up) / 2)


def identity(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The activation as a multiple of its input, the factor a constant."""
    return x * (activation(x) / x).detach()


def relp_model(
    model: PreTrainedModel, family: str, mlp: type[Module] = PropagatingMlp
) -> PreTrainedModel:
    """A copy whose norms and MLPs are replaced by modules of the same values, other gradients."""
    copy = deepcopy(model)
    for block in reference.blocks(copy, family):
        for name, module in list(block.named_children()):
            if "norm" in name or name.startswith("ln_"):
                setattr(block, name, FrozenNorm(module))
            if name == "mlp":
                block.mlp = mlp(module)
    final = reference.final_norm(copy, family)
    for parent in list(copy.modules()):
        for name, module in list(parent.named_children()):
            if module is final:
                setattr(parent, name, FrozenNorm(final))
    return copy


class RuledSoftmax(torch.autograd.Function):
    """The softmax, whose backward pass takes the pattern at another temperature."""

    @staticmethod
    def forward(ctx, scores, temperature):
        ctx.pattern = torch.softmax(scores / temperature, dim=-1)
        return torch.softmax(scores, dim=-1)

    @staticmethod
    def backward(ctx, slope):
        warm = ctx.pattern
        return warm * (slope - (warm * slope).sum(-1, keepdim=True)), None


def attend_by_rules(temperature: float) -> Callable[..., Tensor]:
    """`reference.attend` with halves for the factors of both products, and such a softmax."""

    def attend(model, family, layer, head, inputs, allowed):
        size = reference.sizes(model, family)
        kv_head = head // (size.n_heads // size.n_kv)
        q, k, v = [
            reference.project(model, family, layer, port, index, value)
            for port, index, value in zip("qkv", (head, kv_head, kv_head), inputs, strict=True)
        ]
        q, k = reference.rotate(model, family, q), reference.rotate(model, family, k)
        turned = k.transpose(1, 2)
        scores = (q @ turned.detach() + q.detach() @ turned) / 2 * size.scale
        if size.softcap is not None:
            scores = size.softcap * torch.tanh(scores / size.softcap)
        scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
        pattern = RuledSoftmax.apply(scores, temperature)
        z = (pattern @ v.detach() + pattern.detach() @ v) / 2
        return z @ reference.output_matrix(model, family, layer, head)

    return attend


def gate_scores(
    model: PreTrainedModel,
    family: str,
    graph: Graph,
    clean: Tensor,
    ablated: dict[str, Tensor],
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
) -> Tensor:
    """Minus the gradient of the hand-written gated model at gates of 1."""
    gates = torch.ones(graph.n_edges, dtype=model.dtype, requires_grad=True)
    by_name = reference.gate_dict(graph, gates)
    logits = reference.gated_logits(model, family, clean, mask, by_name, ablated)
    return -torch.autograd.grad(metric(logits), gates)[0]


# ------------------------------------------------------------------ information flow


def flow_shares(
    model: PreTrainedModel, family: str, graph: Graph, tokens: Tensor, mask: Tensor
) -> Tensor:
    """Each writer's share of each reader's input, one position at a time."""
    now = reference.writers(model, family, tokens, mask)
    added = dict(now)
    for number, layer in enumerate(reference.layers(model, family)):
        heads = [name for name in now if name.startswith(f"a{number}.")]
        total = reference.bias(layer.output) + sum(now[name] for name in heads)
        for name in heads:  # an RMSNorm multiplies each feature by the same factor for all heads
            added[name] = now[name] * layer.post_attention(total) / total
    scores = torch.zeros(graph.n_edges, dtype=model.dtype)
    for reader in graph.readers:
        writers = [e.split("->")[0] for e in graph.edges if e.split("->")[1] == reader]
        norm, *_ = reference.reader_place(model, family, reader.replace("kv", "h"))
        stream = reference.seen(model, tokens, mask, reference.changed_input, norm)
        for row in range(len(tokens)):
            real = int(mask[row].sum())
            positions = [real - 1] if reader == "logits" else list(range(real))
            for position in positions:
                whole = stream[row, position]
                near = {w: nearness(added[w][row, position], whole) for w in writers}
                for writer in writers:
                    share = near[writer] / sum(near.values()) / len(positions) / len(tokens)
                    scores[graph.edge_index(f"{writer}->{reader}")] += share
    return scores


def nearness(part: Tensor, whole: Tensor) -> Tensor:
    """By the L1 norm: how much of the whole the part explains."""
    return max(whole.abs().sum() - (part - whole).abs().sum(), torch.zeros_like(whole[0]))


def conductance_by_hooks(
    model: PreTrainedModel,
    family: str,
    graph: Graph,
    clean: Tensor,
    corrupt: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
    steps: int,
) -> Tensor:
    """What each writer moves by from one point of the path to the next, times reader gradients."""
    tokens = clean, mask
    now = reference.writers(model, family, *tokens)["input"]
    before = reference.writers(model, family, corrupt, mask)
    other, scores = before["input"], torch.zeros(graph.n_edges, dtype=model.dtype)
    for k in range(1, steps + 1):
        entering = other + (now - other) * k / steps
        first = reference.blocks(model, family)[0]
        with reference.changed_input(first, lambda _, x=entering: x.clone()):
            here = reference.writers(model, family, *tokens)
            moves = {name: before[name] - here[name] for name in here}
            for reader in graph.readers:
                slope = reference.reader_gradient(model, family, *tokens, metric, reader)
                for edge in (e for e in graph.edges if e.endswith(f"->{reader}")):
                    score = (moves[edge.split("->")[0]] * slope).sum()
                    scores[graph.edge_index(edge)] += score
        before = here
    return scores
