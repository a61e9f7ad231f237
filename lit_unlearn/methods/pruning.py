"""What ends a trial of a search after its first epoch: that it changes nothing, and will not.

A run whose loss or weights are not finite is ended by :class:`~lit_unlearn.methods.callbacks.DivergenceWatch`.
"""

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import softmax

from lit_unlearn.backbones import Backbone
from lit_unlearn.metrics import relative_change

if TYPE_CHECKING:
    from lit_unlearn.methods.base import UnlearnModule

ANSWERS = 0.005
"""Half a point: the mean change of an answer at the end of training below which a trial changes nothing."""

WEIGHTS = 0.01
"""The relative change of all weights at the end of training below which a trial changes nothing."""

_IMAGES = 1000


class NoEffectWatch(Callback):
    """Stops a run of E > 1 epochs that leaves the original as it is, and says so in the module's ``pruned``.

    After the first epoch it measures, on about 1,000 forget and 1,000 retained images in eval mode, the mean total
    variation distance a between the answers (softmax) of the model and of the original, and w = ‖θ − θo‖ / ‖θo‖. The
    run is stopped if E²·a < .005 on both sets and E·w < .01. Both are generous to slow methods: at a constant rate a
    grows about E times, E² leaves room for rates that begin low and for losses that climb; and a method whose answers
    begin to change late is kept for its weights.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures after the first epoch."""
        method, epochs = cast("UnlearnModule", pl_module), trainer.max_epochs or 0
        original = None if method.from_scratch else method.original_copy()
        if trainer.current_epoch > 0 or epochs < 2 or original is None:
            return
        moved = relative_change(original, method.unwrapped_backbone())
        answers = max(_change(trainer, method, original, split) for split in ("forget", "retain"))
        without = epochs**2 * answers < ANSWERS and epochs * moved < WEIGHTS
        if trainer.strategy.reduce_boolean_decision(without, all=True):
            method.pruned = (
                f"after one of {epochs} epochs it answers as the original does: mean change of an answer "
                f"{answers:.1e}, of the weights {moved:.1e}"
            )
            trainer.should_stop = True


@torch.no_grad()
def _change(trainer: Trainer, method: "UnlearnModule", original: Backbone, split: str) -> float:
    """The mean total variation distance between answers on the first images of a split; infinite with a class more."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    before, after = original.to(method.device), method.frozen_copy()
    count = max(1, math.ceil(_IMAGES / data.eval_batch_size))
    found: list[Tensor] = []
    for images, _ in islice(data.evaluation_batches(split, method.device), count):
        answers = [softmax(network(images).float(), 1) for network in (before, after)]
        if answers[0].shape != answers[1].shape:
            return math.inf
        found.append((answers[0] - answers[1]).abs().sum(1) / 2)
    return float(torch.cat(found).mean()) if found else 0.0
