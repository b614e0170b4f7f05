"""EAP-IG by Monte Carlo: each example at one point of its own, drawn at random."""

from collections.abc import Iterable
from random import Random

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.engine.tapped import edge_scores_at
from circuitprune.metrics import Metric


def mc_ig(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """`eap_ig_inputs` with one point of the path for each example, drawn uniformly.

    `<ablated[w] - clean[w], d metric / d input of r at x>` with `x = ablated + u (clean - ablated)`
    and u uniform in [0, 1]: in expectation over u the integral itself, without the error of a rule,
    for the price of one gradient. Its noise falls with the number of examples. u is a function of
    the example's index alone, so batching changes nothing. `steps` is ignored.

    Source: expected gradients, Erion et al. 2021 (arXiv 1906.10670).
    """
    gated = references.gated

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        difference = references.ablated_copy(batch)
        ablated = difference[0].clone()
        tokens, mask, _, prefix = batch.clean_prompts
        gated.subtract(difference, tokens, mask, prefix)
        share = difference.new_tensor([place(index) for index in batch.index.tolist()])
        embeddings = ablated - difference[0] * share.view(-1, 1, 1)
        return edge_scores_at(gated, batch, metric, difference, embeddings)

    return mean_over_batches(references.rests(batches), score)


def place(example: int) -> float:
    """Where on its path an example is looked at: 0 is ablated, 1 clean."""
    return Random(f"mc_ig/{example}").random()
