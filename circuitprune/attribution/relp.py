"""Relevance patching: EAP whose gradients are replaced by layer-wise relevance propagation."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.lrp import frozen_patterns, lrp_rules, propagate
from circuitprune.data.pairs import Batch
from circuitprune.engine.references import References
from circuitprune.metrics import Metric


def relp(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """EAP with the LN-rule, the identity rule and the half rule in place of gradients.

    `<ablated[w] - clean[w], c_r>`, where `c_r` is the metric's gradient at reader r's input on the
    clean run, taken back through norms of constant scale, activations of constant slope
    `f(x) / x`, and gated products that give each factor half. Attention, soft caps and the metric
    are differentiated as they are. Norms behind a branch (Gemma-2) follow the LN-rule too, so a
    head's share behind one is its own output times the norm's scale. `steps` is ignored.

    Raises:
        ModelError: a norm, MLP or activation without a stated rule; gpt2, gpt_neox, llama, qwen2
            and gemma2 have them.

    Source: Jafari et al. 2025, "RelP" (arXiv 2508.21258), with the rules of its quick start.
    """
    return propagate(references, batches, metric, lrp_rules(references.gated.ports))


def relp_ah(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """`relp` with the AH-rule: attention patterns are constants, so q and k edges score 0.

    Source: the AH-rule is that of Ali et al. 2022 (arXiv 2202.07304).
    """
    ports = references.gated.ports
    return propagate(references, batches, metric, lrp_rules(ports) + frozen_patterns(ports))
