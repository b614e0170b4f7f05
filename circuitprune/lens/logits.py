"""What the residual stream says about the answer: the logit lens and direct logit attribution.

Both look at the answer positions alone, of an untouched run. They read the stream in the
unembedding's own terms, which is a reading and not a cause: docs/evidence.md says when it misleads.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuitprune.data.batches import Batch
from circuitprune.engine.gated import GatedModel
from circuitprune.errors import MetricError, ModelError
from circuitprune.models.norms import norm_scale


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
    ports, found = gated.ports, {}
    rows = torch.arange(len(batch), device=batch.last.device)

    def keep(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[name] = args[0][rows, batch.last].clone()

    norms = [("logits", ports.final_norm)]
    for i, layer in enumerate(ports.layers):
        norms += [(f"a{i}", layer.attention_norm), (f"m{i}", layer.mlp_norm)]
    hooks = [norm.register_forward_pre_hook(partial(keep, name)) for name, norm in norms]
    try:
        gated.plain(getattr(batch, prompts), batch.mask, batch.last)
    finally:
        for hook in hooks:
            hook.remove()
    order = [f"{kind}{i}" for i in range(len(ports.layers)) for kind in "am"]
    return {name: found[name] for name in [*order, "logits"]}


@torch.no_grad()
def logit_lens(
    gated: GatedModel, stream: Float[Tensor, "*any d_model"]
) -> Float[Tensor, "*any vocab"]:
    """The logits if the model stopped here: final norm, unembedding, and its soft cap if any.

    At the stream in front of the final norm these are the model's own logits.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    logits = _unembedding(gated)(gated.ports.final_norm(stream))
    cap = getattr(gated.model.config.get_text_config(), "final_logit_softcapping", None)
    capped: Tensor = logits if cap is None else cap * torch.tanh(logits / cap)
    return capped


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
    Heads behind a norm of their own (Gemma 2) are taken through it with its scale held likewise.

    Returns:
        The writers' shares, and what belongs to no writer: biases. They sum to the model's logit
        difference, before its soft cap if it has one.

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
    written = gated.record(batch.clean, batch.mask)[:, rows, batch.last]
    biases = torch.zeros_like(written[0])
    for layer in range(graph.n_layers):
        heads = graph.heads(layer)
        bias = gated.ports.attention_bias(layer)
        bias = torch.zeros_like(biases) if bias is None else bias.expand_as(biases)
        post = gated.ports.post_norms.norms.get(layer)
        if post is not None:
            total = written[heads].sum(dim=0) + bias
            written[heads], bias = (
                _through(post, written[heads], total),
                _through(post, bias, total),
            )
        biases = biases + bias
    norm, stream = gated.ports.final_norm, written.sum(dim=0) + biases
    direction, constant = _answer_direction(gated, batch)
    shift = norm.bias if isinstance(norm, nn.LayerNorm) else None
    if shift is not None:
        constant = constant + direction @ shift
    shares = (_through(norm, written, stream) * direction).sum(-1)
    return shares, (_through(norm, biases, stream) * direction).sum(-1) + constant


def _through(
    norm: nn.Module, part: Float[Tensor, "*any d_model"], whole: Float[Tensor, "*any_whole d_model"]
) -> Float[Tensor, "*any d_model"]:
    """A share of a norm's input taken through it, at the scale that the whole input has."""
    centred = part - part.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else part
    return (centred * norm_scale(norm)(whole)).to(part.dtype)


def _unembedding(gated: GatedModel) -> nn.Linear:
    """The model's output embedding. Raises ModelError if it is no linear map."""
    unembedding = gated.model.get_output_embeddings()
    if not isinstance(unembedding, nn.Linear):
        raise ModelError(
            f"the output embedding is a {type(unembedding).__name__}, expected nn.Linear; the "
            "logit lens is not defined for it"
        )
    return unembedding


def _answer_direction(
    gated: GatedModel, batch: Batch
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
    """Mean unembedding vector of the answers minus that of the wrong tokens, and of its bias."""
    unembedding = _unembedding(gated)
    bias = unembedding.bias
    direction = _mean_rows(unembedding.weight, batch.answers)
    direction = direction - _mean_rows(unembedding.weight, batch.wrong)
    if bias is None:
        return direction, torch.zeros_like(direction[:, 0])
    column = bias.unsqueeze(1)
    constant = _mean_rows(column, batch.answers) - _mean_rows(column, batch.wrong)
    return direction, constant[:, 0]


def _mean_rows(
    table: Float[Tensor, "vocab width"], tokens: Int[Tensor, "batch n"]
) -> Float[Tensor, "batch width"]:
    """Mean of the rows of each set of tokens; padding is left out."""
    real = (tokens >= 0).unsqueeze(-1)
    return (table[tokens.clamp(min=0)] * real).sum(1) / real.sum(1)
