"""Going back, at the end, to the epoch that has forgotten just enough: the R of SCRUB+R."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_fraction
from lit_unlearn.methods.base import UnlearnData, UnlearnModule
from lit_unlearn.methods.fading import is_last_epoch

_EPOCHS = "epochs"


class RewindingModule(UnlearnModule):
    """Base of methods that may keep each epoch's weights and end with the best.

    Those are best whose error on the forget set is nearest the final model's error on a validation set with the classes
    of the forget set, in its proportions: retained training images of those classes, which training leaves out.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        rewind: end with the epoch that has forgotten just enough; of two as good, the later.
        validation: with ``rewind``, how much of the retained samples of each class concerned is left out, in (0, 1).

    Raises:
        UsageError: if ``validation`` is out of range; before training, if no validation part can be had.
    """

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        rewind: bool,
        validation: float,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_fraction("validation", validation)
        self.rewind = rewind
        self.holdout = validation if rewind else 0.0
        self._epochs: list[dict[str, Any]] = []

    def check_data(self, data: UnlearnData) -> None:
        """Refuses SCRUB+R where no validation part can be had.

        Raises:
            UsageError: naming the class of which too little is retained.
        """
        if self.rewind:
            _ = data.holdout

    def setup(self, stage: str) -> None:
        """Begins without any epoch to go back to."""
        self._epochs = []

    def on_train_epoch_end(self) -> None:
        """With ``rewind``, keeps the epoch, and after the last goes back to the best."""
        if self.rewind and self.diverged is None:
            wrong, count = count_errors(self, self.frozen_copy(), "forget")
            error = float(wrong.sum() / count.sum())
            self.log("train/forget_error", error)
            state = {name: value.detach().cpu().clone() for name, value in self.backbone.state_dict().items()}
            self._epochs.append({"epoch": self.current_epoch, "error": error, "state": state})
            if is_last_epoch(self):
                self._go_back(count)

    def saved_state(self) -> dict[str, Any]:
        """The epochs so far, for a run that is resumed; after the last there are none."""
        return {_EPOCHS: self._epochs} if self._epochs else {}

    def load_saved_state(self, state: dict[str, Any]) -> None:
        """Takes up the epochs so far."""
        self._epochs = list(state.get(_EPOCHS, []))

    def _go_back(self, forget_counts: Tensor) -> None:
        wrong, count = count_errors(self, self.frozen_copy(), "holdout")
        goal = reference_error(wrong, count, forget_counts)
        best = min(reversed(self._epochs), key=lambda kept: abs(kept["error"] - goal))
        self.backbone.load_state_dict(best["state"])
        self._epochs = []
        rank_zero_info(
            f"{type(self).__name__}+R: back to epoch {best['epoch']}, whose error on the forget set, "
            f"{best['error']:.3f}, is nearest the validation error, {goal:.3f}"
        )


@torch.no_grad()
def count_errors(module: UnlearnModule, network: Backbone, split: str) -> tuple[Tensor, Tensor]:
    """For each class, how many samples of a split a network gets wrong, and how many there are, over all ranks."""
    classes = network.num_classes
    totals = torch.zeros(2, classes, device=module.device)
    for images, labels in module.data.evaluation_batches(split, module.device):
        missed = network(images).argmax(1) != labels
        totals += torch.stack([labels[missed].bincount(minlength=classes), labels.bincount(minlength=classes)])
    wrong, count = module.trainer.strategy.reduce(totals, reduce_op="sum")
    return wrong, count


def reference_error(wrong: Tensor, count: Tensor, weights: Tensor) -> float:
    """The error over classes (C,) with these counts of wrong and all answers, each class weighted as given."""
    rates = wrong / count.clamp(min=1)
    return float((rates * weights).sum() / weights.sum())
