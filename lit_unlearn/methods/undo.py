"""UNDO (unlearn, noise, distil on outputs): suppress, blend the weights with noise, and learn the answers again.

1. For k epochs L = E_Dr[CE(z(x), y)] + E_Df[KL(uniform ‖ softmax z(x))], from θo: the paper's MaxEnt. Or the weights
   that any other method left, ``suppressed``. Either is the teacher θs.
2. θ ← (1 − α)·θs + α·β·N, N a fresh initialisation of the network; the optimizer starts anew.
3. L = E_D[KL(softmax z_θs(x) ‖ softmax z(x))] on all data, as their code, or on Dr alone (``distil_on``), until the
   accuracy on Dr is within a tolerance of the teacher's.

Lee et al., Distillation Robustifies Unlearning, arXiv 2506.06278, for language models; code
AddieFoote/distillation-robustify-unlearning, of whose settings those that carry over are in ``model/undo``. Deviations:
its N is Xavier-uniform for matrices and 0 for vectors; it looks at a validation set every 20 steps, here all of Dr
after each epoch; retain and forget samples share a batch in 1, and so BatchNorm's statistics. For the ResNets here N is
1.4 times as large as Xavier's in kernels between equal widths, 1.2 times where the width doubles, and .4 times in the
head; and BatchNorm's fresh scales, 1, have a share, too. BatchNorm undoes the scale of the kernels before it: with it,
β/(1/α − 1) says how much is forgotten, and the paper's β .1 is little.
"""

import math
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.errors import UsageError, check_at_least, check_fraction, unknown
from lit_unlearn.methods.base import Labelled, UnlearnData, UnlearnModule
from lit_unlearn.methods.distillation import distillation_loss
from lit_unlearn.methods.retrain import random_copy
from lit_unlearn.methods.rewinding import count_errors

DistilOn = Literal["all", "retain"]


class UNDO(UnlearnModule):
    """Suppresses the forget set, and distils the result into a copy that is partly noise.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch, through both phases.
        suppress_epochs: k ≥ 1, how many of the epochs suppress; the rest distil.
        suppress_rate: the learning rate of suppression, as a multiple > 0 of that of distillation.
        suppressed: what another method made of the original, such as its ``unlearned.ckpt``: then every epoch distils.
        alpha: α in (0, 1], how much of the suppressed weights is given up.
        beta: β ≥ 0, the scale of the noise.
        distil_on: ``all`` data, on which the teacher answers for Df, too, as it was taught in 1; or ``retain`` alone.
        tolerance: fraction in [0, 1]: training stops after an epoch whose accuracy on the retain set is no more than
            this below the teacher's; None distils to the end.

    Raises:
        UsageError: if a number is out of range, ``distil_on`` is unknown, or ``suppressed`` does not fit the network;
            before training, if it is of another split, or no epoch would be left to distil.
    """

    order = "paired"
    training_only = ("suppressed",)
    search = (
        ("lr", 1e-4, 0.01),
        ("suppress_rate", 0.05, 1.0),
        ("alpha", 0.3, 0.9, (0.01, 1.0)),
        ("beta", 0.05, 1.0, (0.001, 1.0)),
    )

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        suppress_epochs: int = 1,
        suppress_rate: float = 1.0,
        suppressed: str | Path | None = None,
        alpha: float = 0.6,
        beta: float = 0.1,
        distil_on: DistilOn = "all",
        tolerance: float | None = 0.05,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("suppress_epochs", suppress_epochs, 1)
        check_at_least("suppress_rate", suppress_rate, 0, strict=True)
        check_fraction("alpha", alpha, one=True)
        check_at_least("beta", beta, 0)
        if distil_on not in get_args(DistilOn):
            raise unknown("distil_on", distil_on, get_args(DistilOn))
        if tolerance is not None:
            check_fraction("tolerance", tolerance, zero=True, one=True)
        self.alpha, self.beta, self.distil_on, self.tolerance = alpha, beta, distil_on, tolerance
        teacher = cast(Backbone, self.original_copy())
        self.loaded_teacher = load_weights(teacher, suppressed) if suppressed is not None else None
        self.hparams["suppressed"] = None if suppressed is None else str(suppressed)
        self.suppress_epochs, self.suppress_rate = 0 if suppressed is not None else suppress_epochs, suppress_rate
        self.suppressed = nn.ModuleList([teacher])  # a Backbone by itself would be left out of every checkpoint
        self.noise = random_copy(backbone, "noise")
        self._teachers_error: float | None = None
        self._planned: list[tuple[dict[str, Any], float]] = []

    def check_data(self, data: UnlearnData) -> None:
        """Checks that there is something to distil, and epochs to do so.

        Raises:
            UsageError: naming the setting.
        """
        split = self.loaded_teacher and self.loaded_teacher.split
        if split not in (None, data.split.hash):
            raise UsageError(f"suppressed {self.hparams['suppressed']} is of split {split}, not {data.split.hash}")
        epochs, most = self.suppress_epochs, self.trainer.max_epochs
        if most is not None and 0 <= most <= epochs and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UsageError(f"suppress_epochs is {epochs}, but must be below trainer.max_epochs, which is {most}")

    def order_in(self, epoch: int) -> str:
        """Pairs of both sets while it suppresses, then all data or the retain set alone."""
        if epoch < self.suppress_epochs:
            return "paired"
        return "full" if self.distil_on == "all" else "retain"

    def on_train_start(self) -> None:
        """Gives suppression its rate; stops a resumed run that had come near enough to its teacher already."""
        for optimizer in self.trainer.optimizers:
            optimizer.register_step_pre_hook(self._take_own_rate)
            optimizer.register_step_post_hook(self._give_planned_rate_back)
        self._teachers_error = None
        if self.current_epoch > self.suppress_epochs:
            self._stop_if_near()

    def on_train_epoch_start(self) -> None:
        """Between the phases, keeps the suppressed network as the teacher, and puts noise into the backbone."""
        if self.current_epoch == self.suppress_epochs:
            teacher, student = self._teacher, self.backbone
            source, target = (teacher, student) if self.loaded_teacher else (student, teacher)
            target.load_state_dict(source.state_dict())
            add_noise(self.backbone, self.noise, self.alpha, self.beta)
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """First suppression on a batch of either set, later distillation on one of all data, or of the retain set."""
        if "forget" in batch:
            images, labels = batch["retain"]
            logits = self(torch.cat([images, batch["forget"][0]]))
            retain_loss, forget_loss = cross_entropy(logits[: len(images)], labels), from_uniform(logits[len(images) :])
            losses = {"train/retain_loss": retain_loss, "train/forget_loss": forget_loss}
            self.log_dict(losses, batch_size=len(labels))
            return retain_loss + forget_loss
        images, labels = batch["full" if self.distil_on == "all" else "retain"]
        with torch.no_grad():
            taught = self._teacher(images)
        loss = distillation_loss(self(images), taught, temperature=1.0)
        self.log("train/distillation", loss, batch_size=len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        """Stops after an epoch of distillation that came near enough to the teacher."""
        if self.current_epoch >= self.suppress_epochs and self.diverged is None:
            self._stop_if_near()

    def _take_own_rate(self, optimizer: Optimizer, *_: object) -> None:
        for group in optimizer.param_groups if self.current_epoch < self.suppress_epochs else ():
            self._planned.append((group, group["lr"]))
            group["lr"] *= self.suppress_rate

    def _give_planned_rate_back(self, *_: object) -> None:
        """Right after the step, so that the schedule sees nothing of it."""
        for group, rate in self._planned:
            group["lr"] = rate
        self._planned = []

    def _stop_if_near(self) -> None:
        if self.tolerance is not None:
            if self._teachers_error is None:
                self._teachers_error = self._retained_error(self._teacher)
            if self._retained_error(self.frozen_copy()) <= self._teachers_error + self.tolerance:
                self.finish()

    def _retained_error(self, network: Backbone) -> float:
        wrong, count = count_errors(self, network, "retain")
        return float(wrong.sum() / count.sum())

    @property
    def _teacher(self) -> Backbone:
        return cast(Backbone, self.suppressed[0])


def from_uniform(logits: Tensor) -> Tensor:
    """KL(uniform ‖ softmax(logits)), the mean over samples; logits (B, C)."""
    return -log_softmax(logits, 1).mean() - math.log(logits.shape[1])


@torch.no_grad()
def add_noise(network: nn.Module, noise: nn.Module, alpha: float, beta: float) -> None:
    """θ ← (1 − α)·θ + α·β·N for every parameter that learns."""
    for value, other in zip(network.parameters(), noise.parameters(), strict=True):
        if value.requires_grad:
            value.mul_(1 - alpha).add_(other, alpha=alpha * beta)
