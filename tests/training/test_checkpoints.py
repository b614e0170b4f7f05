"""What an error leaves of the steps before it."""

import pytest
from lightning.pytorch import LightningModule, Trainer

from circuitprune.errors import NonFiniteError, RunError
from circuitprune.training.checkpoints import Checkpoints


class Still(Trainer):
    """A trainer that trains nothing and says what was saved."""

    global_step = 5
    world_size = 1
    max_steps = 100
    val_check_batch = None

    def __init__(self, **about: int) -> None:
        vars(self).update(about, saved=[])

    def save_checkpoint(self, filepath, weights_only=None, storage_options=None) -> None:
        self.saved.append(filepath)


@pytest.mark.parametrize(
    ("error", "about", "written"),
    [
        (RuntimeError("power cut"), {}, True),
        (KeyboardInterrupt(), {}, True),
        (RuntimeError("power cut"), {"global_step": 4}, False),  # there already
        (RuntimeError("in the middle of a step"), {"stepping": True}, False),
        (RuntimeError("others may be gone"), {"world_size": 2}, False),
        (NonFiniteError("the gates' own"), {}, False),
        (RunError("it cannot be written"), {}, False),
        (OSError("no space left"), {}, False),
    ],
)
def test_an_error_loses_no_whole_step_of_one_process(tmp_path, error, about, written):
    about = {**about}
    stepping = about.pop("stepping", False)
    trainer, checkpoints = Still(**about), Checkpoints(tmp_path, 4, lambda: False)
    checkpoints.written, checkpoints.stepping = 4, stepping
    checkpoints.on_exception(trainer, LightningModule(), error)
    assert bool(trainer.saved) == written


@pytest.mark.parametrize(
    ("step", "about", "written"),
    [
        (3, {}, False),
        (8, {}, True),  # every fourth
        (9, {"max_steps": 9}, True),
        (6, {"val_check_batch": 3}, True),  # a validation follows, which may be stopped
        (7, {"asked": True}, True),
    ],
)
def test_a_checkpoint_is_written_where_it_is_due(tmp_path, step, about, written):
    asked = about.get("asked", False)
    trainer = Still(global_step=step, **about)
    checkpoints = Checkpoints(tmp_path, 4, lambda: asked)
    checkpoints.stepping = True
    if asked:
        with pytest.raises(KeyboardInterrupt):
            checkpoints.on_train_batch_end(trainer, LightningModule())
    else:
        checkpoints.on_train_batch_end(trainer, LightningModule())
    assert bool(trainer.saved) == written and not checkpoints.stepping
    assert checkpoints.written == (step if written else 0)
