"""What the residual stream says about the answer: the logit lens and direct logit attribution.

Both look at the answer positions alone, of an untouched run. They read the stream in the
unembedding's own terms, which is a reading and not a cause: docs/evidence.md says when it misleads.
"""

from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitprune.data.batches import Batch
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.recording import record_writers
from circuitprune.errors import MetricError, ModelError
from circuitprune.files.text import counted
from circuitprune.metrics import distinct
from circuitprune.models.norms import known_norm, norm_scale


@torch.no_grad()
def residual_streams(
    gated: GatedModel, batch: Batch, prompts: str = "clean"
) -> dict[str, Float[Tensor, "batch d_model"]]:
    """The residual stream in front of every block of readers, at the answer positions.

    `a0` is what the queries, keys and values of layer 0 read, `m0` its MLP, and so on to `logits`,
    so `a1` is the stream after layer 0. On the corrupt prompts these are the bases that readers are
    left with when all their edges are ablated by `patch`.

    Args:
        gated: The model; its untouched forward is run.
        batch: The pairs.
        prompts: `clean` or `corrupt`.
    """
    ports, rows = gated.ports, torch.arange(len(batch), device=batch.last.device)
    found: dict[str, Tensor] = {}

    def keep(name: str, values: Tensor) -> None:
        found[name] = values[rows, batch.last].clone()

    def add_heads(layer: int, values: Tensor) -> None:
        heads = ports.layers[layer].scaled(values[rows, batch.last])
        added = 0 if gated.graph.parallel else ports.post_norms.of(layer, heads)
        found[f"m{layer}"] = found[f"a{layer}"] + added

    with ExitStack() as hooks:
        for i, (block, layer) in enumerate(zip(ports.blocks, ports.layers, strict=True)):
            at_block = block.register_forward_pre_hook(lambda _, x, i=i: keep(f"a{i}", x[0]))
            hooks.enter_context(at_block)
            written = layer.output.register_forward_hook(lambda _, __, y, i=i: add_heads(i, y))
            hooks.enter_context(written)
        final = ports.final_norm.register_forward_pre_hook(lambda _, x: keep("logits", x[0]))
        hooks.enter_context(final)
        gated.plain(getattr(batch, prompts), batch.mask, batch.last)
    return found


@torch.no_grad()
def logit_lens(
    gated: GatedModel, stream: Float[Tensor, "*any d_model"]
) -> Float[Tensor, "*any vocab"]:
    """The logits if the model stopped here: final norm, unembedding, its logit scale and soft cap.

    At the stream in front of the final norm these are the model's own logits.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    unembedding_of(gated)  # refused where it is no linear map
    logits = gated.ports.unembed(stream.reshape(-1, gated.graph.d_model))
    return logits.view(*stream.shape[:-1], -1)


def ranks(logits: Float[Tensor, "*any vocab"], tokens: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """How many tokens have a larger logit than each given one; 0 is the prediction."""
    chosen = logits.gather(-1, tokens.unsqueeze(-1))
    return (logits > chosen).sum(-1)


@torch.no_grad()
def direct_logit_attribution(
    gated: GatedModel, batch: Batch
) -> tuple[Float[Tensor, "writer batch"], Float[Tensor, " batch"]]:
    """What each writer adds to the logit difference through the edge to `logits` alone.

    With the scale `s` of the final norm held at what it was in this run::

        <s * centred(written[w]), mean unembedding of the answers - mean of the wrong tokens>

    in logits, positive where it speaks for the answer. A LayerNorm centres, an RMSNorm does not.
    Heads behind a norm of their own (Gemma 2) are taken through it with its scale held likewise. A
    token's vector is multiplied by what its logit has become behind the unembedding, over what it
    was: a logit scale (Granite, Cohere), and the share that a soft cap leaves.

    Returns:
        The writers' shares, and what belongs to no writer: biases. They sum to the model's logit
        difference.

    Raises:
        ModelError: a norm whose scale is not known here.
        MetricError: a pair has no wrong token to compare with.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al.
    2022 (arXiv 2211.00593), section 3.1.
    """
    if bool((batch.wrong < 0).all(dim=1).any()):
        raise MetricError(
            "direct logit attribution compares answers with wrong ones; a pair has none"
        )
    graph, rows = gated.graph, torch.arange(len(batch), device=batch.last.device)
    written = record_writers(gated.ports, batch.clean, batch.mask)[:, rows, batch.last]
    biases = torch.zeros_like(written[0])
    for layer in range(graph.n_layers):
        heads = graph.heads(layer)
        bias = gated.ports.attention_bias(layer)
        bias = torch.zeros_like(biases) if bias is None else bias.expand_as(biases)
        post = gated.ports.post_norms.norms.get(layer)
        if post is not None:
            total = written[heads].sum(dim=0) + bias
            written[heads], bias = (
                through_norm(post, written[heads], total),
                through_norm(post, bias, total),
            )
        biases = biases + bias
    norm, stream = gated.ports.final_norm, written.sum(dim=0) + biases
    direction, constant = _answer_direction(gated, batch, stream)
    shift = known_norm(norm).shift
    if shift is not None:
        constant = constant + direction @ shift
    shares = (through_norm(norm, written, stream) * direction).sum(-1)
    return shares, (through_norm(norm, biases, stream) * direction).sum(-1) + constant


def through_norm(
    norm: nn.Module, part: Float[Tensor, "*any d_model"], whole: Float[Tensor, "*any_whole d_model"]
) -> Float[Tensor, "*any d_model"]:
    """A share of a norm's input taken through it, at the scale that the whole input has."""
    centred = part - part.mean(-1, keepdim=True) if known_norm(norm).centred else part
    return (centred * norm_scale(norm)(whole)).to(part.dtype)


def unembedding_of(gated: GatedModel) -> nn.Linear:
    """The model's output embedding. Raises ModelError if it is no linear map."""
    unembedding = gated.model.get_output_embeddings()
    if not isinstance(unembedding, nn.Linear) or unembedding.in_features != gated.graph.d_model:
        raise ModelError(
            f"the output embedding is {unembedding}, expected nn.Linear from the residual stream's "
            f"{counted(gated.graph.d_model, 'feature')}; the logit lens is not defined for it"
        )
    return unembedding


def _answer_direction(
    gated: GatedModel, batch: Batch, stream: Float[Tensor, "batch d_model"]
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
    """Mean vector of the answers minus that of the wrong tokens, and the same of their biases.

    A token's vector is its row of the unembedding times the slope from there to its logit, which is
    that of the line through the origin: so the products add up to the logit itself.
    """
    both = gated.ports.final_norm(stream), logit_lens(gated, stream)
    right, right_bias = _mean_vector(gated, distinct(batch.answers), *both)
    wrong, wrong_bias = _mean_vector(gated, distinct(batch.wrong), *both)
    return right - wrong, right_bias - wrong_bias


def _mean_vector(
    gated: GatedModel,
    tokens: Int[Tensor, "batch n"],
    normed: Float[Tensor, "batch d_model"],
    logits: Float[Tensor, "batch vocab"],
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
    """Mean of each set's vectors and of their biases; padding is left out."""
    unembedding, chosen = unembedding_of(gated), tokens.clamp(min=0)
    rows = unembedding.weight[chosen]
    bias = rows.new_zeros(chosen.shape) if unembedding.bias is None else unembedding.bias[chosen]
    products = (rows @ normed.unsqueeze(-1)).squeeze(-1) + bias
    nothing = products == 0
    slope = logits.gather(1, chosen) / products.masked_fill(nothing, 1)
    slope = slope.masked_fill(nothing, 1)
    share = slope * (tokens >= 0) / (tokens >= 0).sum(1, keepdim=True)
    return (rows * share.unsqueeze(-1)).sum(1), (bias * share).sum(1)
