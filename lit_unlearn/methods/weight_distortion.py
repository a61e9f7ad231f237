"""WeightDistortion: add noise to every weight, then train on the retain set.

θ ← θo + N(0, σ²) in the entries of all parameters, those of BatchNorm and of the head among them; then
L = E_Dr[CE(z(x), y)]; Siddiqui et al., From Dormant to Deleted, arXiv 2505.22310, beside DistReg. σ .02, 100 epochs of
Adam with learning rate 1e-5 and batches of 128, as their code (``weight_distortion``). Its epochs have the steps of all
training samples, also those of Df, and all repeat the first 99 batches of Dr, 12,672 of 49,500 images: a measurement
after them ends the first pass. Here every epoch is one pass over Dr, shuffled and augmented anew. They forget the 500
most memorised images of one class of CIFAR-10. Parameters that are frozen get no noise.
"""

from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import Adam

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least
from lit_unlearn.methods.base import SearchSpace
from lit_unlearn.methods.finetune import FineTune
from lit_unlearn.seed import generator, run_seed


class WeightDistortion(FineTune):
    """Adds Gaussian noise to the weights when a fit begins, and trains on the retain set.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        sigma: σ ≥ 0, the standard deviation of the noise.

    Raises:
        UsageError: if ``sigma`` is negative.
    """

    search: ClassVar[SearchSpace] = (("lr", 3e-6, 0.01), ("sigma", 0.005, 0.2), ("epochs", (3, 10, 30, 100)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: Adam(params, lr=1e-5),
        lr_scheduler: LRSchedulerCallable | None = None,
        sigma: float = 0.02,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("sigma", sigma, 0)
        self.sigma = sigma

    def on_train_start(self) -> None:
        """Adds the noise, unless the run is resumed."""
        if self.trainer.global_step > 0:
            return
        draw = generator(run_seed(), "distortion")  # the same on every rank
        with torch.no_grad():
            for parameter in (p for p in self.backbone.parameters() if p.requires_grad):
                noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=draw)
                parameter.add_(noise.to(parameter.device), alpha=self.sigma)
