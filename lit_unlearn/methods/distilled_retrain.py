"""DistilledRetrain, a baseline: a new start that learns from the original's answers on retained images.

L = E_Dr[CE(z(x), y) + w · KL_T(θo ‖ θ)] from a fresh initialisation; where whole classes are forgotten, both
distributions leave them out, so that the original says nothing of them. No paper's method: no weight of the original is
left, so every method that promises depth must beat it at equal cost.
"""

import copy
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least
from lit_unlearn.methods.base import Labelled, SearchSpace
from lit_unlearn.methods.distillation import distillation_loss
from lit_unlearn.methods.networks import FRESH
from lit_unlearn.methods.retrain import Retrain


class DistilledRetrain(Retrain):
    """Trains on the retain set from scratch, with the original as a teacher.

    Args:
        backbone: the network; without ``weights``, the trained one.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        distill: w ≥ 0, weight of the distillation.
        temperature: T > 0 of the distillation.

    Raises:
        UsageError: if a number is out of range, or as for :class:`Retrain`.
    """

    needs_original = True
    search: ClassVar[SearchSpace] = (("lr", 0.01, 0.3), ("distill", 0.3, 10.0))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        distill: float = 1.0,
        temperature: float = 2.0,
    ) -> None:
        check_at_least("distill", distill, 0)
        check_at_least("temperature", temperature, 0, strict=True)
        given = copy.deepcopy(backbone) if weights in (None, FRESH) else None
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        if given is not None:
            self.set_original(given)
        self.distill, self.temperature = distill, temperature
        self.teacher = self.original_copy()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy and distillation on a batch of the retain set."""
        images, labels = batch["retain"]
        assert self.teacher is not None
        with torch.no_grad():
            taught = self.teacher(images)
        logits = self(images)
        gone = list(self.data.split.forgotten_classes)
        loss = cross_entropy(logits, labels) + self.distill * distillation_loss(logits, taught, self.temperature, gone)
        self.log("train/loss", loss)
        return loss
