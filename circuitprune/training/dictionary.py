"""Trains a dictionary: a TopK sparse autoencoder of what is written at one place of a model."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from circuitprune.models.dictionary import Dictionary

DEAD_AFTER = 20
"""Batches without a feature after which it counts as dead."""
AUXILIARY = 1 / 32
"""Weight of what dead features say of the error, as in the paper."""


class DictionaryTraining(LightningModule):
    """Trains `f = topk(W_enc (x - b_dec) + b_enc)`, `x_hat = f W_dec + b_dec`.

    `loss = |x - x_hat|^2 / v + AUXILIARY * |e - e_hat|^2 / v` with e the error, `e_hat` what the
    `2 k` strongest of the dead features make of it, and v the variance of x: so features that never
    fire are drawn to what is left out. Directions have norm 1 after each step.

    Args:
        activations: Some of what is written, for the scale, the centre and the first directions.
        site: Where: see `Dictionary`.
        n_features: Features.
        k: Features on at a position.
        steps: Length of the schedule: constant, then linear to zero over the last fifth.
        lr: Learning rate.
        seed: Of the first directions.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093).
    """

    def __init__(
        self,
        activations: Float[Tensor, "token d_model"],
        site: str,
        n_features: int,
        k: int,
        steps: int,
        lr: float = 2e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.site, self.k, self.steps, self.lr = site, k, steps, lr
        draw = torch.Generator().manual_seed(seed)
        centre = activations.mean(0)
        self.variance = float((activations - centre).square().sum(-1).mean())
        first = activations[torch.randint(len(activations), (n_features,), generator=draw)] - centre
        noise = torch.randn(first.shape, generator=draw) * first.std()
        directions = nn.functional.normalize(first + noise, dim=-1)
        self.w_dec = nn.Parameter(directions)
        self.w_enc = nn.Parameter(directions.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.b_dec = nn.Parameter(centre.clone())
        self.silent = torch.zeros(n_features, dtype=torch.long)
        """Batches since each feature was last on."""

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Float[Tensor, ""]:
        """The share of variance that is left out, and the dead features' part in it."""
        (x,) = batch
        pre = (x - self.b_dec) @ self.w_enc + self.b_enc
        features = _top(pre, self.k)
        error = x - features @ self.w_dec - self.b_dec
        with torch.no_grad():
            self.silent = torch.where((features > 0).any(0), 0, self.silent + 1)
            dead = self.silent > DEAD_AFTER
        loss = error.square().sum(-1).mean() / self.variance
        self.log("unexplained", loss.detach(), prog_bar=True)
        if bool(dead.any()):
            again = _top(pre[:, dead], min(2 * self.k, int(dead.sum()))) @ self.w_dec[dead]
            left = (error.detach() - again).square().sum(-1).mean() / self.variance
            loss = loss + AUXILIARY * left
        self.log("dead", dead.float().mean(), prog_bar=True)
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Directions keep norm 1, or features would grow by shrinking them."""
        self.w_dec.data = nn.functional.normalize(self.w_dec.data, dim=-1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam, its rate going to zero over the last fifth."""
        optimizer = torch.optim.Adam(self.parameters(), self.lr, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, 5 * max(0.0, 1 - step / self.steps))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def dictionary(self) -> Dictionary:
        """What was learned."""
        weights = (self.w_enc, self.b_enc, self.w_dec, self.b_dec)
        w_enc, b_enc, w_dec, b_dec = (one.detach().clone() for one in weights)
        return Dictionary(self.site, w_enc, b_enc, w_dec, b_dec, "topk", self.k, None, True)


def _top(pre: Float[Tensor, "token feature"], k: int) -> Float[Tensor, "token feature"]:
    """The k largest of each row, if positive; zeros elsewhere."""
    values, at = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, at, values.relu())
