"""RandomLabels (RL): teach wrong answers for the forget set, then repair on the retain set.

L = E_Df[CE(z(x), ỹ)] over all forget batches, then E_Dr[CE(z(x), y)] over all retain batches; ỹ uniform. Labels are
drawn for each batch and may be the true one (the saliency protocol for CIFAR-10 and SVHN, Fan et al., SalUn, arXiv
2310.12508; for CIFAR-100 and TinyImageNet its code draws them once an epoch and mixes both sets in each batch).
``exclude_true`` draws among the others only, as Graves et al., Amnesiac Machine Learning, arXiv 2010.10981, whose code
draws each label once and mixes the sets.
"""

from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.methods.base import Labelled, SearchSpace, UnlearnModule


class RandomLabels(UnlearnModule):
    """Trains the forget set against random labels and the retain set against its own.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        exclude_true: never draw a sample's true label.
    """

    order = "forget_then_retain"
    search: ClassVar[SearchSpace] = (("lr", 1e-3, 0.1), ("epochs", (5, 10)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.013, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        exclude_true: bool = False,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        self.exclude_true = exclude_true

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy on a forget batch with random labels, or on a retain batch."""
        ((part, (images, labels)),) = batch.items()
        if part == "forget":
            labels = random_labels(labels, self.backbone.num_classes, self.exclude_true)
        loss = cross_entropy(self(images), labels)
        self.log(f"train/{part}_loss", loss, batch_size=len(labels), on_epoch=True, on_step=False)
        return loss


def random_labels(labels: Tensor, num_classes: int, exclude_true: bool) -> Tensor:
    """Uniform labels (B,), with or without each sample's own."""
    if exclude_true:
        return (labels + torch.randint_like(labels, 1, num_classes)) % num_classes
    return torch.randint_like(labels, 0, num_classes)
