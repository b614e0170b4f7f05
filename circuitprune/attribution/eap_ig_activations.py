"""Edge attribution patching with gradients integrated along the outputs of groups of writers."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches, require_steps
from circuitprune.data.pairs import Batch
from circuitprune.engine.gated import GatedModel
from circuitprune.engine.references import References
from circuitprune.engine.tapped import TappedRun
from circuitprune.metrics import Metric
from circuitprune.models.changes import Branch, Change, Output, output_of, with_output
from circuitprune.patching.recorded import RecordedRun


def eap_ig_activations(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 5
) -> Float[Tensor, " edge"]:
    """EAP with the gradient averaged while one group of writers after another is interpolated.

    `<ablated[w] - clean[w], mean_g,k d metric / d input of r>`, where in run `(g, k)` the group g
    writes `(k / steps) clean + (1 - k / steps) ablated`, for k = 1 .. steps, and all else follows.
    The `2 * n_layers + 1` groups are the input, the heads of each layer, and each MLP. Every edge
    takes its gradient from every run, so this is no integral along an edge's own writer; see
    `per_writer_ig` for that.

    Costs about `steps * (2 * n_layers + 1)` runs of half the model and back: in front of its group
    a run is the clean one, so the gradients that the runs send there are added and go on together.

    Raises:
        ConfigError: no steps.

    Source: Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv 2403.17806).
    """
    require_steps(steps, "eap_ig_activations")
    gated = references.gated

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        recorded = RecordedRun(gated, batch.clean_prompts)
        difference = references.ablated_copy(batch).sub_(recorded.written)
        precise = torch.promote_types(gated.dtype, torch.float32)
        total = difference.new_zeros(gated.graph.n_edges, dtype=precise)
        upstream: dict[int, Tensor] = {}
        for k in range(1, steps + 1):
            share = 1 - k / steps
            entering = recorded.streams[0] + share * difference[0]
            run = TappedRun(gated, difference, entering, batch)
            total += run.backward(run.forward(), metric)
            for layer in range(gated.graph.n_layers):
                for group in ("attention", "mlp"):
                    run = _GroupRun(gated, difference, recorded, batch, layer, group, share)
                    total += run.backward(run.forward(), metric)
                    assert run.entrance.grad is not None
                    before = upstream.get(layer, torch.zeros_like(run.entrance.grad))
                    upstream[layer] = before + run.entrance.grad
        total += _UpstreamRun(gated, difference, recorded, batch).backward_from(upstream)
        return total / (steps * (2 * gated.graph.n_layers + 1))

    return mean_over_batches(references.rests(batches), score)


class _GroupRun(TappedRun):
    """A run from a layer on in which one of its two branches writes a given value."""

    def __init__(
        self,
        gated: GatedModel,
        difference: Tensor,
        recorded: RecordedRun,
        batch: Batch,
        layer: int,
        group: str,
        share: float,
    ) -> None:
        super().__init__(gated, difference, recorded.streams[layer], batch, start=layer)
        # the layers before are passed over, but their heads are still read behind their norms
        before = [i for i in self.post_norms.norms if i < layer]
        self.contraction.heads = {i: recorded.heads[i].flatten(0, 1) for i in before}
        mlp = self.graph.mlp_writer(layer)
        if group == "attention":
            heads = difference[self.graph.heads(layer)].sum(dim=0)
            self.fixed = self._attention_writes(layer, recorded.heads[layer] + share * heads)
        else:
            self.fixed = self._mlp_writes(layer, recorded.written[mlp] + share * difference[mlp])

    def _attention_writes(self, layer: int, value: Tensor) -> Change:
        """At the output projection: what an attention returns differs between families."""
        modules = self.ports.layers[layer]
        return modules.output, "forward", lambda _: value / modules.scale

    def _mlp_writes(self, layer: int, value: Tensor) -> Change:
        """At the end of the branch, which is a norm in some families."""
        modules = self.ports.layers[layer]
        if modules.mlp_post_norm is not None:
            return modules.mlp_post_norm, "forward", lambda _: value / modules.scale
        forward = modules.mlp.forward

        def mlp(hidden: Tensor) -> Output:
            """In the form of what the MLP itself returns, such as experts' (output, routing)."""
            with torch.no_grad():
                result = forward(hidden)
            return with_output(result, (value / modules.scale).view_as(output_of(result)))

        return modules.mlp, "forward", mlp

    def changes(self) -> list[Change]:
        """As every tapped run's, and the branch that is given."""
        return [*super().changes(), self.fixed]


class _UpstreamRun(TappedRun):
    """The clean run, whose backward pass starts from gradients at what enters each layer."""

    def __init__(
        self, gated: GatedModel, difference: Tensor, recorded: RecordedRun, batch: Batch
    ) -> None:
        super().__init__(gated, difference, recorded.streams[0], batch)
        self.entered: dict[int, Tensor] = {}

    def changes(self) -> list[Change]:
        """As every tapped run's, and each layer's input is remembered."""
        blocks = self.ports.blocks
        inner = range(1, len(blocks) - 1)
        kept = [(blocks[i], "forward", self._keep(i, blocks[i].forward)) for i in inner]
        end = (blocks[-1], "forward", self._keep(len(blocks) - 1, self.ports.pass_over))
        return [*super().changes(), *kept, end]

    def _keep(self, layer: int, forward: Branch) -> Branch:
        def block(hidden: Tensor, *args: object, **kwargs: object) -> Output:
            self.entered[layer] = hidden
            return forward(hidden, *args, **kwargs)

        return block

    @torch.enable_grad()
    def backward_from(self, gradients: dict[int, Tensor]) -> Float[Tensor, " edge"]:
        """The scores of these gradients by layer; at layer 0 nothing is upstream."""
        self.forward()
        layers = [layer for layer in self.entered if layer > 0]
        if layers:
            outputs = [self.entered[layer] for layer in layers]
            grads = [gradients[layer] for layer in layers]
            torch.autograd.backward(outputs, grads, inputs=[self.entrance])
        self.entered.clear()
        return self.finished()
