"""What nodes say and look at: logit lens, direct attribution, attention, probes, predictions.

Imports `engine` and what lies below it.
"""

from circuitprune.lens.heads import attention_patterns, probe_heads
from circuitprune.lens.logits import direct_logit_attribution, logit_lens, ranks, residual_streams
from circuitprune.lens.predictions import predictions

__all__ = [
    "attention_patterns",
    "direct_logit_attribution",
    "logit_lens",
    "predictions",
    "probe_heads",
    "ranks",
    "residual_streams",
]
