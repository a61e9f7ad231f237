"""HeadOnly, a control: forget in the head alone, and keep every feature.

L = KL(softmax(z_θo with the forgotten classes at −∞) ‖ softmax(z)) over all training images, for the head alone; the
encoder, its running statistics too, stays θo's bit for bit. No published method: perfect by accuracy and shallow by
construction, so that an attack which does not expose it is no attack.
"""

from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.parts import part_of
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.methods.distillation import softmax_without


class HeadOnly(UnlearnModule):
    """Distils the head onto the original's answers without the forgotten classes.

    Args:
        backbone: the trained network; its encoder is frozen.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.

    Raises:
        UsageError: if the head is frozen already; before training, if what is to be forgotten is not whole classes.
    """

    order = "full"
    needs_classes = True
    search = (("lr", 0.01, 1.0),)

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        if not any(parameter.requires_grad for parameter in backbone.head.parameters()):
            raise UsageError(
                f"HeadOnly has nothing to train: the last linear layer ({backbone.head_path or 'head'}) is frozen"
            )
        backbone.train_only(part_of(backbone, "head"))
        self.teacher = self.original_copy()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """The divergence of the head from the original head, whose features are the same."""
        images, labels = batch["full"]
        assert self.teacher is not None
        with torch.no_grad():
            features = self.backbone.features(images)
            taught = without(self.teacher.head(features), list(self.data.split.forgotten_classes))
        loss = kl_div(log_softmax(self.backbone.head(features), 1), taught, reduction="batchmean")
        self.log("train/loss", loss, batch_size=len(labels))
        return loss


def without(logits: Tensor, classes: list[int]) -> Tensor:
    """The softmax (B, C) of logits with some classes at −∞, so that their probability is 0."""
    gone = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    gone[classes] = True
    return softmax_without(logits, gone)
