"""What clean and corrupt prompts begin with alike: run once, kept for the attention of the rest.

Under `patch` every activation at those positions is the same in both runs, whatever the gates, and
every gradient is zero: a run of the rest alone gives the same numbers up to rounding.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.models.changes import narrow
from circuitprune.models.past import Recorder
from circuitprune.models.ports import Ports

KeysValues = Float[Tensor, "two_per_layer kv_head _ d_head"]
"""Of one example, at its first tokens."""


@torch.no_grad()
def run_prefixes(ports: Ports, batch: Batch, lengths: Int[Tensor, " batch"]) -> list[KeysValues]:
    """Keys and values of each layer in turn at the first tokens of each clean prompt.

    Args:
        ports: Of the model.
        batch: The prompts.
        lengths: How many tokens of each.
    """
    tokens, recorder = batch.clean[:, : int(lengths.max())], Recorder()
    mask, first = torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(lengths)
    norm = ports.final_norm
    with ports.intercept([(norm, "forward", narrow(norm.forward, first))]):  # no logits
        ports.run(tokens, mask, first, cache=recorder)
    layers = recorder.keys_values()
    return [layers[:, row, :, :length].clone() for row, length in enumerate(lengths.tolist())]


def padded_left(
    examples: list[KeysValues],
) -> Float[Tensor, "two_per_layer batch kv_head _ d_head"]:
    """Side by side, so that all end at the same place."""
    width = max(example.shape[2] for example in examples)
    padded = [F.pad(example, (0, 0, width - example.shape[2], 0)) for example in examples]
    return torch.stack(padded, dim=1)
