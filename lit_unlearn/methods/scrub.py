"""SCRUB: a student that disobeys its teacher on the forget set and obeys it on the retain set.

L = −KL_T(θo ‖ θ) on every forget batch of the first ``msteps`` epochs, then, in each epoch, L = γ·CE + α·KL_T(θo ‖ θ)
on every retain batch; one optimizer for both. Kurmanji et al., Towards Unbounded Machine Unlearning, arXiv 2302.09880.
Defaults are the paper's large-scale settings: 3 epochs, batches of 128 retain and 32 forget samples, momentum .9.

SCRUB+R (``rewind``) keeps the weights of each epoch and ends with those whose error on the forget set is nearest the
final model's error on a validation set with the classes of the forget set, in its proportions. The paper has images for
that which no training ever saw. Here, since the test set is not for choosing, they are a share of the retained training
images of those classes, which SCRUB leaves out; the original did learn them, so their error, and what is forgotten, is
too small rather than too large. Of a class that is forgotten whole nothing is retained: there SCRUB+R is refused.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.base import Labelled, UnlearnModule, at_least
from lit_unlearn.methods.distillation import distillation_loss

_EPOCHS = "scrub_epochs"


class SCRUB(UnlearnModule):
    """Drives the student from the original on the forget set, and holds it there on the retain set.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: makes an optimizer from parameters.
        lr_scheduler: makes a scheduler from an optimizer; it steps once an epoch.
        msteps: how many epochs, from the first, begin with a pass over the forget set.
        gamma: γ ≥ 0, weight of the cross-entropy on the retain set.
        alpha: α ≥ 0, weight of the distillation on the retain set.
        temperature: T > 0 of the distillation.
        rewind: SCRUB+R, end with the epoch that has forgotten just enough; of two as good, the later.
        validation: with ``rewind``, how much of the retained samples of each class concerned is left out, in (0, 1).

    Raises:
        UsageError: if a number is out of range.
    """

    order = "forget_then_retain"
    search = (("lr", 3e-4, 0.01), ("alpha", 1e-3, 1.0))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=5e-4, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        msteps: int = 2,
        gamma: float = 0.99,
        alpha: float = 0.001,
        temperature: float = 4.0,
        rewind: bool = False,
        validation: float = 0.1,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        at_least("msteps", msteps, 0)
        at_least("gamma", gamma, 0)
        at_least("alpha", alpha, 0)
        at_least("temperature", temperature, 0, strict=True)
        if not 0 < validation < 1:
            raise UsageError(f"validation is {validation}, but must be a share between 0 and 1")
        self.msteps, self.gamma, self.alpha, self.temperature = msteps, gamma, alpha, temperature
        self.rewind = rewind
        self.holdout = validation if rewind else 0.0
        self.teacher = self.original_copy()
        self._epochs: list[dict[str, Any]] = []

    def order_in(self, epoch: int) -> str:
        """All of forget and then all of retain, later retain alone."""
        return "forget_then_retain" if epoch < self.msteps else "retain"

    def prepare_data(self) -> None:
        """Refuses SCRUB+R, too, where no validation part can be had.

        Raises:
            UsageError: see there and in the base class.
        """
        super().prepare_data()
        if self.rewind and self.trainer.state.fn == "fit":
            _ = self._data().validation

    def setup(self, stage: str) -> None:
        """Begins without any epoch to go back to."""
        super().setup(stage)
        self._epochs = []

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """A step of the max pass on a forget batch, or of the min pass on a retain batch."""
        ((part, (images, labels)),) = batch.items()
        assert self.teacher is not None
        with torch.no_grad():
            taught = self.teacher(images)
        logits = self(images)
        divergence = distillation_loss(logits, taught, self.temperature)
        loss = -divergence if part == "forget" else self.gamma * cross_entropy(logits, labels) + self.alpha * divergence
        self.log(f"train/{part}_loss", loss, batch_size=len(labels), on_epoch=True, on_step=False)
        return loss

    def on_train_epoch_end(self) -> None:
        """With ``rewind``, keeps the epoch, and after the last goes back to the best."""
        if self.rewind and self.diverged is None:
            wrong, count = self._errors("forget")
            error = float(wrong.sum() / count.sum())
            self.log("train/forget_error", error)
            state = {name: value.detach().cpu().clone() for name, value in self.backbone.state_dict().items()}
            self._epochs.append({"epoch": self.current_epoch, "error": error, "state": state})
            if self._is_last_epoch():
                self._go_back(count)
        super().on_train_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the epochs so far, for a run that is resumed; after the last there are none."""
        super().on_save_checkpoint(checkpoint)
        if self._epochs:
            checkpoint[_EPOCHS] = self._epochs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the epochs so far."""
        super().on_load_checkpoint(checkpoint)
        self._epochs = list(checkpoint.get(_EPOCHS, []))

    def _go_back(self, forget_counts: Tensor) -> None:
        wrong, count = self._errors("validation")
        goal = reference_error(wrong, count, forget_counts)
        best = min(reversed(self._epochs), key=lambda kept: abs(kept["error"] - goal))
        self.backbone.load_state_dict(best["state"])
        self._epochs = []
        rank_zero_info(
            f"SCRUB+R: back to epoch {best['epoch']}, whose error on the forget set, {best['error']:.3f}, is nearest "
            f"the validation error, {goal:.3f}"
        )

    @torch.no_grad()
    def _errors(self, split: str) -> tuple[Tensor, Tensor]:
        """For each class, how many samples of a split the model gets wrong, and how many there are, over all ranks."""
        network, classes = self.frozen_copy(), self.backbone.num_classes
        totals = torch.zeros(2, classes, device=self.device)
        for images, labels in self._data().evaluation_batches(split, self.device):
            missed = network(images).argmax(1) != labels
            totals += torch.stack([labels[missed].bincount(minlength=classes), labels.bincount(minlength=classes)])
        wrong, count = self.trainer.strategy.reduce(totals, reduce_op="sum")
        return wrong, count

    def _is_last_epoch(self) -> bool:
        trainer, done = self.trainer, self.current_epoch + 1
        stopped = trainer.should_stop and done >= (trainer.min_epochs or 0)
        return stopped or done == trainer.max_epochs or trainer.global_step == trainer.max_steps


def reference_error(wrong: Tensor, count: Tensor, weights: Tensor) -> float:
    """The error over classes (C,) with these counts of wrong and all answers, each class weighted as given."""
    rates = wrong / count.clamp(min=1)
    return float((rates * weights).sum() / weights.sum())
