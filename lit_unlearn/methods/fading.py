"""The epochs of a run, and coefficients that fall to 0 over them, for the methods that depend on its end."""

import math

from lightning.pytorch import LightningModule

from lit_unlearn.errors import UsageError


def planned_epochs(module: LightningModule, what: str) -> int:
    """How many epochs the run is to have.

    Args:
        module: the method in its Trainer.
        what: what happens over them, for the error.

    Raises:
        UsageError: if the Trainer has no ``max_epochs``.
    """
    epochs = module.trainer.max_epochs
    if epochs is None or epochs < 0:
        raise UsageError(f"{type(module).__name__} needs trainer.max_epochs: {what} over them")
    return epochs


def is_last_epoch(module: LightningModule) -> bool:
    """Whether the epoch that has just been trained, or validated, is the last of the run."""
    trainer, done = module.trainer, module.current_epoch + 1
    stopped = trainer.should_stop and done >= (trainer.min_epochs or 0)
    return stopped or done == trainer.max_epochs or trainer.global_step == trainer.max_steps


def linear_decay(value: float, epoch: int, end: int) -> float:
    """A value that falls from itself in epoch 0 in a straight line to 0 in epoch ``end``, and stays there."""
    return value * (1 - epoch / end) if epoch < end else 0.0


def cosine(value: float, step: int, steps: int) -> float:
    """A value that falls from itself in step 0 in half a cosine to 0 in step ``steps``."""
    return value * (1 + math.cos(math.pi * step / steps)) / 2
