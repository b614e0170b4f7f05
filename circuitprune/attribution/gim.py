"""GIM, gradient interaction modifications: gradients that see what backs each other up."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.lrp import (
    halved_products,
    inner_norms,
    mlp_rules,
    norm_rules,
    propagate,
    with_gradient_of,
)
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric
from circuitprune.models.softmax import Softmax, through_softmax

TEMPERATURE = 2.0
"""Of the softmax in the backward pass; the authors' choice."""


def gim(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """`eap` whose gradients are taken back by three modifications of the backward pass alone.

    - The softmax's Jacobian is that at temperature 2, `da = p2 (dp - sum p2 dp)` with
      `p2 = softmax(a / 2)`: keys that share the attention back each other up, and the gradient at
      each of them alone is too small.
    - The scale of every norm is a constant.
    - Products give each factor half: q and k get a quarter of the gradient, v half, and so do
      both branches of a gated MLP. Activations are differentiated as they are.

    Attention runs by Hugging Face's eager code, whose softmax can be told. `steps` is ignored.

    Raises:
        ModelError: a norm or MLP without a stated rule, or attention that calls no softmax.

    Source: Edin et al. 2025, "GIM: Improved Interpretability for Large Language Models" (arXiv
    2505.17630), with the constants of the authors' code.
    """
    ports = references.gated.ports
    rules = norm_rules(ports) + inner_norms(ports) + mlp_rules(ports, identity=False)
    rules += halved_products(ports)
    return propagate(
        references, batches, metric, rules, lambda: through_softmax(ports, _warm_gradient)
    )


def _warm_gradient(layer: int, softmax: Softmax, scores: Tensor) -> Tensor:
    """The softmax's own values; the factor undoes what the chain rule takes for `a / 2`."""
    warm: Tensor = TEMPERATURE * softmax(scores / TEMPERATURE)
    return with_gradient_of(softmax(scores.detach()), warm)
