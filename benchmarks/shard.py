"""Bytes of weights that a process holds of a model divided among processes, at rest and at most.

    torchrun --standalone --nproc-per-node 2 benchmarks/shard.py MODEL [--batch 4]

One gated step (forward and backward under gates of one half) of random tokens; what is held is
counted whenever something has been gathered, and is the shares, the vectors and all that is whole.
"""

import argparse
import json
import os

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

from circuitprune.engine.gated import GatedModel
from circuitprune.models.loading import load_model
from circuitprune.models.sharding import shard


def held(model: torch.nn.Module) -> int:
    """Bytes of weights in this process at the moment."""
    found = {id(one): one.nbytes for one in model.parameters() if one.ndim < 2}
    for module in model.modules():
        if not isinstance(module, FSDPModule):
            continue
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for one in group.fsdp_params:
                found[id(one)] = one._sharded_param_data.nbytes
                for tensor in one.all_gather_outputs:
                    found[id(tensor)] = tensor.untyped_storage().nbytes()
    return sum(found.values())


def main() -> None:
    """Measure in the processes of torchrun; the first prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    world = int(os.environ["WORLD_SIZE"])
    model, _ = load_model(options.model)
    whole = sum(one.nbytes for one in model.parameters())
    shard(model, torch.device("cpu"), world)
    rest, most, wait = held(model), 0, FSDPParamGroup.wait_for_unshard

    def counting(group: FSDPParamGroup) -> None:
        nonlocal most
        wait(group)
        most = max(most, held(model))

    FSDPParamGroup.wait_for_unshard = counting  # type: ignore[method-assign, assignment]
    gated = GatedModel(model)
    tokens = torch.randint(9, model.config.vocab_size, (options.batch, 12))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    last = mask.sum(dim=1) - 1
    forward, most = 0, 0
    ablated = gated.record(tokens.flip(0), mask)
    forward, most = most, 0
    gates = torch.full((gated.graph.n_edges,), 0.5, requires_grad=True)
    gated(gates, tokens, mask, ablated, last).square().mean().backward()
    if distributed.get_rank() == 0:
        found = {"whole": whole, "at rest": rest, "forward at most": forward}
        found |= {"step at most": most, "at rest again": held(model)}
        print(json.dumps({name: f"{value / 1e6:.1f} MB" for name, value in found.items()}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
