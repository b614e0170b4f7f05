"""What attention heads do: their patterns, and simple probes that tell kinds of heads apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitprune.engine.gated import GatedModel
from circuitprune.engine.recording import record_writers
from circuitprune.errors import DataError
from circuitprune.lens.logits import logit_lens
from circuitprune.models.softmax import eager_attention

ATTENDS = 0.4
"""Mean attention from which a probe calls a head by its name."""
COPIES = 0.5
"""Share of tokens copied from which a head is called a copying one."""


@dataclass(frozen=True)
class Probes:
    """Scores of every head, `[layer, head]`, each in [0, 1]."""

    previous: Float[Tensor, "layer head"]
    """Mean attention to the position before, on a sequence of random tokens said twice."""
    duplicate: Float[Tensor, "layer head"]
    """In the second half: to the same token in the first."""
    induction: Float[Tensor, "layer head"]
    """In the second half: to the token after that one."""
    copying: Float[Tensor, "layer head"]
    """Share of tokens that are among the first `top_k` of what the head writes on seeing them."""
    anticopying: Float[Tensor, "layer head"]
    """The same for minus what it writes: it speaks against what it sees."""

    def labels(self, layer: int, head: int) -> list[str]:
        """Names of the probes that this head passes; none means that no probe knows it."""
        limits = dict.fromkeys(("previous", "duplicate", "induction"), ATTENDS)
        limits |= dict.fromkeys(("copying", "anticopying"), COPIES)
        return [n for n, limit in limits.items() if getattr(self, n)[layer, head] >= limit]


@torch.no_grad()
def attention_patterns(
    gated: GatedModel, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "layer batch head query key"]:
    """Attention weights of the untouched model, by Hugging Face's own eager attention.

    Rows sum to 1. Memory grows with the square of the length: for a few prompts at a time.
    """
    with eager_attention(gated.model), _weights(gated) as patterns:
        padded = None if bool(mask.all()) else mask.long()
        gated.model(input_ids=tokens, attention_mask=padded, use_cache=False)
    return torch.stack(patterns)


@torch.no_grad()
def probe_heads(
    gated: GatedModel,
    vocabulary: Int[Tensor, " token"],
    generator: torch.Generator,
    length: int = 20,
    n_sequences: int = 8,
    top_k: int = 5,
) -> Probes:
    """Score every head on random tokens said twice, `x_1 .. x_n x_1 .. x_n`.

    Attention probes as in Olsson et al. 2022 (arXiv 2209.11895) and Wang et al. 2022 (arXiv
    2211.00593), appendix on early heads: means over positions from 1 on (previous) or over the
    second half but its first position, which nothing comes before in the first (duplicate,
    induction). Copying after the latter's section on name movers: a token's embedding, with what
    the first MLP adds to it (without, for heads of layer 0), goes through the head's norm, values
    and output, the final norm and the unembedding; the score is the share of tokens that are among
    the `top_k` largest logits. A norm behind the attention (Gemma 2) is left out.

    Args:
        gated: The model.
        vocabulary: Tokens to draw from, without repetition in a sequence.
        generator: Which tokens are drawn.
        length: n; made smaller where the model has too few positions or the vocabulary too few
            tokens.
        n_sequences: Sequences drawn.
        top_k: 5 in the paper; made smaller for a small vocabulary.

    Raises:
        DataError: fewer than 3 tokens, or positions for fewer than 6.
    """
    positions = getattr(gated.model.config.get_text_config(), "max_position_embeddings", 2 * length)
    n = min(length, positions // 2, len(vocabulary))
    if n < 3:
        raise DataError(f"probes need sequences of 3 tokens said twice, there is room for {n}")
    drawn = [torch.randperm(len(vocabulary), generator=generator)[:n] for _ in range(n_sequences)]
    once = vocabulary.cpu()[torch.stack(drawn)].to(gated.device)
    twice = torch.cat([once, once], dim=1)
    pattern = attention_patterns(gated, twice, torch.ones_like(twice, dtype=torch.bool))
    pattern = pattern.float().mean(dim=1)
    second = torch.arange(n + 1, 2 * n, device=gated.device)
    every = torch.arange(1, 2 * n, device=gated.device)
    copying = _copying(gated, once, min(top_k, max(1, len(vocabulary) // 10)))
    return Probes(
        pattern[:, :, every, every - 1].mean(-1).cpu(),
        pattern[:, :, second, second - n].mean(-1).cpu(),
        pattern[:, :, second, second - n + 1].mean(-1).cpu(),
        *copying.cpu(),
    )


def _copying(
    gated: GatedModel, tokens: Int[Tensor, "batch pos"], top_k: int
) -> Float[Tensor, "2 layer head"]:
    """Share of tokens in the top of what each head writes of them, and of minus that."""
    ports, graph = gated.ports, gated.graph
    written = record_writers(gated.ports, tokens, torch.ones_like(tokens, dtype=torch.bool))
    streams = [written[0], *_after_first_layer(gated, written)]
    found = torch.zeros(2, graph.n_layers, graph.n_heads)
    group = graph.n_heads // graph.n_kv_readers
    for layer in range(graph.n_layers):
        read = ports.layers[layer].attention_norm(streams[min(layer, 1)])
        values = ports.projections(layer)[2]
        for head in range(graph.n_heads):
            made = read @ values.weight[head // group].to(read.dtype)
            if values.bias is not None:
                made = made + values.bias[head // group]
            out = made @ ports.head_weight(layer)[head]
            for sign in (0, 1):
                top = logit_lens(gated, out if sign == 0 else -out).topk(top_k).indices
                hit = (top == tokens.unsqueeze(-1)).any(-1)
                found[sign, layer, head] = hit.float().mean()
    return found


def _after_first_layer(
    gated: GatedModel, written: Float[Tensor, "writer batch pos d_model"]
) -> list[Float[Tensor, "batch pos d_model"]]:
    """The embeddings with what the first MLP adds to them, if there is a second layer."""
    if gated.graph.n_layers < 2:
        return []
    return [written[0] + written[gated.graph.mlp_writer(0)]]


@contextmanager
def _weights(gated: GatedModel) -> Iterator[list[Tensor]]:
    """What each layer's attention says its weights were, in forward order.

    Hooks of our own: those that `output_attentions` installs stay on the model for good.
    """
    found: list[Tensor] = []
    modules = [layer.attention for layer in gated.ports.layers]
    hooks = [m.register_forward_hook(lambda _, __, out: found.append(out[1])) for m in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
