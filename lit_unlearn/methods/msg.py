"""MSG (masked small gradients): re-initialise the kernel entries on which forget and retain agree, then fine-tune.

G = Σ_Df ∇θ CE(z(x), y) − |Df| / |Dr| · Σ_Dr ∇θ CE(z(x), y) at θo. In each convolution the share of entries with the
smallest |G| is re-initialised (Kaiming normal, fan out); then L = E_Dr[CE(z(x), y)], with the gradients of the other
entries of those kernels times .1. It comes from the NeurIPS 2023 unlearning challenge, whose settings the code of the
benchmark of Cadet et al., Deep Unlearn, arXiv 2410.01276, keeps as defaults (``kgltop2``): share .3, 5 epochs of
batches of 64, learning rate .001 in a triangle over the epochs. The rows of that benchmark are searched, and it trains
on images that are not augmented. That code adds up the mean gradients of batches, in
train mode, first of as many random samples of Dr as Df has, then of Df, which moves BatchNorm's running statistics too:
``gradients="per_batch"``. The default sums single samples' in eval mode, all of Dr in place of random samples, so that
the choice depends on neither batches nor ranks. The biases of convolutions, which that code loses, are kept.
"""

from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gradient_batches import gradient_batches
from lit_unlearn.errors import check_fraction
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.methods.gradients import GradientKind, damp_gradients, one_of_gradients, smallest, summed_gradients
from lit_unlearn.methods.kernels import kaiming, learning_kernels
from lit_unlearn.seed import generator, run_seed


class MSG(UnlearnModule):
    """Re-initialises part of every convolution when a fit begins, and fine-tunes on the retain set.

    Args:
        backbone: the trained network, with at least one convolution.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        fraction: share of each kernel's entries that is re-initialised, in (0, 1].
        damping: what the gradients of the other entries are multiplied by, in [0, 1].
        gradients: what G is summed from, ``per_sample`` or ``per_batch`` (the released code).

    Raises:
        UsageError: for unknown gradients, a share out of range, or a network with no convolution that learns.
    """

    order = "retain"
    search = (("lr", 3e-4, 0.1), ("fraction", 0.1, 0.9, (0.01, 1.0)), ("epochs", (3, 5, 10)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.001, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        fraction: float = 0.3,
        damping: float = 0.1,
        gradients: GradientKind = "per_sample",
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_fraction("fraction", fraction, one=True)
        check_fraction("damping", damping, zero=True, one=True)
        one_of_gradients("gradients", gradients)
        self.fraction, self.damping, self.gradients = fraction, damping, gradients
        self._kernels = learning_kernels(backbone, "MSG re-initialises convolutions")
        self._kept: list[tuple[nn.Parameter, Tensor]] = []

    def on_train_start(self) -> None:
        """Chooses what is re-initialised and, unless the run is resumed, draws it."""
        original = cast(Backbone, self.original_copy())
        chosen = [smallest(difference, self.fraction) for difference in self._differences(original)]
        kernels = [self.backbone.get_parameter(name) for name in self._kernels]
        self._kept = [(kernel, ~mask) for kernel, mask in zip(kernels, chosen, strict=True)]
        if self.trainer.global_step == 0:
            draw = generator(run_seed(), "kernels")  # the same on every rank
            with torch.no_grad():
                for kernel, kept in self._kept:
                    kernel.copy_(torch.where(kept, kernel, kaiming(kernel, draw)))
                for name, statistics in original.named_buffers():
                    self.backbone.get_buffer(name).copy_(statistics)

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy of a retain batch."""
        images, labels = batch["retain"]
        loss = cross_entropy(self(images), labels)
        self.log("train/retain_loss", loss, batch_size=len(labels))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Damps the gradients of what was not re-initialised; weight decay is not damped, as in the reference."""
        damp_gradients(self._kept, self.damping)

    def on_train_end(self) -> None:
        """Frees the masks."""
        self._kept = []

    def _differences(self, original: Backbone) -> list[Tensor]:
        data, trainer, size = self.data, self.trainer, self.data.split.counts()["forget"]
        if self.gradients == "per_batch":
            torch.manual_seed(run_seed())  # dropout, the same in a resumed run
            original.train()
            parts = [data.shuffled_batches(part, self.device, size) for part in ("retain", "forget")]
            share, how = 1.0, "mean"  # all of it on every rank, but for rounding
        else:
            parts = [gradient_batches(data.evaluation_batches(part, self.device)) for part in ("retain", "forget")]
            share, how = size / data.split.counts()["retain"], "sum"
        values = [original.get_parameter(name).requires_grad_() for name in self._kernels]
        sums = [summed_gradients(original, values, part, self.gradients) for part in parts]
        retain, forget = ([trainer.strategy.reduce(each, reduce_op=how) for each in own] for own in sums)
        return [ours - share * theirs for ours, theirs in zip(forget, retain, strict=True)]
