"""The modules and weights by which a Hugging Face model reads and writes its residual stream."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from inspect import signature
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.activations import NewGELUActivation

from circuitprune.circuits.graph import Graph
from circuitprune.data.batches import Prefix
from circuitprune.errors import ModelError
from circuitprune.models.changes import Change, Output, counted
from circuitprune.models.families import family_of
from circuitprune.models.layer_ports import bias_of, find, in_out, layer_ports
from circuitprune.models.layouts import layout
from circuitprune.models.norms import Projection
from circuitprune.models.past import behind, with_cache
from circuitprune.models.post_norms import PostNorms
from circuitprune.models.sharding import is_sharded
from circuitprune.models.span import Span

KV_READERS = ("kv_head", "query_head")


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
        self.family = family_of(config)
        self.final_norm = find(model, self.family.final_norm)
        layers = list(find(model, self.family.layers).children())
        scale = float(self.family.scale(config))
        self.layers = tuple(layer_ports(layer, self.family, scale) for layer in layers)
        self.blocks = tuple(layers)
        self.first_layer = layers[0]
        n_heads = config.num_attention_heads
        self.d_head: int = in_out(self.layers[0].output).shape[0] // n_heads
        self.n_kv_heads = n_kv_heads = self._count_kv_heads(n_heads)
        if kv_readers == "query_head" and n_kv_heads < n_heads and not self.family.ungroup:
            raise ModelError(
                f"the key/value heads of family {config.model_type!r} cannot be split by query "
                "head: its attention knows one norm or one layout for each KV head. Set "
                "model.kv_readers=kv_head"
            )
        self.graph = Graph(
            n_layers=len(self.layers),
            n_heads=n_heads,
            n_kv_readers=n_kv_heads if kv_readers == "kv_head" else n_heads,
            parallel=bool(self.family.parallel(config)),
            d_model=config.hidden_size,
            coupled=self.family.coupled,
        )
        self.clips = getattr(config, "clip_qkv", None) is not None
        """Whether attention clamps its projections' outputs, in place in some families."""
        self.accepted = signature(model.forward).parameters
        """Arguments of the model's forward."""
        self.n_batch = 0
        """Examples of the latest run."""
        self.post_norms = PostNorms(self.graph, [p.attention_post_norm for p in self.layers])
        self.gelus = [m for m in model.modules() if isinstance(m, NewGELUActivation)]
        self.is_sharded = is_sharded(model)
        self._readers = [] if self.is_sharded else [*map(self._projections_of, range(len(layers)))]

    # ---------------------------------------------------------------- weights by head

    def projections(self, layer: int) -> tuple[Projection, Projection, Projection]:
        """A layer's q, k and v, per reader: views of weights, of a sharded layer while it runs."""
        return self._projections_of(layer) if self.is_sharded else self._readers[layer]

    def _projections_of(self, layer: int) -> tuple[Projection, Projection, Projection]:
        parts: list[Projection] = []
        for module in self.layers[layer].projections:
            weights, bias = self._by_head(in_out(module)), bias_of(module)
            biases = (None,) * len(weights) if bias is None else self._by_head(bias)
            for weight, head_bias in zip(weights, biases, strict=True):
                parts.append(self._widen(weight.transpose(0, 1), head_bias))
        q, k, v = parts
        return q, k, v

    def _count_kv_heads(self, n_heads: int) -> int:
        """KV heads by the widths of the projections: not every config names them."""
        width: int = sum(in_out(module).shape[1] for module in self.layers[0].projections)
        n_kv, rest = divmod(width - n_heads * self.d_head, 2 * self.d_head)
        if rest or n_kv < 1 or n_heads % n_kv:
            raise ModelError(
                f"projections {width} wide do not hold queries for {n_heads} of {self.d_head} "
                "each, with keys and values alike; the family's declaration does not fit this "
                "model"
            )
        return n_kv

    def _by_head(
        self, columns: Shaped[Tensor, "*any width"]
    ) -> tuple[Shaped[Tensor, "*any _ d_head"], ...]:
        """A projection's columns by port: one part, or q, k and v where they are fused."""
        if self.family.fused == "no":
            return (columns.unflatten(-1, (-1, self.d_head)),)
        n_heads = self.graph.n_heads
        n_kv = (columns.shape[-1] // self.d_head - n_heads) // 2
        return layout(self.family.fused, n_heads, n_kv, self.d_head).split(columns)

    def _widen(self, weight: Tensor, bias: Tensor | None) -> Projection:
        """Repeat a KV head's weights for each query head when readers count by query head."""
        repeat = self.graph.n_kv_readers // weight.shape[0]
        if repeat > 1:
            weight = weight.repeat_interleave(repeat, dim=0)
            bias = None if bias is None else bias.repeat_interleave(repeat, dim=0)
        return Projection(weight.detach(), None if bias is None else bias.detach())

    def head_weight(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What each head's values are multiplied by on their way into the residual stream."""
        weight = self.layers[layer].scaled(in_out(self.layers[layer].output).detach())
        by_head: Tensor = weight.unflatten(0, (self.graph.n_heads, self.d_head))
        return by_head

    def attention_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Bias of the output projection; it belongs to no head and is always on."""
        bias = bias_of(self.layers[layer].output)
        return None if bias is None else self.layers[layer].scaled(bias.detach())

    def join(
        self, heads: Float[Tensor, "reader token d_head"]
    ) -> list[Float[Tensor, "token width"]]:
        """What each projection module must return so that HF's attention sees these q, k, v."""
        n_kv = self.graph.n_kv_readers
        parts = heads.transpose(0, 1).split([self.graph.n_heads, n_kv, n_kv], dim=1)
        if self.family.fused == "no":
            return [self.together((part,)) for part in parts]
        return [self.together(parts)]

    def together(
        self, parts: Sequence[Float[Tensor, "*any _ d_head"]]
    ) -> Float[Tensor, "*any width"]:
        """One projection module's output, from one part or from q, k and v where they are fused."""
        if self.family.fused == "no":
            whole: Tensor = parts[0].flatten(-2)
            return whole
        n_heads, n_kv, d_head = self.graph.n_heads, parts[1].shape[-2], self.d_head
        q, k, v = parts
        return layout(self.family.fused, n_heads, n_kv, d_head).join((q, k, v))

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
            wide.append(part.values.transpose(0, 1).repeat_interleave(repeat, dim=1))
        whole: Tensor = self.together(wide).unflatten(0, output.shape[:2])
        return whole

    def ungrouping(self) -> list[Change]:
        """Changes that keep HF from repeating KV heads that are already one per reader."""
        if self.graph.n_kv_readers == self.n_kv_heads:
            return []
        n_heads = self.graph.n_heads
        numbers = {name: 1 if name.endswith("groups") else n_heads for name in self.family.ungroup}
        return [
            (layer.attention, name, number)
            for layer in self.layers
            for name, number in numbers.items()
        ]

    # ---------------------------------------------------------------- calls

    def run(
        self,
        tokens: Tensor,
        mask: Tensor,
        last: Tensor | None,
        prefix: Prefix | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Logits of HF's own forward, at all positions or only at `last`.

        The unembedding is the largest product of a small model, so with `last` the final norm's
        output is narrowed to those positions before it.

        Args:
            tokens, mask, last, prefix: See `Prompts`; attention scores add a mask of 4 axes.
            cache: Takes up the run's keys and values.

        Raises:
            ModelError: the model is in training mode.
        """
        if self.model.training:
            raise ModelError(
                "the model was put in training mode while it is under gates: its dropout, or what "
                "is run again for gradient checkpointing, would change numbers; call model.eval()"
            )
        self.n_batch = len(tokens)
        padded = mask if mask.ndim == 4 else None if bool(mask.all()) else mask.long()
        call: dict[str, object] = dict(input_ids=tokens, attention_mask=padded, use_cache=False)
        if cache is not None:
            call |= with_cache(cache, self.accepted)
        if prefix is not None:
            call |= behind(prefix, tokens, self.accepted)
        with self.fused_activations():
            if last is None:
                logits: Tensor = self.model(**call).logits
                return logits
            # an index, not a count: HF then copies the position, and the unembedding is one plain
            # product; on the stride-0 view of `narrow` it would be a batched one, ten times slower
            keep = torch.tensor([tokens.shape[1] - 1], device=tokens.device)
            logits = self.model(**call, logits_to_keep=keep).logits
            return logits[:, -1]

    def unembed(self, stream: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Logits of streams in front of the final norm: all behind it is Hugging Face's own."""
        forward = self.final_norm.forward
        tokens = torch.zeros(len(stream), 1, dtype=torch.long, device=stream.device)
        changes: list[Change] = [
            *((block, "forward", self.pass_over) for block in self.blocks),
            (self.final_norm, "forward", lambda _: forward(stream.unsqueeze(1))),
        ]
        with self.intercept(changes):
            logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits[:, 0]

    def pass_over(self, hidden: Tensor, *_: object, **__: object) -> Output:
        """A layer's forward that does nothing."""
        hidden = hidden.clone() if self.is_sharded else hidden  # of a view FSDP would warn
        return (hidden, None) if self.family.returns_tuple else hidden

    @cached_property
    def more_returned(self) -> dict[nn.Module, int]:
        """How many things each attention and MLP returns behind its output, where it is a tuple.

        Asked of the model by a run of one token, as it differs between families and versions.
        """
        found: dict[nn.Module, int] = {}
        branches = [part for layer in self.layers for part in (layer.attention, layer.mlp)]
        changes: list[Change] = [(m, "forward", counted(m, found)) for m in branches]
        token = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        with torch.no_grad(), self.intercept(changes):
            self.run(token, torch.ones_like(token, dtype=torch.bool), None)
        return found

    def returned(self, branch: nn.Module, output: Tensor) -> Output:
        """An output in the form in which an attention or MLP returns it, with None for the rest."""
        n = self.more_returned.get(branch)
        return output if n is None else (output, *[None] * n)

    def writable(self, output: Tensor) -> Tensor:
        """An output whose elements may share memory, for a layer that may add into it."""
        return output.clone() if self.family.adds_in_place else output

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
        changes = [one for change in changes for one in self._of_model(change)]
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

    def _of_model(self, change: Change) -> list[Change]:
        """The same change, and what it means for the model's own modules."""
        module, name, value = change
        if isinstance(module, Span) and name == "forward":
            assert callable(value)
            return [change, *module.bridge(value, lambda: self.n_batch)]
        return [change]
