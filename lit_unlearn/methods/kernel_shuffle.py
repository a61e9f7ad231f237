"""KernelShuffle, a control: permute the entries of every convolution kernel, then train on the retain set.

K ← K∘π once, when a fit begins, π a random order of all entries of the kernel (``tensor``) or of the entries of each
output channel (``channel``); then L = E_Dr[CE(z(x), y)]. No paper's method. Each kernel keeps its values and with them
their distribution, and loses where they stood: a fresh start at the original's scale, above which BatchNorm, biases and
head are the original's. The orders depend on the run's seed alone and are not kept, so that, unlike in
:mod:`lit_unlearn.methods.ct`, there is nothing to turn back; but who knows the seed can draw them again.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import unknown
from lit_unlearn.methods.finetune import FineTune
from lit_unlearn.methods.kernels import learning_kernels
from lit_unlearn.seed import generator, run_seed

Within = Literal["tensor", "channel"]


class KernelShuffle(FineTune):
    """Shuffles every convolution kernel when a fit begins, and trains on the retain set.

    Args:
        backbone: the trained network, with at least one convolution.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        within: what entries change places in: the whole kernel, ``tensor``, or each output channel, ``channel``.

    Raises:
        UsageError: if ``within`` is unknown, or the network has no convolution that learns.
    """

    search = (("lr", 3e-3, 0.3),)

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.04, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        within: Within = "tensor",
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        if within not in get_args(Within):
            raise unknown("within", within, get_args(Within))
        self.within = within
        self._kernels = learning_kernels(backbone, "KernelShuffle shuffles convolutions")

    def on_train_start(self) -> None:
        """Shuffles the kernels, unless the run is resumed."""
        if self.trainer.global_step == 0:
            draw = generator(run_seed(), "shuffle")  # the same on every rank
            with torch.no_grad():
                for name in self._kernels:
                    kernel = self.backbone.get_parameter(name)
                    rows = kernel.reshape(1 if self.within == "tensor" else len(kernel), -1)
                    kernel.copy_(shuffled(rows, draw).view(kernel.shape))


def shuffled(rows: Tensor, source: torch.Generator) -> Tensor:
    """The rows (R, N), the entries of each in a random order of their own; contiguous."""
    order = torch.rand(rows.shape, generator=source, dtype=torch.float64).argsort(dim=1)
    return rows.gather(1, order.to(rows.device))
