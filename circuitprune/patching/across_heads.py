"""Cross-model activation patching of heads where they act: their outputs, or what they read.

Prakash et al. 2024 (arXiv 2402.14811), section on CMAP. The host runs on the clean prompt and takes
values of the donor's untouched run on the same prompt. `across_models` is the same of edges, at all
positions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitprune.data.batches import Batch
from circuitprune.errors import GraphError
from circuitprune.models.ports import Ports
from circuitprune.patching.head_groups import PLACES, Groups, places
from circuitprune.patching.head_runs import (
    PROJECTED,
    Head,
    HeadRun,
    Part,
    Swap,
    n_heads_of,
    run_heads,
    taking,
)


def check_alike(host: Ports, donor: Ports) -> None:
    """Nothing, for two models whose heads compute values of the same shapes.

    Raises:
        GraphError: they do not.
    """
    if host.graph != donor.graph or host.n_kv_heads != donor.n_kv_heads:
        raise GraphError(
            f"the models have {host.graph.describe()} and {donor.graph.describe()}; heads can be "
            "patched across models of equal sizes only"
        )


@torch.no_grad()
def output_patched(
    host: Ports, donor: Ports, batch: Batch, groups: Groups
) -> Float[Tensor, "batch vocab"]:
    """The host's logits with each group's outputs, at its place, those of the donor.

    Raises:
        GraphError: models of other sizes.
    """
    check_alike(host, donor)
    theirs = _of_donor(host, donor, batch, ("output",)).parts["output"]
    swaps = [
        Swap("output", theirs, taking(host, heads, places(batch, PLACES[name])))
        for name, heads in groups.items()
    ]
    return run_heads(host, batch.clean_prompts, swaps).logits


@torch.no_grad()
def input_patched(
    host: Ports,
    donor: Ports,
    batch: Batch,
    groups: Groups,
    parts: Sequence[Part] = PROJECTED,
) -> Float[Tensor, "batch vocab"]:
    """The host's logits with what each group reads, where it acts, that of the donor.

    Queries are taken at the group's place, keys and values at all positions up to it. Elsewhere the
    outputs of the heads so changed stay the host's own, and so do everywhere those of other heads
    that share a key or value head with them.

    Args:
        host, donor: The models.
        batch: Pairs; their clean prompts are run.
        groups: Heads by group.
        parts: Some of `q`, `k` and `v`.

    Raises:
        GraphError: models of other sizes.
    """
    check_alike(host, donor)
    theirs = _of_donor(host, donor, batch, parts).parts
    own = run_heads(host, batch.clean_prompts, record=("output",)).parts["output"]
    swaps = []
    kept = torch.zeros_like(taking(host, [], torch.ones_like(batch.mask)))
    for name, heads in groups.items():
        here = places(batch, PLACES[name])
        before = here.flip(1).cumsum(dim=1).flip(1) > 0
        swaps += [
            Swap(part, theirs[part], taking(host, heads, here if part == "q" else before, part))
            for part in parts
        ]
        kept = torch.maximum(kept, _elsewhere(host, heads, here))
    at_places = torch.zeros_like(kept)
    for name, heads in groups.items():
        at_places = torch.maximum(at_places, taking(host, heads, places(batch, PLACES[name])))
    return run_heads(
        host, batch.clean_prompts, [*swaps, Swap("output", own, kept * (1 - at_places))]
    ).logits


def _elsewhere(
    host: Ports, heads: Sequence[Head], here: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "layer batch pos head"]:
    """Takes every output that the change of these heads' inputs would reach beside those wanted."""
    size = host.graph.n_heads // n_heads_of(host, "k")
    sharing = [(layer, head // size * size + i) for layer, head in heads for i in range(size)]
    return torch.maximum(
        taking(host, heads, ~here), taking(host, set(sharing) - {*heads}, torch.ones_like(here))
    )


def _of_donor(host: Ports, donor: Ports, batch: Batch, parts: Sequence[Part]) -> HeadRun:
    """The donor's own run, where the host is."""
    theirs = run_heads(donor, batch.to(donor.model.device).clean_prompts, record=tuple(parts))
    device, dtype = host.model.device, host.model.dtype
    moved = {
        part: tuple(one.to(device, dtype) for one in theirs.parts[part]) for part in theirs.parts
    }
    return HeadRun(theirs.logits.to(device, dtype), moved)
