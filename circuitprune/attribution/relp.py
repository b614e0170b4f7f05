"""Relevance patching: EAP whose gradients are replaced by layer-wise relevance propagation."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitprune.attribution.base import mean_over_batches
from circuitprune.attribution.lrp import frozen_patterns, lrp_rules
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
    return _propagate(references, batches, metric, freeze=False)


def relp_ah(
    references: References, batches: Iterable[Batch], metric: Metric, steps: int = 1
) -> Float[Tensor, " edge"]:
    """`relp` with the AH-rule: attention patterns are constants, so q and k edges score 0.

    Source: the AH-rule is that of Ali et al. 2022 (arXiv 2202.07304).
    """
    return _propagate(references, batches, metric, freeze=True)


def _propagate(
    references: References, batches: Iterable[Batch], metric: Metric, freeze: bool
) -> Float[Tensor, " edge"]:
    """Minus the gradient of the gates at 1 while the rules hold."""
    gated = references.gated
    rules = lrp_rules(gated.ports) + (frozen_patterns(gated.ports) if freeze else [])
    precise = torch.promote_types(gated.dtype, torch.float32)

    def score(batch: Batch) -> Float[Tensor, " edge"]:
        run = references.run(batch)
        gates = torch.ones(gated.graph.n_edges, device=gated.device, dtype=precise)
        gates.requires_grad_()
        with gated.ports.intercept(rules), torch.enable_grad():  # the backward pass needs them too
            logits = run(gates)
            (gradient,) = torch.autograd.grad(metric(logits, batch).sum(), gates)
        return -gradient

    return mean_over_batches(batches, score)
