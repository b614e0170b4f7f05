"""One layer of a gated run: what its modules are replaced by, in the order in which they run."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitprune.engine.gated_stream import GatedStream
from circuitprune.engine.positions import Positions
from circuitprune.engine.projecting import norm_project
from circuitprune.engine.stream import mixed
from circuitprune.models.changes import Branch, Change, Forward, Output, with_output


class GatedLayer:
    """The hooks of one layer, and what one hands to the next.

    Args:
        stream: What all layers share.
        layer: Its number.

    Attributes:
        pending: Outputs of the projections that have not been called yet.
        mlp_input: The MLP's input as far as it was read with the attention's: lives until the MLP.
        heads: The layer's ablated head sum: lives from the output projection to the MLP. In a
            parallel layer it joins the base only then, as the MLP reads nothing of its own layer.
    """

    def __init__(self, stream: GatedStream, layer: int) -> None:
        self.stream, self.layer, self.graph = stream, layer, stream.graph
        self.parts, self.gates = stream.parts, stream.gates
        self.modules, self.projections = stream.ports.layers[layer], stream.ports.readers[layer]
        self.is_last = layer == self.graph.n_layers - 1
        self.written_at = self.parts.answers if self.is_last else self.parts.everywhere
        """Where what this layer writes is read: behind the last one by the logits alone."""
        self.attention = self.graph.attention_block(layer)
        self.mlp = self.graph.mlp_block(layer)
        self.pending: dict[nn.Module, Tensor] = {}
        self.mlp_input: Tensor | None = None
        self.heads: Tensor | None = None

    def changes(self) -> list[Change]:
        """The forwards of the layer's modules to replace while Hugging Face's own runs."""
        modules = self.modules
        return [
            *((module, "forward", self._projection(module)) for module in modules.projections),
            (modules.output, "forward", self._write_heads),
            (modules.mlp, "forward", self._through_mlp(modules.mlp.forward)),
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
            if self.graph.parallel and self.heads is not None:
                self.stream.add_heads(self.layer, self.heads)
            self.parts.base += ablated
            self.parts.write(written, writer, self.written_at, ablated)
            self.mlp_input = self.heads = None
            return with_output(result, self.stream.nothing())

        return mlp

    # ---------------------------------------------------------------- what its readers see

    def _read_attention(self) -> list[Tensor]:
        """What each projection module returns: q, k, v of every reader's own input."""
        stream = self.stream
        if self.is_last and stream.last is not None and not stream.post_norms:
            heads = self._read_last_attention(stream.last)
        else:
            heads = self._read_whole_attention()
        shape = stream.n_batch, stream.n_pos
        return [part.unflatten(0, shape) for part in stream.ports.join(heads)]

    def _read_whole_attention(self) -> Float[Tensor, "reader token d_head"]:
        """q, k and v of a layer at all positions."""
        parts, n_readers, keep = self.parts, self.attention.n_readers, self._worth_keeping()
        into = parts.room_for_readers(n_readers + 1) if keep else parts.scratch
        readers = self._read_with_mlp(slice(0, n_readers), parts.everywhere, into)
        again = None if keep else self._mixer()
        return norm_project(readers, parts, self.modules.attention_norm, self.projections, again)

    def _read_last_attention(self, last: Tensor) -> Float[Tensor, "reader token d_head"]:
        """q, k and v of the last layer; a query matters only where an answer is, elsewhere it is 0.

        What other positions attend to is read by nobody: the logits see the answer positions alone.
        """
        block, n_heads, parts = self.attention, self.graph.n_heads, self.parts
        norm, (q, k, v) = self.modules.attention_norm, self.projections
        into = parts.room_for_readers(block.n_readers - n_heads)
        gates, writers = self.gates[block][n_heads:], slice(0, block.n_writers)
        readers = parts.mix(gates, writers, parts.everywhere, into=into)
        keys_values = norm_project(readers, parts, norm, (k, v), None)
        # behind the keys and values, so that its gradients come first: with those of the logits
        answers = self._read_with_mlp(slice(0, n_heads), parts.answers, None)
        answers = norm_project(answers, parts, norm, (q,), None)
        n_batch, n_pos = self.stream.n_batch, self.stream.n_pos
        rows = torch.arange(n_batch, device=last.device) * n_pos + last
        queries = answers.new_zeros(n_heads, n_batch * n_pos, answers.shape[-1])
        return torch.cat([queries.index_copy(1, rows, answers), keys_values])

    def _read_with_mlp(
        self, rows: slice, where: Positions, into: Tensor | None
    ) -> Float[Tensor, "reader token d_model"]:
        """Inputs of some of the attention's readers, and what the MLP reads of the same writers.

        One row more of a product that reads every writer costs far less than reading them again.
        """
        gates = self.gates[self.attention][rows]
        if self.stream.post_norms:
            return self.stream.read(gates, where)
        n_writers = self.attention.n_writers
        both = torch.cat([gates, self.gates[self.mlp][:, :n_writers]])
        readers, self.mlp_input = self.parts.mix_two(
            both, slice(0, n_writers), where, None, into, len(gates)
        )
        return readers

    def _read_mlp(self) -> Float[Tensor, "1 token d_model"]:
        """The MLP's input: the share that was read with the attention, and its own heads."""
        gates, where, shared = self.gates[self.mlp], self.written_at, self.mlp_input
        if shared is None:
            return self.stream.read(gates, where)
        if self.graph.parallel:
            return shared.clone()  # the buffer it lies in is used again, and the norm keeps it
        assert self.heads is not None
        heads = self.graph.heads(self.layer)
        return self.parts.mix(gates[:, heads], heads, where, shared + where.of(self.heads))

    def _worth_keeping(self) -> bool:
        """Whether the backward pass should find the reader inputs instead of mixing again.

        They are the largest tensors of a step. Mixing few writers again costs less time than
        keeping the result costs memory; behind post-norms it would cost those norms again.
        """
        if not self.stream.differentiable:
            return False
        block = self.attention
        return bool(self.stream.post_norms) or block.n_writers > 2.4 * block.n_readers

    def _mixer(self) -> Callable[[], Tensor]:
        """A function that mixes the attention's reader inputs once more, into the scratch."""
        gates, parts = self.gates[self.attention].detach(), self.parts
        base = parts.base.clone() if self.stream.differentiable else parts.base
        writers = slice(0, self.attention.n_writers)

        def mix() -> Tensor:
            parts.base.copy_(base)  # the run is over: nothing else reads it
            return mixed(gates, writers, parts.everywhere, None, parts.scratch)

        return mix
