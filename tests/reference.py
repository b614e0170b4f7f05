"""The slow truth: gated edges spelled out one head, one reader and one writer at a time.

No code is shared with the package except the names and the order of `Graph`. Two halves: hooks on
an untouched Hugging Face model (`writers`, `patched_logits`, `patched_reader_logits`), and a
transformer written out by hand (`gated_logits`) whose every reader r rebuilds its own input::

    sum over upstream writers w of  gate[w->r] * now[w] + (1 - gate[w->r]) * ablated[w]
    + the output-projection biases of the attention layers upstream

A *writer's value* is `[batch, pos, d_model]`: what it adds to the residual stream. A head's value
is its share `z @ W_O[head]`, without the bias of the output projection, and before Gemma-2's
post-attention norm. An MLP's value has its biases, and comes after Gemma-2's post-feedforward norm.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.functional import jvp as autograd_jvp
from torch.nn import Module
from transformers import PreTrainedModel

from circuitprune.circuits.graph import Graph

FAMILIES = ("gpt2", "gpt_neox", "gpt_neox_sequential", "llama", "qwen2", "gemma2")
GROUPED = ("llama", "qwen2", "gemma2")
"""Families whose tiny model has fewer key/value heads than query heads."""
GRAPHS = [(f, "kv_head") for f in FAMILIES] + [(f, "query_head") for f in GROUPED]
"""Every family in every convention of key/value readers that it has."""

# ------------------------------------------------------------------ where things are in each family


NO_NORM = torch.nn.Identity()


class Layer(NamedTuple):
    """One transformer block with the family's spelling removed."""

    attention: Module
    attention_norm: Module
    output: Module
    post_attention: Callable[[Tensor], Tensor]
    """Gemma-2's norm on the summed heads; nothing elsewhere."""
    mlp: Module
    mlp_norm: Module
    mlp_end: Module
    """The module whose output is what the MLP branch adds to the residual stream."""


class Sizes(NamedTuple):
    """Numbers of the attention, the same in every layer."""

    n_layers: int
    n_heads: int
    n_kv: int
    d_head: int
    scale: float
    """Factor on query times key."""
    softcap: float | None
    parallel: bool


def sizes(model: PreTrainedModel, family: str) -> Sizes:
    config = model.config
    n_heads = config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    gemma = family == "gemma2"
    return Sizes(
        n_layers=config.num_hidden_layers,
        n_heads=n_heads,
        n_kv=getattr(config, "num_key_value_heads", n_heads),
        d_head=d_head,
        scale=(config.query_pre_attn_scalar if gemma else d_head) ** -0.5,
        softcap=config.attn_logit_softcapping if gemma else None,
        parallel=family == "gpt_neox",
    )


def graph_of(model: PreTrainedModel, family: str, kv_readers: str = "kv_head") -> Graph:
    """The graph this file's gates are named after."""
    size = sizes(model, family)
    n_kv = size.n_kv if kv_readers == "kv_head" else size.n_heads
    d_model = model.config.hidden_size
    return Graph(size.n_layers, size.n_heads, n_kv, parallel=size.parallel, d_model=d_model)


def layers(model: PreTrainedModel, family: str) -> list[Layer]:
    return [layer_parts(block, family) for block in blocks(model, family)]


def blocks(model: PreTrainedModel, family: str) -> list[Module]:
    if family == "gpt2":
        return list(model.transformer.h)
    return list(model.gpt_neox.layers if "neox" in family else model.model.layers)


def layer_parts(block: Module, family: str) -> Layer:
    mlp, nothing = block.mlp, NO_NORM
    if family == "gpt2":
        return Layer(block.attn, block.ln_1, block.attn.c_proj, nothing, mlp, block.ln_2, mlp)
    if "neox" in family:
        attention, after = block.attention, block.post_attention_layernorm
        return Layer(attention, block.input_layernorm, attention.dense, nothing, mlp, after, mlp)
    attention, before, after = (
        block.self_attn,
        block.input_layernorm,
        block.post_attention_layernorm,
    )
    if family == "gemma2":
        pre, post = block.pre_feedforward_layernorm, block.post_feedforward_layernorm
        return Layer(attention, before, attention.o_proj, after, mlp, pre, post)
    return Layer(attention, before, attention.o_proj, nothing, mlp, after, mlp)


def final_norm(model: PreTrainedModel, family: str) -> Module:
    if family == "gpt2":
        return model.transformer.ln_f
    return model.gpt_neox.final_layer_norm if "neox" in family else model.model.norm


def unembed(model: PreTrainedModel, family: str, residual: Tensor) -> Tensor:
    logits = model.lm_head(final_norm(model, family)(residual))
    if family == "gemma2":
        cap = model.config.final_logit_softcapping
        logits = torch.tanh(logits / cap) * cap
    return logits


def projection(
    model: PreTrainedModel, family: str, layer: int, port: str, index: int
) -> tuple[Module, slice]:
    """The module that makes one head's `q`, `k` or `v`, and which output features they are."""
    size, attention = sizes(model, family), layers(model, family)[layer].attention
    d_head, place = size.d_head, "qkv".index(port)
    if family == "gpt2":  # all queries, all keys, all values
        module, start = attention.c_attn, (place * size.n_heads + index) * d_head
    elif "neox" in family:  # query, key and value of head 0, then of head 1, ...
        module, start = attention.query_key_value, (index * 3 + place) * d_head
    else:
        module, start = getattr(attention, f"{port}_proj"), index * d_head
    return module, slice(start, start + d_head)


def matrix(module: Module) -> Tensor:
    """Weight as `[out, in]`; GPT-2 stores it the other way round."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def bias(module: Module) -> Tensor:
    if module.bias is None:
        return torch.zeros(len(matrix(module)), dtype=module.weight.dtype)
    return module.bias


def output_matrix(model: PreTrainedModel, family: str, layer: int, head: int) -> Tensor:
    """`W_O` of one head as `[d_head, d_model]`."""
    d_head = sizes(model, family).d_head
    whole = matrix(layers(model, family)[layer].output)
    return whole[:, head * d_head : (head + 1) * d_head].T


# ------------------------------------------------------------------ hooks on the untouched model


def plain_logits(model: PreTrainedModel, tokens: Tensor, mask: Tensor) -> Tensor:
    """The Hugging Face model, as it comes."""
    return model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).logits


@contextmanager
def changed_input(module: Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, `module` sees `change(input)` instead of its first input; None leaves it alone."""

    def hook(_, args, kwargs):
        if args:
            new = change(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = change(kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def changed_output(module: Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, `module` returns `change(output)`; None leaves it alone."""
    handle = module.register_forward_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def seen(
    model: PreTrainedModel, tokens: Tensor, mask: Tensor, where: Callable, module: Module
) -> Tensor:
    """The input (`where=changed_input`) or output of one module on a plain run."""
    found = []
    with where(module, lambda value: found.append(value.clone())):
        plain_logits(model, tokens, mask)
    return found[0]


def writers(model: PreTrainedModel, family: str, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What each writer adds to the residual stream on a plain run, by name, in forward order."""
    entering = blocks(model, family)[0]
    written = {"input": seen(model, tokens, mask, changed_input, entering)}
    d_head = sizes(model, family).d_head
    for number, layer in enumerate(layers(model, family)):
        z = seen(model, tokens, mask, changed_input, layer.output)
        for head in range(sizes(model, family).n_heads):
            z_head = z[..., head * d_head : (head + 1) * d_head]
            written[f"a{number}.h{head}"] = z_head @ output_matrix(model, family, number, head)
        written[f"m{number}"] = seen(model, tokens, mask, changed_output, layer.mlp_end)
    return written


def parse_node(name: str) -> tuple[int, int | None]:
    """`a2.h3` is `(2, 3)`, `m2` is `(2, None)`."""
    layer, _, head = name[1:].partition(".h")
    return int(layer), int(head) if head else None


def patched_logits(
    model: PreTrainedModel,
    family: str,
    tokens: Tensor,
    mask: Tensor,
    node_name: str,
    replacement: Tensor,
) -> Tensor:
    """Plain activation patching: the node writes `replacement`, all else follows from it.

    For a head this changes the output of the output projection by the difference of what the head
    writes; `patched_head_logits` is the same with the head's own slice of the input.
    """
    if node_name == "input":
        with changed_input(blocks(model, family)[0], lambda _: replacement):
            return plain_logits(model, tokens, mask)
    number, head = parse_node(node_name)
    layer = layers(model, family)[number]
    if head is None:
        with changed_output(layer.mlp_end, lambda _: replacement):
            return plain_logits(model, tokens, mask)
    d_head, z_now = sizes(model, family).d_head, []
    w_out = output_matrix(model, family, number, head)

    def rewrite(output):
        z_head = z_now[0][..., head * d_head : (head + 1) * d_head]
        return output - z_head @ w_out + replacement

    with (
        changed_input(layer.output, lambda z: z_now.append(z)),
        changed_output(layer.output, rewrite),
    ):
        return plain_logits(model, tokens, mask)


def patched_head_logits(
    model: PreTrainedModel, family: str, clean: Tensor, corrupt: Tensor, mask: Tensor, name: str
) -> Tensor:
    """Activation patching of a head: its slice of the output projection's input is corrupt."""
    (number, head), d_head = parse_node(name), sizes(model, family).d_head
    output = layers(model, family)[number].output
    z_corrupt = seen(model, corrupt, mask, changed_input, output)
    return logits_with_slice(
        model,
        clean,
        mask,
        changed_input,
        output,
        z_corrupt,
        slice(head * d_head, (head + 1) * d_head),
    )


def patched_reader_logits(
    model: PreTrainedModel, family: str, clean: Tensor, corrupt: Tensor, mask: Tensor, reader: str
) -> Tensor:
    """Plain patching of one reader: a projection's slice, or the input of an MLP or final norm."""
    _, module, where, features = reader_place(model, family, reader)
    value = seen(model, corrupt, mask, where, module)
    return logits_with_slice(model, clean, mask, where, module, value, features)


def reader_place(
    model: PreTrainedModel, family: str, reader: str
) -> tuple[Module, Module, Callable, slice]:
    """The norm a reader looks through, then the module, its input or output, and the features."""
    if reader == "logits":
        norm = final_norm(model, family)
        return norm, norm, changed_input, slice(None)
    if reader[0] == "m":
        layer = layers(model, family)[int(reader[1:])]
        return layer.mlp_norm, layer.mlp, changed_input, slice(None)
    number, index, port = parse_port(reader)
    module, features = projection(model, family, number, port, index)
    return layers(model, family)[number].attention_norm, module, changed_output, features


def logits_with_slice(
    model: PreTrainedModel,
    tokens: Tensor,
    mask: Tensor,
    where: Callable,
    module: Module,
    value: Tensor,
    features: slice,
) -> Tensor:
    """A run in which some features of one module's input or output come from `value`."""

    def change(now):
        now = now.clone()
        now[..., features] = value[..., features]
        return now

    with where(module, change):
        return plain_logits(model, tokens, mask)


def parse_port(reader: str) -> tuple[int, int, str]:
    """`a2.h3<q>` is `(2, 3, "q")`, and `a2.kv1<v>` is `(2, 1, "v")`."""
    layer, _, rest = reader[1:-1].partition(".")
    index, _, port = rest.lstrip("hkv").partition("<")
    return int(layer), int(index), port


def ungrouped_model(model: PreTrainedModel, family: str) -> PreTrainedModel:
    """A Hugging Face model with one KV head per query head that computes the same function."""
    size, config = sizes(model, family), deepcopy(model.config)
    if size.n_kv == size.n_heads:
        return model
    config.num_key_value_heads = size.n_heads
    state = dict(model.state_dict())
    for name, value in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            groups = value.split(size.d_head)
            copies = size.n_heads // size.n_kv
            state[name] = torch.cat([group for group in groups for _ in range(copies)])
    wide = type(model)(config).double().eval().requires_grad_(False)
    wide.load_state_dict(state)
    return wide


# ------------------------------------------------------------------ the gated transformer by hand


def gate_dict(graph: Graph, gates: Tensor) -> dict[str, Tensor]:
    """A flat gate vector by edge name."""
    return {name: gates[i] for i, name in enumerate(graph.edges)}


def gated_logits(
    model: PreTrainedModel,
    family: str,
    tokens: Tensor,
    mask: Tensor,
    gates: dict[str, float] | dict[str, Tensor],
    ablated: dict[str, Tensor],
) -> Tensor:
    """Logits when every edge carries `gate * now + (1 - gate) * ablated`.

    Key and value readers are per KV head if the gates' names say so (`a0.kv1<k>`), else per head.
    """
    size = sizes(model, family)
    entering = seen(model, tokens, mask, changed_input, blocks(model, family)[0])
    now = {"input": entering}

    def residual(reader, n_attention, n_mlp):
        return read(model, family, gates, now, ablated, reader, n_attention, n_mlp)

    for number, layer in enumerate(layers(model, family)):
        heads, allowed = {}, visible(mask, window(model, number))
        for head in range(size.n_heads):
            inputs = [
                layer.attention_norm(residual(name, number, number))
                for name in head_readers(gates, size, number, head)
            ]
            heads[f"a{number}.h{head}"] = attend(model, family, number, head, inputs, allowed)
        now.update(heads)  # only now: the heads of one layer do not read each other
        seen_attention = number if size.parallel else number + 1
        mlp_input = layer.mlp_norm(residual(f"m{number}", seen_attention, number))
        written = layer.mlp(mlp_input)
        now[f"m{number}"] = written if layer.mlp_end is layer.mlp else layer.mlp_end(written)
    return unembed(model, family, residual("logits", size.n_layers, size.n_layers))


def head_readers(gates: dict, size: Sizes, layer: int, head: int) -> list[str]:
    """Names of the three readers that feed one query head: its q, k and v."""
    kv_name = f"h{head}"
    if f"input->a{layer}.kv0<k>" in gates:
        kv_name = f"kv{head // (size.n_heads // size.n_kv)}"
    return [f"a{layer}.h{head}<q>", f"a{layer}.{kv_name}<k>", f"a{layer}.{kv_name}<v>"]


def read(
    model: PreTrainedModel,
    family: str,
    gates: dict,
    now: dict[str, Tensor],
    ablated: dict[str, Tensor],
    reader: str,
    n_attention: int,
    n_mlp: int,
) -> Tensor:
    """The residual stream as one reader sees it, downstream of so many attention and MLP layers."""

    def carried(writer):
        gate = gates[f"{writer}->{reader}"]
        return gate * now[writer] + (1 - gate) * ablated[writer]

    total = carried("input")
    for number, layer in enumerate(layers(model, family)):
        if number < n_attention:
            branch = bias(layer.output)  # belongs to no head, so no gate closes it
            for head in range(sizes(model, family).n_heads):
                branch = branch + carried(f"a{number}.h{head}")
            total = total + layer.post_attention(branch)
        if number < n_mlp:
            total = total + carried(f"m{number}")
    return total


def attend(
    model: PreTrainedModel,
    family: str,
    layer: int,
    head: int,
    inputs: list[Tensor],
    allowed: Tensor,
) -> Tensor:
    """What one query head writes, given the normed inputs of its query, key and value."""
    size = sizes(model, family)
    kv_head = head // (size.n_heads // size.n_kv)
    q, k, v = [
        project(model, family, layer, port, index, value)
        for port, index, value in zip("qkv", (head, kv_head, kv_head), inputs, strict=True)
    ]
    q, k = rotate(model, family, q), rotate(model, family, k)
    scores = q @ k.transpose(1, 2) * size.scale
    if size.softcap is not None:
        scores = size.softcap * torch.tanh(scores / size.softcap)
    scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
    z = torch.softmax(scores, dim=-1) @ v
    return z @ output_matrix(model, family, layer, head)


def project(
    model: PreTrainedModel, family: str, layer: int, port: str, index: int, value: Tensor
) -> Tensor:
    """One head's query, key or value `[batch, pos, d_head]`."""
    module, features = projection(model, family, layer, port, index)
    return value @ matrix(module)[features].T + bias(module)[features]


def rotate(model: PreTrainedModel, family: str, x: Tensor) -> Tensor:
    """Rotary positions: feature `i` and feature `i + n/2` of the first `n` turn as a plane."""
    if family == "gpt2":
        return x
    positions = torch.arange(x.shape[1])[None]
    cos, sin = model.base_model.rotary_emb(x, positions)
    half = cos.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., :half]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def window(model: PreTrainedModel, layer: int) -> int:
    """How many positions a query of this layer sees, itself included."""
    kinds = getattr(model.config, "layer_types", None)
    sliding = kinds is not None and kinds[layer] == "sliding_attention"
    return model.config.sliding_window if sliding else 10**9


def visible(mask: Tensor, width: int) -> Tensor:
    """`[batch, query, key]`: the key is real, not in the future, and inside the window."""
    n_rows, n_pos = mask.shape
    allowed = torch.zeros(n_rows, n_pos, n_pos, dtype=torch.bool)
    for row in range(n_rows):
        for query in range(n_pos):
            keys = slice(max(0, query - width + 1), query + 1)
            allowed[row, query, keys] = mask[row, keys]
    return allowed


# ------------------------------------------------------------------ metrics and scores


def logit_diff(logits: Tensor, answers: list[list[int]], wrong: list[list[int]]) -> Tensor:
    """Mean logit of the right answers minus mean logit of the wrong ones, per example."""
    values = []
    for row, right_ids, wrong_ids in zip(logits, answers, wrong, strict=True):
        right = sum(row[i] for i in right_ids) / len(right_ids)
        values.append(right - sum(row[i] for i in wrong_ids) / len(wrong_ids))
    return torch.stack(values)


def prob_diff(logits: Tensor, answers: list[list[int]], wrong: list[list[int]]) -> Tensor:
    """Probability of all right answers minus probability of all wrong ones, per example."""
    values = []
    for row, right_ids, wrong_ids in zip(logits, answers, wrong, strict=True):
        p = row.exp() / row.exp().sum()
        values.append(sum(p[i] for i in right_ids) - sum(p[i] for i in wrong_ids))
    return torch.stack(values)


def kl(full_logits: Tensor, circuit_logits: Tensor) -> Tensor:
    """KL(full model || circuit) in nats, per example."""
    values = []
    for full, circuit in zip(full_logits, circuit_logits, strict=True):
        p, q = full.exp() / full.exp().sum(), circuit.exp() / circuit.exp().sum()
        values.append(sum(p[i] * (p[i] / q[i]).log() for i in range(len(p))))
    return torch.stack(values)


def at_last(logits: Tensor, last: Tensor) -> Tensor:
    """`[batch, vocab]`: each row's logits at its own last real position."""
    return torch.stack([row[position] for row, position in zip(logits, last, strict=True)])


def exact_scores(
    model: PreTrainedModel,
    family: str,
    graph: Graph,
    clean: Tensor,
    corrupt: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
    edges: list[str],
) -> dict[str, float]:
    """Mean metric with one edge carrying its corrupt value, minus that of the clean run."""
    ablated = writers(model, family, corrupt, mask)
    base = metric(plain_logits(model, clean, mask)).mean().item()
    scores = {}
    for edge in edges:
        gates = dict.fromkeys(graph.edges, 1.0) | {edge: 0.0}
        cut = gated_logits(model, family, clean, mask, gates, ablated)
        scores[edge] = metric(cut).mean().item() - base
    return scores


def eap_by_hooks(
    model: PreTrainedModel,
    family: str,
    graph: Graph,
    clean: Tensor,
    corrupt: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
) -> Tensor:
    """EAP by hooks on the untouched model: writer (corrupt - clean) times reader gradient.

    In the order of `graph.edges`. `model` must have one KV head per KV reader of the graph.
    """
    change = writer_changes(model, family, clean, corrupt, mask)
    scores = torch.zeros(graph.n_edges, dtype=model.dtype)
    for reader in graph.readers:
        gradient = reader_gradient(model, family, clean, mask, metric, reader)
        for edge in (e for e in graph.edges if e.endswith(f"->{reader}")):
            writer = edge.split("->")[0]
            scores[graph.edge_index(edge)] = (change[writer] * gradient).sum()
    return scores


def writer_changes(
    model: PreTrainedModel, family: str, clean: Tensor, corrupt: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Corrupt minus clean of each writer as the stream sees it: to first order behind a norm."""
    now = writers(model, family, clean, mask)
    other = writers(model, family, corrupt, mask)
    change = {name: other[name] - now[name] for name in now}
    for number, layer in enumerate(layers(model, family)):
        heads = [f"a{number}.h{head}" for head in range(sizes(model, family).n_heads)]
        total = bias(layer.output) + sum(now[head] for head in heads)
        for head in heads:
            _, change[head] = autograd_jvp(layer.post_attention, total, change[head])
    return change


def reader_gradient(
    model: PreTrainedModel,
    family: str,
    tokens: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
    reader: str,
) -> Tensor:
    """Gradient of the metric with respect to one reader's residual input, on a plain run."""
    norm, module, where, features = reader_place(model, family, reader)
    stream, value = [], []
    with (
        changed_input(blocks(model, family)[0], lambda x: x.requires_grad_()),
        changed_input(norm, lambda x: stream.append(x.detach().requires_grad_())),
        where(module, lambda x: value.append(x)),
    ):
        score = metric(plain_logits(model, tokens, mask))
    (slope,) = torch.autograd.grad(score, value[0])
    if module is norm:
        return slope
    rebuilt = norm(stream[0]) if where is changed_input else module(norm(stream[0]))
    onto = (rebuilt[..., features] * slope[..., features]).sum()
    return torch.autograd.grad(onto, stream[0])[0]


def edge_gradients_by_finite_difference(
    value: Callable[[Tensor], Tensor], gates: Tensor, edges: list[int], step: float
) -> Tensor:
    """Slope of `value(gates)` along each listed edge, from four points around `gates`."""
    slopes = []
    for edge in edges:
        at = {}
        for shift in (-2, -1, 1, 2):
            moved = gates.clone()
            moved[edge] += shift * step
            at[shift] = value(moved).item()
        slopes.append((8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step))
    return torch.tensor(slopes, dtype=gates.dtype)


def eap_on_path(
    model: PreTrainedModel,
    family: str,
    graph: Graph,
    clean: Tensor,
    corrupt: Tensor,
    mask: Tensor,
    metric: Callable[[Tensor], Tensor],
    positions: list[float],
) -> Tensor:
    """`eap_by_hooks`, its gradients averaged over runs between the corrupt (0) and clean (1) input.

    Only what enters the first block moves along the path; the writers' changes are those of the two
    whole runs, taken through Gemma-2's post-attention norms where the path stands.
    """
    now = writers(model, family, clean, mask)
    other = writers(model, family, corrupt, mask)
    scores = torch.zeros(graph.n_edges, dtype=model.dtype)
    for position in positions:
        entering = position * now["input"] + (1 - position) * other["input"]
        with changed_input(blocks(model, family)[0], lambda _, x=entering: x.clone()):
            here = writers(model, family, clean, mask)
            change = {name: other[name] - now[name] for name in now}
            for number, layer in enumerate(layers(model, family)):
                heads = [f"a{number}.h{head}" for head in range(sizes(model, family).n_heads)]
                total = bias(layer.output) + sum(here[head] for head in heads)
                for head in heads:
                    _, change[head] = autograd_jvp(layer.post_attention, total, change[head])
            for reader in graph.readers:
                gradient = reader_gradient(model, family, clean, mask, metric, reader)
                for edge in (e for e in graph.edges if e.endswith(f"->{reader}")):
                    score = (change[edge.split("->")[0]] * gradient).sum()
                    scores[graph.edge_index(edge)] += score / len(positions)
    return scores
