"""What EAP-IG says of a tiny random GPT-2: `tests/golden/eap_ig.json`, and that model."""

import hashlib
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from circuitprune.data.batches import Batch

GOLDEN = Path(__file__).parent / "golden"
WEIGHTS = "00db9471ebf3f405b626e1752adba3a7037abd186559511e283565edec9ccb7a"
"""SHA-256 of all weights, in the order of the state dict."""


@cache
def numbers() -> dict:
    """`inputs`, `edges`, `evaluate_graph`, and `scores` by method, in the order of the edges."""
    return json.loads((GOLDEN / "eap_ig.json").read_text())


def scores(method: str) -> dict[str, float]:
    """By the names of the edges; `exact`, or a method as EAP-IG calls it."""
    return dict(zip(numbers()["edges"], numbers()["scores"][method], strict=True))


@cache
def golden_model() -> PreTrainedModel:
    """4 layers, 4 heads, width 128, in float64; skips where these libraries draw other weights."""
    config = GPT2Config(
        n_layer=4, n_head=4, n_embd=128, n_positions=64, vocab_size=512, initializer_range=0.2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and gains
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    if digest.hexdigest() != WEIGHTS:
        pytest.skip("these versions of torch and transformers draw other weights from the seed")
    return model.double().eval().requires_grad_(False)


def golden_batches(size: int = 16) -> list[Batch]:
    """The 16 pairs, in batches of this size."""
    given = {name: torch.tensor(rows) for name, rows in numbers()["inputs"].items()}
    whole = Batch(
        index=torch.arange(16),
        clean=given["clean"],
        corrupt=given["corrupted"],
        mask=torch.ones_like(given["clean"], dtype=torch.bool),
        last=torch.full((16,), given["clean"].shape[1] - 1),
        answers=given["answer"][:, None],
        wrong=given["wrong"][:, None],
    )
    return [
        Batch(**{name: part[rows] for name, part in vars(whole).items()})
        for rows in torch.arange(16).split(size)
    ]
