"""AttnLRP: relevance propagation with its half rule at both products of attention."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.lrp import halved_products, inner_norms, lrp_rules, propagate
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric


def attn_lrp(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """`relp` that passes a quarter of the gradient on to queries and keys, half to values.

    `<ablated[w] - clean[w], c_r>`, with `c_r` taken back by the LN-rule (norms of queries and keys
    included), the identity rule and the half rule as by `relp`, and through attention by the same
    half rule: each factor of `pattern @ values` and of `query . key` gets half. The softmax is
    differentiated as it is, which is the paper's rule for it. `steps` is ignored.

    Raises:
        ModelError: a norm, MLP or activation without a stated rule.

    Source: Achtibat et al. 2024, "AttnLRP" (arXiv 2402.05602), in the form of input times gradient
    of the authors' code (lxt), which divides the gradients of q, k and v by 4, 4 and 2.
    """
    ports = references.gated.ports
    rules = lrp_rules(ports) + inner_norms(ports) + halved_products(ports)
    return propagate(references, batches, metric, rules)
