"""MSG (masked small gradients): draw anew the kernel entries on which forget and retain agree, then fine-tune.

G = Σ_Df ∇θ CE(z(x), y) − |Df| / |Dr| · Σ_Dr ∇θ CE(z(x), y) at θo. In each convolution the share of entries with the
smallest |G| is re-initialised (Kaiming normal, fan out); then L = E_Dr[CE(z(x), y)], with the gradients of the other
entries of those kernels times .1. It comes from the NeurIPS 2023 unlearning challenge; name, rule and settings are
those of the benchmark of Cadet et al., Deep Unlearn, arXiv 2410.01276, and its code (``kgltop2``): share .3, 5 epochs
of batches of 64, learning rate .001 in a triangle over the epochs. Deviation: that code adds up mean gradients of
batches of Df and of as many random samples of Dr; here it is the gradients of single samples, in eval mode, and all of
Dr stands for those random samples, so that what is drawn anew depends on neither batches nor ranks.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.methods.salun import summed_gradients
from lit_unlearn.seed import run_seed


class MSG(UnlearnModule):
    """Re-initialises part of every convolution when a fit begins, and fine-tunes on the retain set.

    Args:
        backbone: the trained network, with a convolution at least.
        weights: the original weights.
        optimizer: makes an optimizer from parameters.
        lr_scheduler: makes a scheduler from an optimizer; it steps once an epoch.
        fraction: share of each kernel's entries that is drawn anew, in (0, 1].
        damping: what the gradients of the other entries are multiplied by, in [0, 1].

    Raises:
        UsageError: if a share is out of range, or the network has no convolution that learns.
    """

    order = "retain"
    search = (("lr", 3e-3, 0.3),)

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.001, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        fraction: float = 0.3,
        damping: float = 0.1,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        if not 0 < fraction <= 1:
            raise UsageError(f"fraction is {fraction}, but must be above 0 and at most 1")
        if not 0 <= damping <= 1:
            raise UsageError(f"damping is {damping}, but must be a share in [0, 1]")
        self.fraction, self.damping = fraction, damping
        self._kernels = [
            f"{name}.weight"
            for name, module in backbone.named_modules()
            if isinstance(module, nn.Conv2d) and module.weight.requires_grad
        ]
        if not self._kernels:
            raise UsageError(f"MSG re-initialises convolutions, but a {type(backbone).__name__} has none that learns")
        self._kept: list[tuple[nn.Parameter, Tensor]] = []

    def on_train_start(self) -> None:
        """Chooses what is drawn anew and, unless the run is resumed, draws it; the clock is running."""
        super().on_train_start()
        chosen = [smallest(difference, self.fraction) for difference in self._differences()]
        kernels = [self.backbone.get_parameter(name) for name in self._kernels]
        self._kept = [(kernel, ~mask) for kernel, mask in zip(kernels, chosen, strict=True)]
        if self.trainer.global_step == 0:
            draw = torch.Generator().manual_seed(run_seed())  # the same on every rank
            with torch.no_grad():
                for kernel, mask in zip(kernels, chosen, strict=True):
                    kernel.copy_(torch.where(mask, kaiming(kernel, draw), kernel))

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy of a retain batch."""
        images, labels = batch["retain"]
        loss = cross_entropy(self(images), labels)
        self.log("train/retain_loss", loss, batch_size=len(labels))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Damps the gradients of what was not drawn anew; weight decay stays whole, as in the reference."""
        for kernel, kept in self._kept:
            if kernel.grad is not None:
                kernel.grad.copy_(torch.where(kept, self.damping * kernel.grad, kernel.grad))

    def on_train_end(self) -> None:
        """Gives the memory of the masks back."""
        self._kept = []

    def _differences(self) -> list[Tensor]:
        original, counts = cast(Backbone, self.original_copy()), self._data().split.counts()
        values = [original.get_parameter(name).requires_grad_() for name in self._kernels]
        sums: dict[str, Sequence[Tensor]] = {}
        for part in ("forget", "retain"):
            own = summed_gradients(original, values, self._data().evaluation_batches(part, self.device))
            sums[part] = [self.trainer.strategy.reduce(each, reduce_op="sum") for each in own]
        share = counts["forget"] / counts["retain"]
        return [forget - share * retain for forget, retain in zip(sums["forget"], sums["retain"], strict=True)]


def smallest(values: Tensor, fraction: float) -> Tensor:
    """A mask of the same shape, true for that share of the entries whose absolute value is smallest."""
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[values.abs().flatten().argsort(stable=True)[: round(fraction * values.numel())]] = True
    return chosen.view_as(values)


def kaiming(kernel: Tensor, generator: torch.Generator) -> Tensor:
    """A fresh kernel like this one (out, in, height, width): normal, variance 2 / (out · height · width)."""
    deviation = math.sqrt(2 / (kernel.shape[0] * kernel[0, 0].numel()))
    return deviation * torch.randn(kernel.shape, dtype=kernel.dtype, generator=generator).to(kernel.device)
