"""EAP with attention recomputed exactly for query and key edges: AtP*'s QK fix, edge by edge."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.engine.tapped import TappedRun
from circuitprune.metrics import Metric
from circuitprune.models.changes import Change, Forward
from circuitprune.models.ports import Ports
from circuitprune.patching.replay import Replay

Slopes = dict[int, Float[Tensor, "batch pos width"]]
"""By layer: the metric's gradient at what the output projection reads, all heads side by side."""


def eap_qk(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """`eap`, but query and key edges go through their head's softmax exactly.

    `<o_h(x_r + ablated[w] - clean[w]) - o_h(x_r), d metric / d o_h>`, where `o_h` is the mixed
    values `pattern @ values` of the heads that reader r feeds, computed anew with r's own input
    changed, and the gradient is the clean run's. A saturated softmax has no gradient, so that
    `eap` gives queries and keys nothing there; its pattern can still move. Edges to values, MLPs
    and logits score as by `eap`. `steps` is ignored.

    Source: Kramar et al. 2024, "AtP*" (arXiv 2403.00745), section on the QK fix, which recomputes
    a patched query's or key's attention; here what is patched is one edge into it.
    """
    gated = references.gated
    kinds = torch.tensor([kind in ("q", "k") for kind in gated.graph.reader_kind])
    into_patterns = kinds[gated.graph.edge_reader].nonzero().flatten()

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        replay = Replay(gated, batch.clean_prompts, references.ablated(batch))
        slopes: Slopes = {}
        run = TappedRun(gated, replay.difference, None, batch)
        with gated.ports.intercept(_listeners(gated.ports, slopes)):
            logits = run.forward()
        scores = run.backward(logits, metric)
        for layer, edges, change in replay.value_changes(into_patterns):
            worth = (change * slopes[layer]).unflatten(-1, (gated.graph.n_heads, -1))
            by_head = worth.to(scores.dtype).sum(dim=(1, 2, 4))
            for row, edge in edges:
                heads = gated.graph.heads_of_reader(edge.reader)
                first = gated.graph.head_writer(layer, 0)
                own = slice(heads.start - first, heads.stop - first)
                scores[edge.edge] = by_head[row, own].sum()
        return scores

    return mean_over_batches(references.rests(batches), score)


def _listeners(ports: Ports, slopes: Slopes) -> list[Change]:
    """Output projections that note the gradient at what they read when it comes."""
    return [
        (modules.output, "forward", _listening(layer, modules.output.forward, slopes))
        for layer, modules in enumerate(ports.layers)
    ]


def _listening(layer: int, forward: Forward, slopes: Slopes) -> Forward:
    def output(values: Tensor) -> Tensor:
        values = values.view_as(values)  # this use alone
        values.register_hook(lambda slope: slopes.__setitem__(layer, slope))
        return forward(values)

    return output
