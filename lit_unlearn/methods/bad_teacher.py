"""BadTeacher (BT): on the forget set, learn from a network that knows nothing; on the retain set, from the original.

L = KL(u·softmax(z_bad) + (1 − u)·softmax(z_θo) ‖ softmax(z)), u = 1 for a forget sample and 0 for a retain sample, over
shuffled batches of both; Chundawat et al., Can Bad Teaching Induce Forgetting?, arXiv 2205.08096. The bad teacher is
the same network with random weights, drawn by each layer's own rule, of which every run of one seed has the same.
Layers of torchvision and timm then answer nearly alike for all classes, where the released code's ResNet-18 keeps the
larger initial weights of its class. Both teachers are in eval mode. The released code averages over batch *and*
classes, so its loss is C times smaller: ``elementwise_mean``; the default is the KL divergence. It trains one epoch of
Adam at 1e-4, as ``model/bad_teacher``, on part of the retain set, with a pretrained network whose student has dropout,
on images of 224 pixels that are not augmented; the default is the field's SGD.
"""

from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import unknown
from lit_unlearn.methods.base import UnlearnModule
from lit_unlearn.methods.retrain import random_copy

Reduction = Literal["batchmean", "elementwise_mean"]
_REDUCTIONS = ("batchmean", "elementwise_mean")


class BadTeacher(UnlearnModule):
    """Distils a random network on the forget set and the original on the retain set.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        reduction: ``batchmean``, the mean over samples, or ``elementwise_mean``, over samples and classes.

    Raises:
        UsageError: for an unknown reduction.
    """

    order = "mixed"
    search = (("lr", 1e-5, 0.01), ("epochs", (1, 3, 10)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        reduction: Reduction = "batchmean",
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        if reduction not in _REDUCTIONS:
            raise unknown("reduction", reduction, _REDUCTIONS)
        self.reduction = reduction
        self.teacher = self.original_copy()
        self.bad_teacher = random_copy(backbone, "bad_teacher")

    def training_step(self, batch: dict[str, tuple[Tensor, Tensor, Tensor]], batch_idx: int) -> Tensor:
        """The divergence from each sample's own teacher."""
        images, labels, is_forget = batch["mixed"]
        assert self.teacher is not None
        with torch.no_grad():
            taught = blend(self.teacher(images), self.bad_teacher(images), is_forget)
        losses = kl_div(log_softmax(self(images), 1), taught, reduction="none")
        loss = losses.mean() if self.reduction == "elementwise_mean" else losses.sum(1).mean()
        self.log("train/loss", loss, batch_size=len(labels))
        return loss


def blend(good: Tensor, bad: Tensor, is_forget: Tensor) -> Tensor:
    """What each sample is taught, probabilities (B, C): of ``bad`` logits if it is to be forgotten, else ``good``."""
    u = is_forget[:, None].to(good.dtype)
    return u * softmax(bad, 1) + (1 - u) * softmax(good, 1)
