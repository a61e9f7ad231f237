"""CT (convolution transpose): swap the two spatial axes of every convolution kernel, then train on the retain set.

K(o, i, y, x) ← K(o, i, x, y) once, when a fit begins; then L = E_Dr[CE(z(x), y)]. It comes from the NeurIPS 2023
unlearning challenge, whose settings the code of the benchmark of Cadet et al., Deep Unlearn, arXiv 2410.01276, keeps as
defaults (``kgltop5``): 3 epochs of batches of 64, learning rate .001 in a cosine over the epochs. The rows of that
benchmark are searched, and it trains on images that are not augmented. Kernels of one position stay as they are. That
code also swaps the axes of kernels that are not square, whose convolutions then have another geometry (padding and
stride stay) and an output of another size, if they run at all: here they are refused. It also makes frozen kernels
learn: here a frozen one is left alone. An attacker who knows the method transposes the images: the
readouts of the whole suite do so, too.
"""

from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.finetune import FineTune
from lit_unlearn.methods.kernels import learning_kernels


class CT(FineTune):
    """Transposes every convolution kernel when a fit begins, and trains on the retain set.

    Args:
        backbone: the trained network, with at least one convolution whose kernel is larger than 1x1.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.

    Raises:
        UsageError: if no convolution that learns has a kernel of several positions, or one is not square.
    """

    search = (("lr", 3e-4, 0.1), ("epochs", (1, 3, 6, 10)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.001, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        self._kernels = learning_kernels(backbone, "CT transposes kernels of several positions", positions=2)
        for name in self._kernels:
            height, width = backbone.get_parameter(name).shape[2:]
            if height != width:
                raise UsageError(f"CT cannot transpose {name}: its kernel is {height}x{width}, but must be square")

    def on_train_start(self) -> None:
        """Transposes the kernels, unless the run is resumed."""
        if self.trainer.global_step == 0:
            with torch.no_grad():
                for name in self._kernels:
                    kernel = self.backbone.get_parameter(name)
                    kernel.copy_(kernel.transpose(2, 3).clone())
