"""NGD, noisy gradient descent: fine-tune on the retain set with noise that drowns the rest.

g ← ∇E_Dr[CE(z(x), y)] + N(0, σ²) in every coordinate, before every update; after Chourasia & Shah, Forget Unlearning,
arXiv 2210.08911, whose updates are full-batch and add √(2η)·N(0, σ²) to the weights, η the learning rate. Here the
noise is the last thing that happens to a gradient: it is not clipped, and momentum and learning rate act on it as on
the rest. The authors have no public code for networks; that of others (jacob-block/overparameterized-unlearning), which
adds it to the gradient, too, tries σ of .1, 1 and 10, with AdamW. The default is ours.
"""

from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least
from lit_unlearn.methods.finetune import FineTune
from lit_unlearn.seed import generator, run_seed


class NGD(FineTune):
    """Trains θo further on the retain set, with Gaussian noise on the gradients.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        sigma: σ ≥ 0, the standard deviation of the noise on each gradient coordinate.

    Raises:
        UsageError: if ``sigma`` is negative.
    """

    search = (("lr", 1e-3, 0.1), ("sigma", 1e-3, 10.0))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        sigma: float = 0.01,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("sigma", sigma, 0)
        self.sigma = sigma

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as the Trainer says, then adds the noise: Lightning asks this last before a step."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        # The same on every rank, or their weights would drift apart, and in a resumed run.
        source = generator(run_seed(), "noise", self.trainer.global_step, device=self.device)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (gradient := parameter.grad) is not None:
                    noise = torch.randn(gradient.shape, generator=source, device=gradient.device, dtype=gradient.dtype)
                    gradient.add_(noise, alpha=self.sigma)
