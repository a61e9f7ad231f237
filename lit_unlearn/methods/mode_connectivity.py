"""ModeConnectivity: train on the retain set, and raise the loss halfway to the original.

L = E_Dr[CE(z(θ, x), y)] − w·min(E_Dr∪Df[CE(z((θ + θo)/2, x), y)], c), the second mean over a retain and a forget batch
together; Siddiqui et al., From Dormant to Deleted, arXiv 2505.22310, beside DistReg: a model that no path of low loss
joins with the original resists relearning. Training starts from θo, as it may there; their launcher starts it from a
network that another method has unlearned. w .001, c 50, 100 epochs of Adam with learning rate 1e-5 and batches of 128,
as their code (``mode_connectivity``). As there, BatchNorm takes the batch's statistics at the midpoint too. Its epochs
have the steps of all training samples, also those of Df, and all repeat the first pass over Df and the first 99 batches
of Dr, 12,672 of 49,500 images: a measurement after them ends its first pass. Here every pass is shuffled and augmented
anew. They forget the 500 most memorised images of one class of CIFAR-10. It also counts the
midpoint's batches in the student's ``num_batches_tracked``; here nothing of the midpoint enters the student's
statistics.
"""

from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least
from lit_unlearn.methods.base import Labelled, UnlearnModule


class ModeConnectivity(UnlearnModule):
    """Trains on the retain set, with a barrier of loss between θ and θo.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        weight: w ≥ 0, of the cross-entropy at the midpoint.
        cap: c > 0, the cross-entropy (nats) beyond which it is raised no further.

    Raises:
        UsageError: if an argument is out of range.
    """

    order = "paired"
    raises_loss = True
    search = (("lr", 3e-6, 0.01), ("weight", 1e-4, 0.1), ("epochs", (3, 10, 30, 100)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: Adam(params, lr=1e-5),
        lr_scheduler: LRSchedulerCallable | None = None,
        weight: float = 0.001,
        cap: float = 50.0,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("weight", weight, 0)
        check_at_least("cap", cap, 0, strict=True)
        self.weight, self.cap = weight, cap
        self.teacher = self.original_copy()

    def on_train_start(self) -> None:
        """Has the midpoint, whose weights stand in for the original's, take the statistics of batches."""
        cast(Backbone, self.teacher).train()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy of a retain batch, less that of both batches at the midpoint."""
        (images, labels), (gone, names) = batch["retain"], batch["forget"]
        loss = cross_entropy(self(images), labels)
        barrier = cross_entropy(self._midpoint(torch.cat([images, gone])), torch.cat([labels, names]))
        self.log_dict({"train/retain_loss": loss, "train/midpoint_loss": barrier}, batch_size=len(labels))
        return loss - self.weight * barrier.clamp(max=self.cap)

    def _midpoint(self, images: Tensor) -> Tensor:
        original = cast(Backbone, self.teacher)
        pairs = zip(self.backbone.named_parameters(), original.parameters(), strict=True)
        weights = {name: (ours + theirs) / 2 for (name, ours), theirs in pairs}
        logits: Tensor = functional_call(original, weights, (images,))
        return logits
