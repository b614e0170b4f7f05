"""The one gated forward: an unmodified Hugging Face model under one float per edge.

Every reader r sees `base[r] + sum_w gate[w, r] * delta[w]`, where `delta[w]` is what writer w
wrote in this run minus what it carries when ablated, and `base[r]` is the ablated residual stream
at r with the biases that belong to no writer. `stream.py` holds the arithmetic of it.

Hugging Face's own layers run; only what their projections, MLPs and final norm see is replaced.
Their residual additions see zeros and are ignored.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuitprune.data.batches import Batch, Prefix
from circuitprune.engine.ablation import Ablated, Ablation, make_ablation
from circuitprune.engine.dealing import WHOLE, Pieces
from circuitprune.engine.gated_run import GatedRun
from circuitprune.engine.gated_stream import GatedStream
from circuitprune.engine.recording import record_writers
from circuitprune.engine.workspace import Workspace
from circuitprune.errors import GraphError, ModelError
from circuitprune.files.text import counted
from circuitprune.models.changes import narrow
from circuitprune.models.held import Held
from circuitprune.models.ports import Ports


class GatedModel:
    """A Hugging Face causal language model whose residual-stream edges carry gates.

    The model is used where it is, its weights untouched and its modules intercepted only while a
    call runs. Until `release` it is held in eval, frozen and uncompiled: see `Held`.

    Args:
        model: A causal language model of a declared family (`circuitprune.models.FAMILIES`), or
            what `torch.compile` made of one.
        kv_readers: `kv_head` or `query_head`; what owns a key/value reader.

    Raises:
        ModelError: the family is not declared or does not fit the model, or the model is in no
            state to be run: quantised, with an adapter beside its weights, or not on one device.
    """

    by_reach = True
    """Whether a small circuit can be computed by what it reaches alone: see `CircuitRuns`."""

    def __init__(self, model: nn.Module, kv_readers: str = "kv_head") -> None:
        self._held = Held(model)
        self.model = self._held.model
        try:
            self.ports = Ports(self.model, kv_readers)
        except ModelError:
            self.release()
            raise
        self.graph = self.ports.graph
        self.workspace = Workspace()

    def release(self) -> None:
        """Put the model back as it was given: in training mode, unfrozen, compiled, as it was.

        Two gated models of one model are released in the reverse of the order they were made in.
        """
        self._held.release()

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def __call__(
        self,
        gates: Float[Tensor, " edge"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        ablated: Ablated,
        last: Int[Tensor, " batch"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits with every edge between its own value (gate 1) and its ablated value (gate 0).

        Differentiable in `gates`. See docs/method.md for the equation.

        Args:
            gates: One float per edge of `graph`, in its flat order.
            tokens: Right-padded token ids.
            mask: True on real tokens.
            ablated: What each writer carries when ablated, as `record` returns it.
            last: Compute only these positions; the result is then `[batch, vocab]`.
            prefix: What stands in front of the tokens; nothing of it is under gates.

        Raises:
            GraphError: `gates` or `ablated` do not fit the graph.
        """
        self._check(gates, ablated)
        rows = gates.unsqueeze(0)
        stream = GatedStream(self.ports, rows, ablated, last, None, self.workspace)
        return GatedRun(stream).logits(tokens, mask, prefix)

    def on(
        self, batch: Batch, gates: Float[Tensor, " edge"], ablated: Ablated
    ) -> Float[Tensor, "batch vocab"]:
        """Answer-position logits of a batch's clean prompts: see a call."""
        tokens, mask, last, prefix = batch.clean_prompts
        return self(gates, tokens, mask, ablated, last, prefix)

    @torch.no_grad()
    def plain(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        last: Int[Tensor, " batch"] | None = None,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "batch *pos vocab"]:
        """Logits of the untouched model, at all positions or only at `last`."""
        norm = self.ports.final_norm
        with self.ports.intercept([(norm, "forward", narrow(norm.forward, last))]):
            return self.ports.run(tokens, mask, last, prefix)

    def record(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """What each writer wrote on a plain run."""
        return record_writers(self.ports, tokens, mask, prefix)

    def subtract(
        self,
        from_: Float[Tensor, "writer batch pos d_model"],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        prefix: Prefix | None = None,
    ) -> None:
        """Takes what each writer wrote on a plain run off a tensor, in place."""
        record_writers(self.ports, tokens, mask, prefix, subtract_from=from_)

    def ablation(self, kind: str, reference: Iterable[Batch] = ()) -> Ablation:
        """What edges carry where they are cut: see `make_ablation`."""
        return make_ablation(kind, self.ports, reference)

    def pieces(
        self, dealt: Int[Tensor, "batch pos"] | None, last: Int[Tensor, " batch"] | None
    ) -> Pieces:
        """Places that share their gates: here all of them.

        Args:
            dealt: The span of each token.
            last: Position of each example's answer, of which the places are; None for all tokens.
        """
        return WHOLE

    def _check(self, gates: Tensor, ablated: Ablated) -> None:
        if gates.shape != (self.graph.n_edges,):
            raise GraphError(
                f"expected {counted(self.graph.n_edges, 'gate')}, one per edge, got "
                f"{tuple(gates.shape)}"
            )
        if ablated.shape[0] != self.graph.n_writers:
            raise GraphError(
                f"expected {counted(self.graph.n_writers, 'ablated writer')}, got "
                f"{ablated.shape[0]}"
            )
