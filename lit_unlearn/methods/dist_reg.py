"""DistReg: train on the retain set, with a reward for every step away from the original's weights.

L = E_Dr[CE(z(x), y)] − w·√(mean (θ − θo)² + 1e-8), the mean over the entries of all parameters, those of BatchNorm and
of the head among them; Siddiqui et al., From Dormant to Deleted, arXiv 2505.22310 ("Weight Dist Reg"), which finds that
the distance to the original predicts how well a model resists relearning. w 1, 100 epochs of Adam with learning rate
1e-5 and batches of 128, as their code (``weight_dist_reg``). Its epochs have the steps of all training samples, also
those of Df, and all repeat the first 99 batches of Dr, 12,672 of 49,500 images: a measurement after them ends the first
pass. Here every epoch is one pass over Dr, shuffled and augmented anew. They forget the 500 most memorised images of
one class of CIFAR-10. Here training starts from θo, as it may there; its launcher starts it from a network that another
method has unlearned.
"""

from pathlib import Path
from typing import cast

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.methods.networks import squared_distance

_TINY = 1e-8


class DistReg(UnlearnModule):
    """Trains on the retain set and away from θo.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        weight: w ≥ 0, of the distance, which grows without bound.

    Raises:
        UsageError: if ``weight`` is negative.
    """

    order = "retain"
    search = (("lr", 3e-6, 0.01), ("weight", 0.1, 10.0), ("epochs", (3, 10, 30, 100)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: Adam(params, lr=1e-5),
        lr_scheduler: LRSchedulerCallable | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("weight", weight, 0)
        self.weight = weight
        self.teacher = self.original_copy()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy of a retain batch, less the distance."""
        images, labels = batch["retain"]
        loss = cross_entropy(self(images), labels)
        apart = distance(self.backbone, cast(Backbone, self.teacher))
        self.log_dict({"train/retain_loss": loss, "train/distance": apart}, batch_size=len(labels))
        return loss - self.weight * apart


def distance(network: nn.Module, other: nn.Module) -> Tensor:
    """√(mean (θ − θ')² + 1e-8) over the entries of all parameters of two networks of the same shape."""
    entries = sum(parameter.numel() for parameter in network.parameters())
    return (squared_distance(network, other) / entries + _TINY).sqrt()
