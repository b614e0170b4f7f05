"""Training of dictionaries: known features are found again, and measures are those of a loop."""

import pytest
import torch
from torch.nn.functional import normalize

from circuitprune.pipelines.dictionaries import DictionaryOptions, fit_dictionary
from circuitprune.training.dictionary import AUXILIARY, DEAD_AFTER, DictionaryTraining


def synthetic(n: int = 4096, d: int = 12, n_true: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse sums of known directions around a centre: two of them on at each row."""
    draw = torch.Generator().manual_seed(0)
    directions = normalize(torch.randn(n_true, d, generator=draw), dim=-1)
    on = torch.rand(n, n_true, generator=draw).topk(2, dim=-1).indices
    sizes = 1 + torch.rand(n, 2, generator=draw)
    return torch.zeros(n, n_true).scatter(1, on, sizes) @ directions + 3, directions


def test_known_directions_are_found() -> None:
    x, directions = synthetic()
    options = DictionaryOptions(n_features=24, k=2, steps=800, batch_size=512)
    found = fit_dictionary(x, "m0", options)
    left = (x - found.decode(found.encode(x))).square().sum(-1).mean()
    assert left / (x - x.mean(0)).square().sum(-1).mean() < 0.1
    cosine = (normalize(found.w_dec, dim=-1) @ directions.T).amax(0)
    assert (cosine > 0.9).float().mean() > 0.8
    assert torch.allclose(found.w_dec.norm(dim=-1), torch.ones(24), atol=1e-4)
    assert (found.encode(x) > 0).sum(-1).max() <= 2


def test_the_loss_is_the_formula_and_the_dead_have_a_part() -> None:
    x, _ = synthetic(64)
    module = DictionaryTraining(x, "m0", 8, 2, 10)
    module.log = lambda *_, **__: None
    plain = module.training_step((x,), 0)
    d = module.dictionary()
    error = x - d.decode(d.encode(x))
    v = (x - x.mean(0)).square().sum(-1).mean()
    assert plain.item() == pytest.approx((error.square().sum(-1).mean() / v).item(), rel=1e-4)
    module.silent[:] = 0
    module.silent[3] = DEAD_AFTER + 1
    module.b_enc.data[3] = -100.0  # dead: never among the k
    with_dead = module.training_step((x,), 0)
    d = module.dictionary()
    error = x - d.decode(d.encode(x))
    pre = ((x - d.b_dec) @ d.w_enc + d.b_enc)[:, 3:4].relu()
    again = (error - pre @ d.w_dec[3:4]).square().sum(-1).mean() / v
    expected = error.square().sum(-1).mean() / v + AUXILIARY * again
    assert with_dead.item() == pytest.approx(expected.item(), rel=1e-4)
