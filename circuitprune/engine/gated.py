"""The one gated forward: an unmodified Hugging Face model under one float per edge.

Every reader r sees `base[r] + sum_w gate[w, r] * delta[w]`, where `delta[w]` is what writer w
wrote in this run minus what it carries when ablated, and `base[r]` is the ablated residual stream
at r with the biases that belong to no writer. `stream.py` holds the arithmetic of it.

Hugging Face's own layers run; only what their projections, MLPs and final norm see is replaced.
Their residual additions see zeros and are ignored.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitprune.circuits.graph import Block
from circuitprune.engine.ablation import Ablated
from circuitprune.engine.positions import Positions
from circuitprune.engine.projecting import norm_project
from circuitprune.engine.recording import record_writers
from circuitprune.engine.stream import Stream, mixed
from circuitprune.engine.workspace import Workspace
from circuitprune.errors import GraphError
from circuitprune.models.ports import (
    Branch,
    Change,
    Forward,
    Output,
    Ports,
    narrow,
    output_of,
    with_output,
)


class GatedModel:
    """A Hugging Face causal language model whose residual-stream edges carry gates.

    The model is held as it is: in eval, its parameters untouched, its modules intercepted only
    while a call runs.

    Args:
        model: A causal language model of a declared family (`circuitprune.models.FAMILIES`).
        kv_readers: `kv_head` or `query_head`; what owns a key/value reader.

    Raises:
        ModelError: the family is not declared or does not fit the model.
    """

    def __init__(self, model: PreTrainedModel, kv_readers: str = "kv_head") -> None:
        self.model = model.eval().requires_grad_(False)
        self.ports = Ports(model, kv_readers)
        self.graph = self.ports.graph
        self.workspace = Workspace()

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        return self.model.dtype

    def __call__(
        self,
        gates: Float[Tensor, " edge"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        ablated: Ablated,
        last: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits with every edge between its own value (gate 1) and its ablated value (gate 0).

        Differentiable in `gates`. See docs/method.md for the equation.

        Args:
            gates: One float per edge of `graph`, in its flat order.
            tokens: Right-padded token ids.
            mask: True on real tokens.
            ablated: What each writer carries when ablated, as `record` returns it.
            last: Compute only these positions; the result is then `[batch, vocab]`.

        Raises:
            GraphError: `gates` or `ablated` do not fit the graph.
        """
        self._check(gates, ablated)
        run = _GatedRun(self.ports, gates, ablated, last, self.workspace)
        try:
            with self.ports.intercept(run.changes()):
                logits = self.ports.run(tokens, mask, last)
        finally:
            run.close()
        if logits.requires_grad:
            logits.register_hook(run.stream.begin_backward)
        return logits

    @torch.no_grad()
    def plain(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        last: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits of the untouched model, at all positions or only at `last`."""
        norm = self.ports.final_norm
        with self.ports.intercept([(norm, "forward", narrow(norm.forward, last))]):
            return self.ports.run(tokens, mask, last)

    def record(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """What each writer wrote on a plain run."""
        return record_writers(self.ports, tokens, mask)

    def subtract(
        self,
        from_: Float[Tensor, "writer batch pos d_model"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
    ) -> None:
        """Takes what each writer wrote on a plain run off a tensor, in place."""
        record_writers(self.ports, tokens, mask, subtract_from=from_)

    def _check(self, gates: Tensor, ablated: Ablated) -> None:
        if gates.shape != (self.graph.n_edges,):
            raise GraphError(
                f"expected {self.graph.n_edges:,} gates, one per edge, got {tuple(gates.shape)}"
            )
        if ablated.shape[0] != self.graph.n_writers:
            raise GraphError(
                f"expected {self.graph.n_writers} ablated writers, got {ablated.shape[0]}"
            )


class _GatedRun:
    """One gated forward: what Hugging Face's modules are replaced by, in the order they run."""

    def __init__(
        self,
        ports: Ports,
        gates: Tensor,
        ablated: Ablated,
        last: Tensor | None,
        workspace: Workspace,
    ) -> None:
        self.ports, self.graph, self.last = ports, ports.graph, last
        self.differentiable = gates.requires_grad and torch.is_grad_enabled()
        self.ablated = ablated
        sizes = [block.n_readers * block.n_writers for block in self.graph.blocks]
        gates = gates.to(ports.model.dtype)
        blocks = gates.split(sizes)
        self.gates = {
            (b.kind, b.layer): g.view(b.n_readers, b.n_writers)
            for b, g in zip(self.graph.blocks, blocks, strict=True)
        }
        widest = self.graph.attention_block(0).n_readers
        n_dense = self.graph.n_writers
        if last is not None:
            n_dense = self.graph.attention_block(self.graph.n_layers - 1).n_writers
        self.stream = Stream(ablated.shape, last, n_dense, widest, gates, workspace)
        self.n_batch, self.n_pos, self.d_model = ablated.shape[1:]
        self.head_sums: list[Tensor] = []
        self.delayed: Tensor | None = None
        self.mlp_input: Tensor | None = None
        self.written: Tensor
        self.pending: dict[nn.Module, Tensor] = {}

    def close(self) -> None:
        """Let go of what the backward pass does not need, and of the autograd graph itself.

        Its nodes hold this run, and a cycle would keep the buffers beyond their use.
        """
        self.stream.token = self.stream.token.detach()
        self.pending.clear()
        del self.ablated, self.head_sums, self.delayed, self.mlp_input

    # ---------------------------------------------------------------- interception

    def changes(self) -> list[Change]:
        """The instance attributes to replace while Hugging Face's forward runs."""
        changes: list[Change] = [*self.ports.ungrouping()]
        for layer, ports in enumerate(self.ports.layers):
            for module in ports.projections:
                changes.append((module, "forward", self._projection(layer, module)))
            changes.append((ports.output, "forward", self._output(layer)))
            changes.append((ports.mlp, "forward", self._mlp(layer, ports.mlp.forward)))
        first, norm = self.ports.first_layer, self.ports.final_norm
        changes.append((first, "forward", self._first_layer(first.forward)))
        changes.append((norm, "forward", self._final_norm(norm.forward)))
        return changes

    def _first_layer(self, forward: Branch) -> Branch:
        def first_layer(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            self.stream.base.copy_(self._ablated(slice(0, 1))[0])
            torch.sub(hidden.flatten(0, 1), self.stream.base, out=self.stream.delta[0])
            return forward(hidden, *args, **kwargs)

        return first_layer

    def _projection(self, layer: int, module: nn.Module) -> Forward:
        def projection(_hidden: Tensor) -> Tensor:
            if module not in self.pending:
                outputs = self._read_attention(layer)
                self.pending.update(zip(self.ports.layers[layer].projections, outputs, strict=True))
            return self.pending.pop(module)

        return projection

    def _output(self, layer: int) -> Forward:
        def output(values: Tensor) -> Tensor:
            weight = self.ports.head_weight(layer)
            slots = self.graph.heads(layer)
            ablated = self._ablated(slots)
            total = ablated.sum(dim=0)
            self.stream.write_heads(values, slots, self._read_at(layer), weight, ablated)
            if self.graph.parallel:  # the MLP reads nothing of its own layer, not even the bias
                self.delayed = total
            else:
                self._add_heads_to_base(layer, total)
            return self._nothing()

        return output

    def _mlp(self, layer: int, forward: Branch) -> Branch:
        ports = self.ports.layers[layer]

        def mlp(hidden: Tensor) -> Output:
            where = self._read_at(layer)
            reader = self._read_mlp(layer, where)
            result = forward(ports.mlp_norm(reader).view(len(hidden), -1, self.d_model))
            written = output_of(result)
            if ports.mlp_post_norm is not None:
                written = ports.mlp_post_norm(written)
            writer = self.graph.mlp_writer(layer)
            ablated = self._ablated(slice(writer, writer + 1))[0]
            if self.delayed is not None:
                self._add_heads_to_base(layer, self.delayed)
            self.stream.base += ablated
            self.stream.write(written, writer, where, ablated)
            return with_output(result, self._nothing())

        return mlp

    def _final_norm(self, forward: Forward) -> Forward:
        def final_norm(hidden: Tensor) -> Tensor:
            stream = self._read(self.graph.logits_block, self.stream.answers)
            if self.last is None:
                return forward(stream.view(hidden.shape))
            return forward(stream[0]).unsqueeze(1).expand_as(hidden)

        return final_norm

    # ---------------------------------------------------------------- reading and writing

    def _read_attention(self, layer: int) -> list[Tensor]:
        """What each projection module of a layer returns: q, k, v of every reader's own input."""
        if self.last is not None and layer == self.graph.n_layers - 1 and not self.ports.sandwich:
            heads = self._read_last_attention(layer, self.last)
        else:
            block = self.graph.attention_block(layer)
            keep = self._worth_keeping(block)
            room = self.stream.room_for_readers
            into = room(block.n_readers + 1) if keep else self.stream.scratch
            readers = self._read_with_mlp(
                layer, slice(0, block.n_readers), self.stream.everywhere, into
            )
            again = None if keep else self._mixer(block)
            norm, projections = self.ports.layers[layer].attention_norm, self.ports.readers[layer]
            heads = norm_project(readers, self.stream, norm, projections, again)
        return [part.unflatten(0, (self.n_batch, self.n_pos)) for part in self.ports.join(heads)]

    def _read_at(self, layer: int) -> Positions:
        """Where what a layer writes is read: behind the last one by the logits alone."""
        last = layer == self.graph.n_layers - 1
        return self.stream.answers if last else self.stream.everywhere

    def _read_last_attention(
        self, layer: int, last: Tensor
    ) -> Float[Tensor, "reader token d_head"]:
        """q, k and v of the last layer; a query matters only where an answer is, elsewhere it is 0.

        What other positions attend to is read by nobody: the logits see the answer positions alone.
        """
        block, n_heads = self.graph.attention_block(layer), self.graph.n_heads
        gates, norm = self.gates["attention", layer], self.ports.layers[layer].attention_norm
        q, k, v = self.ports.readers[layer]
        into = self.stream.room_for_readers(block.n_readers - n_heads)
        readers = self.stream.mix(
            gates[n_heads:], slice(0, block.n_writers), self.stream.everywhere, into=into
        )
        keys_values = norm_project(readers, self.stream, norm, (k, v), None)
        # behind the keys and values, so that its gradients come first: with those of the logits
        answers = self._read_with_mlp(layer, slice(0, n_heads), self.stream.answers, None)
        answers = norm_project(answers, self.stream, norm, (q,), None)
        rows = torch.arange(self.n_batch, device=last.device) * self.n_pos + last
        queries = answers.new_zeros(n_heads, self.n_batch * self.n_pos, self.ports.d_head)
        return torch.cat([queries.index_copy(1, rows, answers), keys_values])

    def _read_with_mlp(
        self, layer: int, rows: slice, where: Positions, into: Tensor | None
    ) -> Float[Tensor, "reader token d_model"]:
        """Inputs of an attention block's readers, and what its MLP reads of the same writers.

        One row more of a product that reads every writer costs far less than reading them again.
        """
        block, mlp = self.graph.attention_block(layer), self.gates["mlp", layer]
        gates = self.gates["attention", layer][rows]
        if self.ports.sandwich:
            return self._read_sandwich(gates, block, where)
        both = torch.cat([gates, mlp[:, : block.n_writers]])
        readers, self.mlp_input = self.stream.mix_two(
            both, slice(0, block.n_writers), where, None, into, len(gates)
        )
        return readers

    def _read_mlp(self, layer: int, where: Positions) -> Float[Tensor, "1 token d_model"]:
        """The input of an MLP: the share that was read with the attention, and its own heads."""
        gates, shared = self.gates["mlp", layer], self.mlp_input
        if shared is None:
            return self._read(self.graph.mlp_block(layer), where)
        if self.graph.parallel:
            return shared.clone()  # the buffer it lies in is used again, and the norm keeps it
        heads = self.graph.heads(layer)
        shared = shared + where.of(self.written)
        return self.stream.mix(gates[:, heads], heads, where, shared)

    def _worth_keeping(self, block: Block) -> bool:
        """Whether the backward pass should find a block's reader inputs instead of mixing again.

        They are the largest tensors of a step. Mixing few writers again costs less time than
        keeping the result costs memory; behind post-norms it would cost those norms again.
        """
        if not self.differentiable:
            return False
        return self.ports.sandwich or block.n_writers > 2.4 * block.n_readers

    def _mixer(self, block: Block) -> Callable[[], Tensor]:
        """A function that mixes a block's reader inputs once more, into the scratch buffer."""
        gates, stream = self.gates[block.kind, block.layer].detach(), self.stream
        base = stream.base.clone() if self.differentiable else stream.base

        def mix() -> Tensor:
            stream.base.copy_(base)  # the run is over: nothing else reads it
            writers = slice(0, block.n_writers)
            return mixed(gates, writers, stream.everywhere, None, stream.scratch)

        return mix

    def _read(self, block: Block, where: Positions) -> Float[Tensor, "reader token d_model"]:
        """The residual input of every reader of a block, at all positions or at the answers."""
        gates = self.gates[block.kind, block.layer]
        if not self.ports.sandwich:
            return self.stream.mix(gates, slice(0, block.n_writers), where)
        return self._read_sandwich(gates, block, where)

    def _read_sandwich(
        self, gates: Tensor, block: Block, where: Positions
    ) -> Float[Tensor, "reader token d_model"]:
        """As `_read`, each earlier layer's gated head sum passing that layer's own post-norm.

        A head's share is not additive behind a norm, so `base` keeps the normed ablated sum and
        each layer adds how far this reader's own normed sum is from it.
        """
        linear = gates.clone()
        for layer in range(len(self.head_sums)):
            linear[:, self.graph.heads(layer)] = 0
        stream = self.stream.mix(linear, slice(0, block.n_writers), where)
        for layer, ablated in enumerate(self.head_sums):
            slots, norm = self.graph.heads(layer), self._post_norm(layer)
            ablated = where.of(ablated).unsqueeze(0)
            heads = self.stream.mix(gates[:, slots], slots, where, ablated)
            stream = stream + norm(heads) - norm(ablated)
        return stream

    def _post_norm(self, layer: int) -> nn.Module:
        norm = self.ports.layers[layer].attention_post_norm
        assert norm is not None
        return norm

    def _ablated(self, writers: slice) -> Float[Tensor, "writer token d_model"]:
        """What some writers carry when ablated; lent until their own place in the stream is used.

        That place is where examples that are kept apart are joined.
        """
        if isinstance(self.ablated, Tensor):
            return self.ablated[writers].flatten(1, 2)
        out = self.stream.delta[writers].unflatten(1, (self.n_batch, self.n_pos))
        return self.ablated.into(writers, out).flatten(1, 2)

    def _add_heads_to_base(self, layer: int, written: Tensor) -> None:
        """Add a layer's ablated head sum and its output bias to the base of later readers."""
        bias = self.ports.attention_bias(layer)
        if bias is not None:
            written = written + bias
        if self.ports.sandwich:
            self.head_sums.append(written)
            written = self._post_norm(layer)(written)
        self.stream.base += written
        self.written = written

    def _nothing(self) -> Tensor:
        """What Hugging Face's residual addition gets instead of a branch's output."""
        return self.stream.token.detach().expand(self.n_batch, self.n_pos, self.d_model)
