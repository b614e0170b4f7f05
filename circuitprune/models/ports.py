"""The modules and weights by which a Hugging Face model reads and writes its residual stream."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from circuitprune.circuits.graph import Graph
from circuitprune.errors import ModelError
from circuitprune.models.families import Family, family_of
from circuitprune.models.norms import Projection
from circuitprune.models.post_norms import PostNorms

KV_READERS = ("kv_head", "query_head")
Change = tuple[object, str, object]
"""(module, attribute, replacement), such as a module's `forward` while a run lasts."""
Forward = Callable[..., Tensor]
"""What stands in for the `forward` of a module that returns one tensor."""
Output = Tensor | tuple[Tensor | None, ...]
"""What an attention or an MLP of Hugging Face returns: its output, in some with more behind it."""
Branch = Callable[..., Output]
"""What stands in for the `forward` of an attention, an MLP or a whole layer."""


@dataclass(frozen=True)
class LayerPorts:
    """The modules of one layer that the engine intercepts or calls."""

    attention: nn.Module
    projections: tuple[nn.Module, ...]
    output: nn.Module
    mlp: nn.Module
    attention_norm: nn.Module
    mlp_norm: nn.Module
    attention_post_norm: nn.Module | None
    mlp_post_norm: nn.Module | None

    @property
    def mlp_end(self) -> nn.Module:
        """The module whose output is what the MLP adds to the residual stream."""
        return self.mlp if self.mlp_post_norm is None else self.mlp_post_norm

    def after_mlp(self, output: Tensor) -> Tensor:
        """What the MLP's own output adds to the residual stream: behind a norm in some families."""
        return output if self.mlp_post_norm is None else self.mlp_post_norm(output)


class HeadSlice(NamedTuple):
    """The part of a projection's output that belongs to the q (0), k (1) or v (2) readers."""

    port: int
    first: int
    """Position of the first of these readers in the attention block."""
    values: Float[Tensor, "head token d_head"]


class Ports:
    """A model's ports, found by its family's declaration, and the graph they span.

    Args:
        model: An `AutoModelForCausalLM` of a declared family; it is never changed.
        kv_readers: `kv_head`: key/value readers belong to KV heads (default);
            `query_head`: to query heads, as EAP-IG and MIB count.

    Raises:
        ModelError: undeclared family, or a module that the declaration names is missing.
    """

    def __init__(self, model: PreTrainedModel, kv_readers: str = "kv_head") -> None:
        if kv_readers not in KV_READERS:
            raise ModelError(f"kv_readers must be one of {KV_READERS}, got {kv_readers!r}")
        config = model.config.get_text_config()
        self.model = model
        self.family = family_of(config.model_type)
        self.final_norm = _find(model, self.family.final_norm)
        layers = list(_find(model, self.family.layers).children())
        self.layers = tuple(_layer_ports(layer, self.family) for layer in layers)
        self.blocks = tuple(layers)
        self.first_layer = layers[0]
        n_heads = config.num_attention_heads
        n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
        self.d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
        self.n_kv_heads = n_kv_heads
        self.graph = Graph(
            n_layers=len(self.layers),
            n_heads=n_heads,
            n_kv_readers=n_kv_heads if kv_readers == "kv_head" else n_heads,
            parallel=bool(self.family.parallel(config)),
            d_model=config.hidden_size,
        )
        self.post_norms = PostNorms(self.graph, [p.attention_post_norm for p in self.layers])
        self.gelus = [m for m in model.modules() if isinstance(m, NewGELUActivation)]
        self.readers = [self._projections_of(layer) for layer in range(len(self.layers))]

    # ---------------------------------------------------------------- weights by head

    def _projections_of(self, layer: int) -> tuple[Projection, Projection, Projection]:
        """The q, k and v projections of a layer, per reader; views of the model's own weights."""
        parts: list[Projection] = []
        for module in self.layers[layer].projections:
            weights, bias = self._by_head(_in_out(module)), _bias(module)
            biases = (None,) * len(weights) if bias is None else self._by_head(bias)
            for weight, head_bias in zip(weights, biases, strict=True):
                parts.append(self._widen(weight.transpose(0, 1), head_bias))
        q, k, v = parts
        return q, k, v

    def _by_head(
        self, columns: Shaped[Tensor, "*any width"]
    ) -> tuple[Shaped[Tensor, "*any head d_head"], ...]:
        """A projection's columns by port: one part, or q, k and v where they are fused."""
        if self.family.fused == "per_head":
            return tuple(columns.unflatten(-1, (self.graph.n_heads, 3, self.d_head)).unbind(-2))
        heads = columns.unflatten(-1, (-1, self.d_head))
        if self.family.fused == "no":
            return (heads,)
        n_kv = (heads.shape[-2] - self.graph.n_heads) // 2
        return tuple(heads.split([self.graph.n_heads, n_kv, n_kv], dim=-2))

    def _widen(self, weight: Tensor, bias: Tensor | None) -> Projection:
        """Repeat a KV head's weights for each query head when readers count by query head."""
        repeat = self.graph.n_kv_readers // weight.shape[0]
        if repeat > 1:
            weight = weight.repeat_interleave(repeat, dim=0)
            bias = None if bias is None else bias.repeat_interleave(repeat, dim=0)
        return Projection(weight.detach(), None if bias is None else bias.detach())

    def head_weight(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What each head's values are multiplied by on their way into the residual stream."""
        weight = _in_out(self.layers[layer].output)
        by_head: Tensor = weight.detach().unflatten(0, (self.graph.n_heads, self.d_head))
        return by_head

    def attention_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Bias of the output projection; it belongs to no head and is always on."""
        bias = _bias(self.layers[layer].output)
        return None if bias is None else bias.detach()

    def join(
        self, heads: Float[Tensor, "reader token d_head"]
    ) -> list[Float[Tensor, "token width"]]:
        """What each projection module must return so that HF's attention sees these q, k, v."""
        tokens = heads.transpose(0, 1)
        if self.family.fused == "blocks":
            return [tokens.flatten(1)]
        if self.family.fused == "per_head":
            return [tokens.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)]
        n_kv = self.graph.n_kv_readers
        return [part.flatten(1) for part in tokens.split([self.graph.n_heads, n_kv, n_kv], dim=1)]

    def split(self, module: int, output: Float[Tensor, "batch pos width"]) -> list["HeadSlice"]:
        """A projection module's output (or its gradient) by port, heads first; undoes `join`."""
        n_heads, n_kv = self.graph.n_heads, self.graph.n_kv_readers
        firsts = (0, n_heads, n_heads + n_kv)
        parts = self._by_head(output.flatten(0, 1))
        return [
            HeadSlice(port, firsts[port], part.transpose(0, 1))
            for port, part in enumerate(parts, start=module)
        ]

    def widen(self, module: int, output: Tensor) -> Tensor:
        """A projection module's output, each KV head repeated for the readers it serves."""
        if self.graph.n_kv_readers == self.n_kv_heads:
            return output
        wide = []
        for part in self.split(module, output):
            repeat = 1 if part.port == 0 else self.graph.n_kv_readers // self.n_kv_heads
            heads = part.values.transpose(0, 1).repeat_interleave(repeat, dim=1)
            wide.append(heads.flatten(1).unflatten(0, output.shape[:2]))
        return torch.cat(wide, dim=-1)

    def ungrouping(self) -> list[Change]:
        """Changes that keep HF from repeating KV heads that are already one per reader."""
        if self.graph.n_kv_readers == self.n_kv_heads:
            return []
        return [(layer.attention, "num_key_value_groups", 1) for layer in self.layers]

    # ---------------------------------------------------------------- calls

    def run(self, tokens: Tensor, mask: Tensor, last: Tensor | None) -> Tensor:
        """Logits of HF's own forward, at all positions or only at `last`.

        The unembedding is the largest product of a small model, so with `last` the final norm's
        output is narrowed to those positions before it.

        Raises:
            ModelError: the model is in training mode.
        """
        if self.model.training:
            raise ModelError(
                "the model was put in training mode while it is under gates: its dropout, or what "
                "is run again for gradient checkpointing, would change numbers; call model.eval()"
            )
        padded = None if bool(mask.all()) else mask.long()
        call = dict(input_ids=tokens, attention_mask=padded, use_cache=False)
        with self.fused_activations():
            if last is None:
                logits: Tensor = self.model(**call).logits
                return logits
            # an index, not a count: HF then copies the position, and the unembedding is one plain
            # product; on the stride-0 view of `narrow` it would be a batched one, ten times slower
            keep = torch.tensor([tokens.shape[1] - 1], device=tokens.device)
            logits = self.model(**call, logits_to_keep=keep).logits
            return logits[:, -1]

    def fused_activations(self) -> AbstractContextManager[None]:
        """HF spells one GELU out in eight tensors; the same function is one kernel in torch.

        Every part of a run needs it or none: in bfloat16 the two differ by as much as an edge.
        """
        fused = partial(F.gelu, approximate="tanh")
        own = [act for act in self.gelus if "forward" not in act.__dict__]
        return self.intercept([(act, "forward", fused) for act in own])

    @contextmanager
    def intercept(self, changes: Sequence[Change]) -> Iterator[None]:
        """Set instance attributes, such as `forward` of a module, for a run; always restored."""
        missing = object()
        saved = [(m, name, m.__dict__.get(name, missing)) for m, name, _ in changes]
        try:
            for module, name, value in changes:
                object.__setattr__(module, name, value)
            yield
        finally:
            for module, name, value in reversed(saved):
                if value is missing:
                    module.__dict__.pop(name, None)
                else:
                    object.__setattr__(module, name, value)


def narrow(forward: Forward, last: Tensor | None) -> Forward:
    """A final norm that computes only position `last` and returns it at every position.

    The repetition is a stride-0 view: HF's own `logits_to_keep=1` then unembeds one position.
    """

    def final_norm(hidden: Tensor) -> Tensor:
        if last is None:
            return forward(hidden)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return forward(hidden[rows, last]).unsqueeze(1).expand_as(hidden)

    return final_norm


def output_of(result: Output) -> Tensor:
    """The output in what a branch returned."""
    if isinstance(result, Tensor):
        return result
    output = result[0]
    assert output is not None
    return output


def with_output(result: Output, output: Tensor) -> Output:
    """What a branch returned, with another output."""
    return output if isinstance(result, Tensor) else (output, *result[1:])


def _in_out(module: nn.Module) -> Tensor:
    """A projection's weight as [in, out]."""
    if isinstance(module, Conv1D):
        return module.weight
    if isinstance(module, nn.Linear):
        return module.weight.T
    raise ModelError(
        f"projection {type(module).__name__} is neither nn.Linear nor Conv1D; weights cannot be "
        "split by head (quantised models are not supported: load the model in full precision)"
    )


def _bias(module: nn.Module) -> Tensor | None:
    bias = module.bias
    assert bias is None or isinstance(bias, Tensor)
    return bias


def _find(root: nn.Module, path: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"{type(root).__name__} has no module {path!r}, which its family declares; the "
            "installed transformers may have renamed it (see circuitprune/models/families.py)"
        ) from error


def _layer_ports(layer: nn.Module, family: Family) -> LayerPorts:
    attention = _find(layer, family.attention)

    def optional(path: str | None) -> nn.Module | None:
        return None if path is None else _find(layer, path)

    return LayerPorts(
        attention=attention,
        projections=tuple(_find(attention, name) for name in family.projections),
        output=_find(attention, family.output),
        mlp=_find(layer, family.mlp),
        attention_norm=_find(layer, family.attention_norm),
        mlp_norm=_find(layer, family.mlp_norm),
        attention_post_norm=optional(family.attention_post_norm),
        mlp_post_norm=optional(family.mlp_post_norm),
    )
