"""SFRon (SFR-on): climb the loss of the forget set with salient weights, and repair on the retain set after each climb.

Every ``forget_every``-th step, L = −α_t · Σ w_i CE_i over a forget batch, w_i ∝ 1 / CE_i^λ (constants, Σ w_i = 1), with
m ⊙ ∇L, its norm clipped; in every step then L = E_Dr[CE(z(x), y)], by the same optimizer, whose momentum and weight
decay move all weights either time. m = 1 where F_f ≥ γ·F_r: the diagonals of the empirical Fisher information of Df and
Dr at θo in eval mode. α_t falls from α to 0 in a cosine over all steps. After a step, θ ← (1 − β)·θ_before + β·θ. Huang
et al., arXiv 2409.19732. The released code's settings for CIFAR-10: α 25, λ .5, γ 1, β 1 (θ itself), norm 7, every 5th
of 1500 steps, batches of 128, learning rate .01, itself a cosine. Deviations: F has the squared gradients of samples
(``per_sample``), where that code squares mean gradients of shuffled batches (``per_batch``, here of images that are not
augmented); the learning rate falls by the epoch. Steps are counted in epochs here: a smaller set gets fewer than 1500,
and a larger forget set fewer ascents per image than theirs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least, check_fraction
from lit_unlearn.methods.base import Labelled, UnlearnData, UnlearnModule
from lit_unlearn.methods.fading import cosine, planned_epochs
from lit_unlearn.methods.gradients import GradientKind, damp_gradients, mean_squared_gradients, one_of_gradients

_TINY = 1e-15  # the released code's


class SFRon(UnlearnModule):
    """Alternates steps of weighted, masked ascent on forget with steps of descent on retain.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        alpha: α ≥ 0, weight of the ascent in the first step.
        temperature: λ ≥ 0; the larger, the less weight samples have that are forgotten already.
        threshold: γ ≥ 0, how many times as important to Df as to Dr a weight must be to climb; 0 takes all.
        forget_every: how many steps from one ascent to the next.
        max_norm: what the norm of an ascent's gradient is clipped to.
        slow_rate: β in (0, 1], the share of each step that is kept; 1 keeps all of it.
        importance: ``per_sample``, or ``per_batch`` (the released code; also where vmap fails on a network).
        chunk_size: how many samples' gradients are held at a time.

    Raises:
        UsageError: for an unknown importance, or a number out of range; before training, if there is no ``max_epochs``.
    """

    order = "paired"
    raises_loss = True
    search = (("lr", 1e-3, 0.1), ("alpha", 1.0, 100.0), ("epochs", (4, 8, 16)), ("forget_every", (1, 5)))

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
        importance: GradientKind = "per_sample",
        chunk_size: int = 32,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        for name, value in (("alpha", alpha), ("temperature", temperature), ("threshold", threshold)):
            check_at_least(name, value, 0)
        for name, count in (("forget_every", forget_every), ("chunk_size", chunk_size)):
            check_at_least(name, count, 1)
        check_at_least("max_norm", max_norm, 0, strict=True)
        check_fraction("slow_rate", slow_rate, one=True)
        one_of_gradients("importance", importance)
        self.alpha, self.temperature, self.threshold, self.forget_every = alpha, temperature, threshold, forget_every
        self.max_norm, self.slow_rate, self.importance, self.chunk_size = max_norm, slow_rate, importance, chunk_size
        self.automatic_optimization = False
        self._held: list[tuple[nn.Parameter, Tensor]] = []
        self._climbing = False

    def check_data(self, data: UnlearnData) -> None:
        """Checks that the ascent has epochs to fade over."""
        planned_epochs(self, "its ascent fades")

    def on_train_start(self) -> None:
        """Finds the salient weights of θo, in a resumed run too."""
        data, original = self.data, cast(Backbone, self.original_copy())
        learning = {name: p for name, p in self.backbone.named_parameters() if p.requires_grad}
        if self.importance == "per_sample":
            size, parts = self.chunk_size, [data.evaluation_batches(part, self.device) for part in ("forget", "retain")]
        else:  # all of it on every rank
            counts, size = data.split.counts(), None
            parts = [data.shuffled_batches(part, self.device, counts[part]) for part in ("forget", "retain")]
        squares = [mean_squared_gradients(original, learning, part, self.importance, size) for part in parts]
        forget, retain = (each.mean(self.trainer.strategy) for each in squares)
        ratios = {name: (forget[name] + _TINY) / (retain[name] + _TINY) for name in learning}
        self._held = [(p, ~(ratios[name] >= self.threshold)) for name, p in learning.items()]

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Where there is a forget batch an ascent on it, then a descent on the retain batch."""
        per_epoch = int(self.trainer.num_training_batches)
        before = [p.detach().clone() for p, _ in self._held] if self.slow_rate < 1 else []
        if "forget" in batch:
            images, labels = batch["forget"]
            step = self.current_epoch * per_epoch + batch_idx
            alpha = cosine(self.alpha, step, per_epoch * (self.trainer.max_epochs or 1))
            losses = cross_entropy(self(images), labels, reduction="none")
            forget_loss = weighted(losses, self.temperature, self.trainer.strategy.reduce)
            self._step(-alpha * forget_loss, climbing=True)
            self.log("train/forget_loss", forget_loss, batch_size=len(labels), on_epoch=True, on_step=False)
        images, labels = batch["retain"]
        loss = cross_entropy(self(images), labels)
        self._step(loss, climbing=False)
        self.log("train/retain_loss", loss, batch_size=len(labels))
        with torch.no_grad():
            for old, (parameter, _) in zip(before, self._held, strict=False):
                parameter.copy_(old.lerp(parameter, self.slow_rate))
        return loss.detach()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Masks and clips the gradients of an ascent."""
        if self._climbing:
            damp_gradients(self._held, 0.0)
            nn.utils.clip_grad_norm_([parameter for parameter, _ in self._held], self.max_norm)

    def on_train_end(self) -> None:
        """Frees the mask."""
        self._held = []

    def _step(self, loss: Tensor, climbing: bool) -> None:
        optimizer = cast(Optimizer, self.optimizers())
        optimizer.zero_grad()
        self.manual_backward(loss)
        self._climbing = climbing
        optimizer.step()


def weighted(losses: Tensor, temperature: float, mean: Callable[[Tensor], Tensor] = lambda total: total) -> Tensor:
    """The mean of losses (B,), each weighted by 1 / loss^λ, itself without gradient.

    Args:
        losses: of this rank's samples.
        temperature: λ.
        mean: the mean of a number over ranks, so that the mean of what they return is that over all samples.
    """
    coefficients = 1 / (losses.detach() ** temperature + _TINY)
    return (coefficients * losses).sum() / mean(coefficients.sum())
