"""SFRon (SFR-on): climb the loss of the forget set with salient weights, and repair on the retain set after each climb.

Every ``forget_every``-th step, L = −α_t · Σ w_i CE_i over a forget batch, w_i ∝ 1 / CE_i^λ (constants, Σ w_i = 1), with
m ⊙ ∇L, its norm clipped: the fast weights; in every step then L = E_Dr[CE(z(x), y)], by the same optimizer, whose
momentum and weight decay move all weights either time. m = 1 where F_f ≥ γ·F_r: the diagonals of the empirical Fisher
information of Df and Dr at θo in eval mode. α_t falls from α to 0 in a cosine over all steps. After a step the slow
weights follow: θ ← (1 − β)·θ_before + β·θ. Huang et al., Unified Gradient-Based Machine Unlearning with Remain Geometry
Enhancement, arXiv 2409.19732. The released code's settings for CIFAR-10: α 25, λ .5, γ 1, β 1 (θ itself), norm 7, every
5th of 1500 steps, batches of 128, learning rate .01, itself a cosine. Deviations: F has the squared gradients of single
samples (``per_sample``), where the released code squares mean gradients of batches (``per_batch``); forget batches are
those of the order ``paired``, so that those of the other steps are passed over.
"""

import math
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.methods.base import Labelled, UnlearnModule, at_least
from lit_unlearn.methods.ssd import Importance, MeanSquares

_TINY = 1e-15  # the released code's


class SFRon(UnlearnModule):
    """Alternates steps of weighted, masked ascent on forget with steps of descent on retain.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: makes an optimizer from parameters.
        lr_scheduler: makes a scheduler from an optimizer; it steps once an epoch.
        alpha: α ≥ 0, weight of the ascent in the first step.
        temperature: λ ≥ 0; the larger, the less an ascent heeds samples that are forgotten already.
        threshold: γ ≥ 0, how many times as important to Df as to Dr a weight must be to climb; 0 takes all.
        forget_every: how many steps from one ascent to the next.
        max_norm: what the norm of an ascent's gradient is clipped to.
        slow_rate: β in (0, 1].
        importance: ``per_sample``, or ``per_batch`` (the released code; also where vmap fails on a network).
        chunk_size: how many samples' gradients are held at a time.

    Raises:
        UsageError: for an unknown importance, or a number out of range; before training, if there is no ``max_epochs``.
    """

    order = "paired"
    search = (("lr", 1e-3, 0.1), ("alpha", 1.0, 50.0))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        alpha: float = 25.0,
        temperature: float = 0.5,
        threshold: float = 1.0,
        forget_every: int = 5,
        max_norm: float = 7.0,
        slow_rate: float = 1.0,
        importance: Importance = "per_sample",
        chunk_size: int = 32,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        for name, value in (("alpha", alpha), ("temperature", temperature), ("threshold", threshold)):
            at_least(name, value, 0)
        for name, count in (("forget_every", forget_every), ("chunk_size", chunk_size)):
            at_least(name, count, 1)
        at_least("max_norm", max_norm, 0, strict=True)
        if not 0 < slow_rate <= 1:
            raise UsageError(f"slow_rate is {slow_rate}, but must be above 0 and at most 1")
        if importance not in ("per_sample", "per_batch"):
            raise unknown("importance", importance, ("per_sample", "per_batch"))
        self.alpha, self.temperature, self.threshold, self.forget_every = alpha, temperature, threshold, forget_every
        self.max_norm, self.slow_rate, self.importance, self.chunk_size = max_norm, slow_rate, importance, chunk_size
        self.automatic_optimization = False
        self._salient: list[tuple[nn.Parameter, Tensor]] = []
        self._climbing = False

    def prepare_data(self) -> None:
        """Checks also that the ascent has epochs to fade over."""
        super().prepare_data()
        epochs = self.trainer.max_epochs
        if self.trainer.state.fn == "fit" and (epochs is None or epochs < 0):
            raise UsageError("SFRon needs trainer.max_epochs: its ascent fades over them")

    def on_train_start(self) -> None:
        """Finds the salient weights of θo, a resumed run's too; the clock is running."""
        super().on_train_start()
        learning = {name: p for name, p in self.backbone.named_parameters() if p.requires_grad}
        forget, retain = self._fisher("forget", learning), self._fisher("retain", learning)
        self._salient = [
            (p, (forget[name] + _TINY) / (retain[name] + _TINY) >= self.threshold) for name, p in learning.items()
        ]

    def on_train_epoch_start(self) -> None:
        """Steps the scheduler, which Lightning leaves to those who step their optimizer themselves."""
        super().on_train_epoch_start()
        scheduler = cast(Any, self.lr_schedulers())
        if scheduler is not None and self.current_epoch > 0:
            scheduler.step()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """At times an ascent on the forget batch, then a descent on the retain batch."""
        per_epoch = int(self.trainer.num_training_batches)
        step = self.current_epoch * per_epoch + batch_idx
        before = [p.detach().clone() for p, _ in self._salient] if self.slow_rate < 1 else []
        if step % self.forget_every == 0:
            images, labels = batch["forget"]
            alpha = cosine(self.alpha, step, per_epoch * (self.trainer.max_epochs or 1))
            forget_loss = weighted(cross_entropy(self(images), labels, reduction="none"), self.temperature)
            self._step(-alpha * forget_loss, climbing=True)
            self.log("train/forget_loss", forget_loss, batch_size=len(labels), on_epoch=True, on_step=False)
        images, labels = batch["retain"]
        loss = cross_entropy(self(images), labels)
        self._step(loss, climbing=False)
        self.log("train/retain_loss", loss, batch_size=len(labels))
        with torch.no_grad():
            for old, (parameter, _) in zip(before, self._salient, strict=False):
                parameter.copy_(old.lerp(parameter, self.slow_rate))
        return loss.detach()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Masks and clips the gradients of an ascent."""
        if self._climbing:
            for parameter, mask in self._salient:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            nn.utils.clip_grad_norm_([parameter for parameter, _ in self._salient], self.max_norm)

    def on_train_end(self) -> None:
        """Gives the memory of the mask back."""
        self._salient = []

    def _step(self, loss: Tensor, climbing: bool) -> None:
        optimizer = cast(Optimizer, self.optimizers())
        optimizer.zero_grad()
        self.manual_backward(loss)
        self._climbing = climbing
        optimizer.step()

    def _fisher(self, split: str, learning: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        original = cast(Backbone, self.original_copy())
        weights = {name: original.get_parameter(name).detach() for name in learning}
        squares = MeanSquares(weights)

        def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(functional_call(original, weights, (images,)), labels)

        single = self.importance == "per_sample"
        size = self.chunk_size if single else self._data().batch_size
        for batch in self._data().evaluation_batches(split, self.device):
            for images, labels in zip(*(part.split(size) for part in batch), strict=True):
                if len(labels) == 0:  # a rank may have none
                    continue
                if single:
                    gradients = vmap(grad(loss), (None, 0, 0))(weights, images[:, None], labels[:, None])
                else:
                    gradients = {name: each[None] for name, each in grad(loss)(weights, images, labels).items()}
                squares.add(gradients, torch.ones(len(labels) if single else 1, device=self.device))
        return squares.mean(self.trainer.strategy)


def weighted(losses: Tensor, temperature: float) -> Tensor:
    """The mean of losses (B,), each weighted by 1 / loss^λ, itself without gradient."""
    coefficients = 1 / (losses.detach() ** temperature + _TINY)
    return (coefficients * losses).sum() / coefficients.sum()


def cosine(value: float, step: int, steps: int) -> float:
    """A value that falls from itself in step 0 to 0 in step ``steps``."""
    return value * (1 + math.cos(math.pi * step / steps)) / 2
