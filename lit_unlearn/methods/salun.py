"""SalUn (saliency unlearning): random labels, for the weights that matter to the forget set alone.

m = 1 for the share of weights with the largest |Σ_Df ∇θ CE(z(x), y)| at θo in eval mode, ranked over all parameters;
then RandomLabels with m ⊙ ∇L. Fan et al., arXiv 2310.12508. Other weights end bit-equal to θo: neither momentum, weight
decay nor whatever else an optimizer does moves them (the released code leaked until 2026-02). The released code sums
the mean gradients of training's batches, ``gradients="per_batch"``; the default sums single samples', so that the mask
depends on neither batches nor ranks. Deviation: that code augments those images; here they are as they are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gradient_batches import gradient_batches
from lit_unlearn.errors import check_fraction
from lit_unlearn.methods.gradients import GradientKind, damp_gradients, largest, one_of_gradients, summed_gradients
from lit_unlearn.methods.random_labels import RandomLabels


class SalUn(RandomLabels):
    """Trains the salient weights with random labels for the forget set and the retain set's own.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        exclude_true: never draw a sample's true label.
        fraction: share of all weights that may move, in (0, 1].
        gradients: what the mask's sum is of, ``per_sample`` or ``per_batch`` (the released code).

    Raises:
        UsageError: for unknown gradients, or if ``fraction`` is out of range.
    """

    search = (("lr", 1e-3, 0.1), ("fraction", 0.1, 0.9, (0.01, 1.0)), ("epochs", (5, 10)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.013, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        exclude_true: bool = False,
        fraction: float = 0.5,
        gradients: GradientKind = "per_sample",
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler, exclude_true)
        check_fraction("fraction", fraction, one=True)
        one_of_gradients("gradients", gradients)
        self.fraction, self.gradients = fraction, gradients
        self._held: list[tuple[nn.Parameter, Tensor, Tensor]] = []

    def on_train_start(self) -> None:
        """Finds the salient weights of θo, in a resumed run too."""
        names = [name for name, parameter in self.backbone.named_parameters() if parameter.requires_grad]
        original = cast(Backbone, self.original_copy())
        values = [original.get_parameter(name).requires_grad_() for name in names]
        data = self.data
        if self.gradients == "per_batch":  # all of it on every rank, but for rounding
            batches, how = data.shuffled_batches("forget", self.device, data.split.counts()["forget"]), "mean"
        else:
            batches, how = gradient_batches(data.evaluation_batches("forget", self.device)), "sum"
        saliency = summed_gradients(original, values, batches, self.gradients)
        masks = largest([self.trainer.strategy.reduce(each, reduce_op=how) for each in saliency], self.fraction)
        learning = [self.backbone.get_parameter(name) for name in names]
        self._held = [
            (parameter, ~mask, value.detach()) for parameter, mask, value in zip(learning, masks, values, strict=True)
        ]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Masks gradients, before they are clipped and enter the optimizer's state."""
        damp_gradients(((parameter, held) for parameter, held, _ in self._held), 0.0)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Takes back whatever the optimizer did to the other weights."""
        optimizer.step(closure=optimizer_closure)
        with torch.no_grad():
            for parameter, held, value in self._held:
                parameter.copy_(torch.where(held, value, parameter))

    def on_train_end(self) -> None:
        """Frees the mask."""
        self._held = []
