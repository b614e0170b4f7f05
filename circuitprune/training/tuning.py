"""Fine-tuning as a LightningModule: a model's own weights learn the answers of pairs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitprune.data.pairs import Batch
from circuitprune.errors import ConfigError, NonFiniteError
from circuitprune.files.text import counted
from circuitprune.metrics import accuracy, cross_entropy
from circuitprune.models.changes import narrow
from circuitprune.models.families import family_of
from circuitprune.models.layer_ports import find
from circuitprune.models.ports import Ports
from circuitprune.training.checkpoints import refuse_other, refuse_other_shapes
from circuitprune.training.density import rate_factor
from circuitprune.training.hiding import Hiding, attention_mask


def tuned_weights(model: PreTrainedModel, last_layers: int | None) -> dict[str, nn.Parameter]:
    """The weights that learn, by name: all, or those of the last layers and of the final norm.

    Args:
        model: Of a declared family.
        last_layers: How many, or None for every weight, embeddings included.

    Raises:
        ConfigError: more layers than the model has.
    """
    weights = dict(model.named_parameters())
    if last_layers is None:
        return weights
    family = family_of(model.config.get_text_config())
    layers = list(find(model, family.layers).children())
    if last_layers > len(layers):
        raise ConfigError(
            f"tune.last_layers={last_layers}, but the model has {counted(len(layers), 'layer')}; "
            "leave it out to tune every weight"
        )
    parts = [*layers[len(layers) - last_layers :], find(model, family.final_norm)]
    chosen = {id(weight) for part in parts for weight in part.parameters()}
    return {name: weight for name, weight in weights.items() if id(weight) in chosen}


def answer_logits(
    ports: Ports, batch: Batch, hiding: Hiding | None = None
) -> Float[Tensor, "batch vocab"]:
    """The model's logits behind the clean prompts; only these are unembedded.

    Args:
        ports: The model.
        batch: Under `hiding`, with its tokens dealt to spans.
        hiding: Places that part of a prompt does not see; its `steps` are not looked at.
    """
    norm, mask = ports.final_norm, batch.mask
    if hiding is not None:
        mask = attention_mask(batch, hiding, ports.model.dtype)
    with ports.intercept([(norm, "forward", narrow(norm.forward, batch.last))]):
        return ports.run(batch.clean, mask, batch.last)


@torch.no_grad()
def refuse_to_hide(ports: Ports, batch: Batch, hiding: Hiding) -> None:
    """Nothing, if the model's attention takes a mask of ours.

    Raises:
        ConfigError: under one that hides nothing it gives other logits than without.
    """
    plain, masked = (answer_logits(ports, batch, of) for of in (None, replace(hiding, places=())))
    if not torch.allclose(plain, masked, rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"attention of family {ports.model.config.model_type!r} makes its own masks, so "
            "nothing can be hidden from it; set hidden.steps=0"
        )


class Tuning(LightningModule):
    """Trains a model's own weights, or the last layers', to give the answers of pairs.

    The loss is the mean over the pairs of a batch of::

        -log P(any right answer | clean prompt),  in nats

    by AdamW, whose decay spares biases and norms, under a rate that rises and falls linearly.
    Dropout is off: a run that goes on from a checkpoint then leaves the bytes of one that did not
    stop. Checkpoints hold the weights that learn, the others come from the model.

    Args:
        model: Its weights are changed in place.
        last_layers: See `tuned_weights`.
        steps: Length of the run, for the schedule.
        lr: Peak learning rate.
        lr_warmup: Steps of linear warm-up.
        lr_end: Final rate as a fraction of `lr`.
        weight_decay: On matrices.
        hiding: Places that part of each prompt does not see in the first steps.
        job: Everything that decides the weights, by name: a checkpoint of another is refused.

    Raises:
        ConfigError: as `tuned_weights`.
    """

    strict_loading = False

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        last_layers: int | None = None,
        steps: int = 1000,
        lr: float = 1e-3,
        lr_warmup: int = 0,
        lr_end: float = 0.1,
        weight_decay: float = 0.0,
        hiding: Hiding | None = None,
        job: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.ports = model.eval(), Ports(model)
        self.steps, self.lr, self.lr_warmup, self.lr_end = steps, lr, lr_warmup, lr_end
        self.weight_decay, self.hiding, self.job = weight_decay, hiding, dict(job or {})
        self.learning = tuned_weights(model, last_layers)
        """The weights that learn, by their name in the model."""
        for weight in model.parameters():
            weight.requires_grad_(False)
        for weight in self.learning.values():
            weight.requires_grad_(True)
        self._right: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """Cross entropy of the right answers of one batch."""
        hides = self.hiding is not None and self.global_step < self.hiding.steps
        logits = answer_logits(self.ports, batch, self.hiding if hides else None)
        loss = cross_entropy(logits, batch).mean()
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                f"the loss became {loss.item()} at step {self.global_step} on examples "
                f"{batch.index.tolist()}; lower train.lr"
            )
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        self.log("train/loss", loss.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a gradient that would poison the weights, and log this step's learning rate."""
        self.log("train/lr", optimizer.param_groups[0]["lr"])
        for name, weight in self.learning.items():
            if weight.grad is not None and not bool(torch.isfinite(weight.grad).all()):
                raise NonFiniteError(
                    f"the gradient of {name} is not finite at step {self.global_step}; lower "
                    "train.lr or clip it with train.trainer.gradient_clip_val"
                )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on the weights that learn."""
        weights = self.learning.values()
        matrices = [weight for weight in weights if weight.ndim > 1]
        vectors = [weight for weight in weights if weight.ndim <= 1]
        groups = [(matrices, self.weight_decay), (vectors, 0.0)]
        optimizer = torch.optim.AdamW(
            [{"params": of, "weight_decay": decay} for of, decay in groups if of],
            lr=self.lr,
            betas=(0.9, 0.98),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: rate_factor(step, self.steps, self.lr_warmup, self.lr_end),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the weights that learn, and note what decides them."""
        checkpoint["job"], checkpoint["lr"] = self.job, self.lr
        checkpoint["state_dict"] = {f"model.{name}": w for name, w in self._detached().items()}

    def _detached(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.learning.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another job or of another model."""
        refuse_other(checkpoint, self.job, self.steps)
        own = {f"model.{name}": weight for name, weight in self._detached().items()}
        refuse_other_shapes(checkpoint["state_dict"], own)

    # ---------------------------------------------------------------- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Which pairs of a batch are right."""
        self._right.append(accuracy(answer_logits(self.ports, batch), batch))

    def on_validation_epoch_end(self) -> None:
        """Log the share of pairs on which a right answer beats every wrong one."""
        right = torch.cat(self._right).mean()
        self._right = []
        self.log("val_accuracy", right, prog_bar=True)
