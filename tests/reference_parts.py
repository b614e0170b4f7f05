"""The slow truth of parts: torch hooks on an untouched Hugging Face model, one part at a time.

Shares no code with the package: places are found by the names of the test models' modules.
"""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from reference import plain_logits
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitprune.data.batches import Batch

OUTPUTS = ("attn.c_proj", "self_attn.o_proj", "attention.dense", "self_attn.out_proj")
"""Output projections of attention, in the families of the tests."""
DOWNS = ("mlp.c_proj", "mlp.down_proj", "mlp.dense_4h_to_h", "fc2")
"""Last linear maps of MLPs."""


def patched(
    model: PreTrainedModel,
    tokens: Tensor,
    other: Tensor,
    mask: Tensor,
    shares: Mapping[str, float | Tensor],
) -> Tensor:
    """Logits when each named part is `share` of itself and the rest what it is on `other`.

    A share is a number or, of each token, `[batch, pos, 1]`.
    """
    there: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in shares:
            hooks.enter_context(
                _hook(model, name, lambda x, name=name: there.update({name: x}) or x)
            )
        plain_logits(model, other, mask)
    with ExitStack() as hooks:
        for name, share in shares.items():

            def mix(now: Tensor, name: str = name, share: float | Tensor = share) -> Tensor:
                return share * now + (1 - share) * there[name]

            hooks.enter_context(_hook(model, name, mix))
        return plain_logits(model, tokens, mask)


def _hook(model: PreTrainedModel, name: str, edit):
    """A hook that puts `edit` of one part's activation in its place."""
    if name == "input":
        return layers_of(model)[0].register_forward_pre_hook(
            lambda _, args, kwargs: _first(args, kwargs, edit), with_kwargs=True
        )
    node, _, part = name.partition(".n" if name.startswith("m") else ".h")
    layer = layers_of(model)[int(node[1:])]
    if name.startswith("a"):
        width = found(layer, OUTPUTS).weight.shape
        n_heads = model.config.num_attention_heads
        d_in = width[0] if not isinstance(found(layer, OUTPUTS), nn.Linear) else width[1]
        size = d_in // n_heads
        return _columns(
            found(layer, OUTPUTS), slice(int(part) * size, (int(part) + 1) * size), edit
        )
    if part:
        return _columns(found(layer, DOWNS), slice(int(part), int(part) + 1), edit)
    behind = getattr(layer, "post_feedforward_layernorm", None)
    module = found(layer, ("mlp",)) if behind is None else behind
    return module.register_forward_hook(lambda _, args, output: edit(output))


def _first(args, kwargs, edit):
    if args:
        return (edit(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}


def _columns(module: nn.Module, columns: slice, edit):
    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = args[0].clone()
        values[..., columns] = edit(values[..., columns].clone())
        return (values, *args[1:])

    return module.register_forward_pre_hook(before)


def found(layer: nn.Module, paths: tuple[str, ...]) -> nn.Module:
    """The first of these modules that a layer has."""
    known = dict(layer.named_modules())
    return next(known[path] for path in paths if path in known)


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """Its transformer blocks."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return list(max(lists, key=lambda one: sum(p.numel() for p in one.parameters())))


def as_batch(prompts) -> Batch:
    """Prompts as the package's batch, with answers."""
    rows = len(prompts.last)
    index = torch.arange(rows)
    answers, wrong = torch.full((rows, 1), 5), torch.full((rows, 1), 6)
    return Batch(index, prompts.clean, prompts.corrupt, prompts.mask, prompts.last, answers, wrong)


def eap(model: PreTrainedModel, batch: Batch, names: list[str], metric) -> dict[str, Tensor]:
    """`sum <other - now, d metric / d part>` of each part."""
    return {name: own.sum() for name, own in eap_by_token(model, batch, names, metric).items()}


def eap_by_token(
    model: PreTrainedModel, batch: Batch, names: list[str], metric
) -> dict[str, Tensor]:
    """`<other - now, d metric / d part>` at each token, by a hook that keeps its gradient."""
    there: dict[str, Tensor] = {}
    now: dict[str, Tensor] = {}

    def keep(x: Tensor, name: str) -> Tensor:
        now[name] = x.detach().requires_grad_()
        return now[name]

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(
                _hook(model, name, lambda x, name=name: there.update({name: x}) or x)
            )
        plain_logits(model, batch.corrupt, batch.mask)
    scores = {}
    for name in names:
        with ExitStack() as hooks:
            hooks.enter_context(_hook(model, name, lambda x, name=name: keep(x, name)))
            with torch.enable_grad():
                logits = model(input_ids=batch.clean, attention_mask=batch.mask.long()).logits
                rows = torch.arange(len(batch))
                value = metric(logits[rows, batch.last], batch).sum()
                (gradient,) = torch.autograd.grad(value, now[name])
        scores[name] = ((there[name] - now[name].detach()) * gradient).sum(-1)
    return scores
