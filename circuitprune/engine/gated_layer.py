"""One layer of a gated run: what its modules are replaced by, in the order in which they run."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from circuitprune.circuits.graph import Block
from circuitprune.engine.gated_stream import GatedStream
from circuitprune.engine.gathering import gathered_back
from circuitprune.engine.mixer import Mixer
from circuitprune.engine.projecting import norm_project
from circuitprune.models.changes import Branch, Change, Forward, Output, with_output
from circuitprune.models.norms import Projection


class GatedLayer:
    """The hooks of one layer, and what one hands to the next.

    Args:
        stream: What all layers share.
        layer: Its number.

    Attributes:
        pending: Outputs of the projections that have not been called yet.
        mlp_input: What the MLP reads of the writers in front of the layer: lives until the MLP.
        heads: The layer's ablated head sum: lives from the output projection to the MLP. In a
            parallel layer it joins the base only then, as the MLP reads nothing of its own layer.
    """

    def __init__(self, stream: GatedStream, layer: int) -> None:
        self.stream, self.layer, self.graph = stream, layer, stream.graph
        self.parts = stream.parts
        self.modules, self.block = stream.ports.layers[layer], stream.ports.blocks[layer]
        is_last = layer == self.graph.n_layers - 1
        self.written_at = self.parts.answers if is_last else self.parts.everywhere
        """Where what this layer writes is read: behind the last one by the logits alone."""
        self.mlp = self.graph.mlp_block(layer)
        self.pending: dict[nn.Module, Tensor] = {}
        self.mlp_input: Tensor | None = None
        self.heads: Tensor | None = None

    def forward(self) -> Branch:
        """The layer's own forward, which of a sharded model sees to its weights on the way back."""
        forward, block = self.block.forward, self.block
        return (
            gathered_back(self.parts, block, forward) if isinstance(block, FSDPModule) else forward
        )

    def changes(self) -> list[Change]:
        """The forwards of the layer's modules to replace while Hugging Face's own runs."""
        modules = self.modules
        return [
            *((module, "forward", self._projection(module)) for module in modules.projections),
            (modules.output, "forward", self._write_heads),
            (modules.mlp, "forward", self._through_mlp(modules.mlp.forward)),
            (self.block, "forward", self.forward()),
        ]

    # ---------------------------------------------------------------- the hooks

    def _projection(self, module: nn.Module) -> Forward:
        def projection(_hidden: Tensor) -> Tensor:
            if module not in self.pending:
                outputs = self._read_attention()
                self.pending.update(zip(self.modules.projections, outputs, strict=True))
            return self.pending.pop(module)

        return projection

    def _write_heads(self, values: Tensor) -> Tensor:
        weight, slots = self.stream.ports.head_weight(self.layer), self.graph.heads(self.layer)
        ablated = self.stream.ablated(slots)
        self.heads = ablated.sum(dim=0)
        self.parts.write_heads(values, slots, self.written_at, weight, ablated)
        if not self.graph.parallel:
            self.heads = self.stream.add_heads(self.layer, self.heads)
        return self.stream.nothing()

    def _through_mlp(self, forward: Branch) -> Branch:
        def mlp(hidden: Tensor) -> Output:
            reader = self.modules.mlp_norm(self._read_mlp())
            result = forward(reader.view(len(hidden), -1, self.graph.d_model))
            written = self.modules.mlp_writes(result, len(hidden))
            writer = self.graph.mlp_writer(self.layer)
            ablated = self.stream.ablated(slice(writer, writer + 1))[0]
            if self.graph.parallel:
                assert self.heads is not None
                self.stream.add_heads(self.layer, self.heads)
            self.parts.add_to_base(writer, ablated)
            self.parts.write(written, writer, self.written_at, ablated)
            self.mlp_input = self.heads = None
            return with_output(result, self.stream.nothing())

        return mlp

    # ---------------------------------------------------------------- what its readers see

    def _read_attention(self) -> list[Tensor]:
        """What each projection module returns: q, k, v of every reader's own input."""
        heads: list[Tensor] = []
        # the answers' readers last, so that their gradients come first, with those of the logits
        for mixer in self.stream.mixers_of(self.layer):
            for block, readers in self.parts.read(mixer, self.layer).items():
                if block.kind == "mlp":
                    self.mlp_input = readers
                else:
                    heads.insert(0, self._projected(mixer, block, readers))
        shape = self.stream.n_batch, self.stream.n_pos
        whole = heads[0] if len(heads) == 1 else torch.cat(heads)
        return [part.unflatten(0, shape) for part in self.stream.ports.join(whole)]

    def _projected(
        self, mixer: Mixer, block: Block, readers: Float[Tensor, "reader _ d_model"]
    ) -> Float[Tensor, "reader token d_head"]:
        """q, k or v of some readers at all positions: 0 where nothing reads them."""
        norm, where = self.modules.attention_norm, mixer.where
        projections = self._projections(mixer.rows_of(block))
        if self.stream.post_norms:
            readers = self.stream.normed(readers, block, where)
            return norm_project(readers, norm, projections, None)
        heads = norm_project(readers, norm, projections, lambda: mixer.again(block))
        return where.among_all(heads)

    def _projections(self, rows: range) -> tuple[Projection, ...]:
        """Those of some rows of the attention's readers."""
        chosen, first = [], 0
        for projection in self.stream.ports.projections(self.layer):
            if first in rows:
                chosen.append(projection)
            first += len(projection.weight)
        return tuple(chosen)

    def _read_mlp(self) -> Float[Tensor, "1 _ d_model"]:
        """The MLP's input: the share that was read with the attention, and its own heads."""
        where, shared = self.written_at, self.mlp_input
        assert shared is not None and self.heads is not None
        if not self.graph.parallel:
            shared = shared + where.of(self.heads)
        if self.graph.parallel or self.stream.post_norms:
            return self.stream.normed(shared, self.mlp, where)
        return self.parts.mix(self.mlp, self.graph.heads(self.layer), where, shared)
