"""What ends a trial of a search after its first epoch: that it changes nothing, and will not.

A run whose loss or weights are not finite is ended by :class:`~lit_unlearn.methods.callbacks.DivergenceWatch`.
"""

import copy
import math
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.functional import softmax

from lit_unlearn.backbones import Backbone
from lit_unlearn.metrics import relative_change

if TYPE_CHECKING:
    from lit_unlearn.methods.base import UnlearnModule

ANSWERS = 0.005
"""Half a point: the mean change of an answer at the end of training below which a trial changes nothing."""

WEIGHTS = 0.01
"""The relative change of all weights at the end of training below which a trial changes nothing."""

ACCURACY = 0.001
"""A tenth of a point: how far the accuracy of a trial that changes nothing may be off after the first epoch."""

_IMAGES = 1000


class NoEffectWatch(Callback):
    """Stops a run of E > 1 epochs that leaves the original as it is, and says so in the module's ``pruned``.

    After the first epoch it measures, on about 1,000 forget and 1,000 retained images in eval mode: w = ‖θ − θo‖/‖θo‖;
    a, the mean total variation distance between the original's answers (softmax) and those of a network with these
    weights and the original's BatchNorm statistics; and the model's accuracy as it stands. The run is stopped if
    E·w < .01, E²·a < .005, and the accuracy is within .1 point of the original's, on both sets. That is generous to
    slow methods: at a constant rate a grows about E times, E² leaves room for rates that begin low; a method whose
    answers begin to change late is kept for its weights. A method that raises a loss is never stopped: on images that
    the original has memorised the gradient is nearly 0 at first, and grows with the loss. BatchNorm's statistics move
    without any learning, and no further after some dozens of steps: they count as they are, by the accuracy.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures after the first epoch."""
        method, epochs = cast("UnlearnModule", pl_module), trainer.max_epochs or 0
        if trainer.current_epoch > 0 or epochs < 2 or method.from_scratch or method.raises_loss:
            return
        original = method.original_copy()
        if original is None:
            return
        moved = relative_change(original, method.unwrapped_backbone())
        found = [_change(trainer, method, original, split) for split in ("forget", "retain")]
        answers, accuracy = (max(values) for values in zip(*found, strict=True))
        without = epochs * moved < WEIGHTS and epochs**2 * answers < ANSWERS and accuracy <= ACCURACY
        if trainer.strategy.reduce_boolean_decision(without, all=True):
            method.pruned = (
                f"after one of {epochs} epochs it answers as the original does: mean change of an answer "
                f"{answers:.1e}, of the weights {moved:.1e}"
            )
            trainer.should_stop = True


@torch.no_grad()
def _change(trainer: Trainer, method: "UnlearnModule", original: Backbone, split: str) -> tuple[float, float]:
    """How far the weights move the answers on the first images of a split, and how far the model's accuracy is off."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    before, after = original.to(method.device), method.frozen_copy()
    weights = copy.deepcopy(before)
    weights.load_state_dict(dict(method.unwrapped_backbone().named_parameters()), strict=False)
    batches = islice(data.evaluation_batches(split, method.device), max(1, math.ceil(_IMAGES / data.eval_batch_size)))
    moved, gained = [torch.zeros(0, device=method.device)], [torch.zeros(0, device=method.device)]
    for images, labels in batches:
        old = before(images).float()
        moved.append((softmax(weights(images).float(), 1) - softmax(old, 1)).abs().sum(1) / 2)
        gained.append((after(images).argmax(1) == labels).float() - (old.argmax(1) == labels).float())
    return float(torch.cat(moved).mean()), abs(float(torch.cat(gained).mean()))
