"""What nodes say and look at: logit lens, direct attribution, attention, probes, predictions.

Imports `engine` and what lies below it.
"""

from circuitprune.lens.heads import attention_patterns, probe_heads
from circuitprune.lens.logits import direct_logit_attribution, logit_lens, ranks, residual_streams

__all__ = [
    "attention_patterns",
    "direct_logit_attribution",
    "logit_lens",
    "probe_heads",
    "ranks",
    "residual_streams",
]
