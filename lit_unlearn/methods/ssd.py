"""SSD (selective synaptic dampening): shrink, in one shot, the weights that matter more to the forget set than to all.

I_D, I_f = mean squared gradients of CE on D and on Df, in eval mode; where I_f > α·I_D: θ ← θ · min(λ·I_D / I_f, 1).
Foster et al., arXiv 2308.07707. The paper means gradients of single samples, ``importance="per_sample"``; the released
code squares mean gradients of batches, D and Df each in batches of their own: ``per_batch``, the default, since the
published α 10 and λ 1 belong to it.

The two are on different scales. Df is a part of D, so that I_D ≥ |Df| / |D| · I_f for ``per_sample``, and only α in
(1, |D| / |Df|), below 3.3 for three of ten classes and 10 for a tenth, can single out weights; λ has the same limit.
For ``per_batch`` no such bound holds: gradients cancel within a batch of D, which has all classes, more than within one
of Df. Deviation: D is shuffled here. The released code has it sorted by classes and Df last, so that its batches of D
hold those of Df, and about the same bound holds there; its requests are small, such as one class of a hundred.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.methods.base import UnlearnModule
from lit_unlearn.methods.gradients import GradientKind, MeanSquares, loss_gradients, one_of_gradients
from lit_unlearn.methods.protocols import UnlearnData


class SSD(UnlearnModule):
    """Measures importances in one epoch, dampens at its end and stops, whatever ``max_epochs`` says.

    Args:
        backbone: the trained network.
        weights: the original weights.
        alpha: α ≥ 0: how many times more important to Df than to D a weight must be for it to be dampened; with
            ``per_sample`` below |D| / |Df|, and above 1 for it to single out what Df needs.
        dampening: λ ≥ 0; with ``per_sample`` below |D| / |Df|.
        importance: ``per_batch`` (the released code; also where vmap fails on a network) or ``per_sample`` (the paper).
        chunk_size: how many samples' gradients are held at a time.

    Raises:
        UsageError: for an unknown importance, or a number out of range; before training, for α or λ with which
            ``per_sample`` importances can change no weight, and for a checkpoint from within the pass.
    """

    order = "mixed"
    search = (("alpha", 1.0, 30.0, (0.1, 100.0)), ("dampening", 0.1, 3.0, (0.01, 10.0)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        alpha: float = 10.0,
        dampening: float = 1.0,
        importance: GradientKind = "per_batch",
        chunk_size: int = 32,
    ) -> None:
        super().__init__(backbone, weights)
        for name, value, low in (("alpha", alpha, 0), ("dampening", dampening, 0), ("chunk_size", chunk_size, 1)):
            check_at_least(name, value, low)
        one_of_gradients("importance", importance)
        self.alpha, self.dampening, self.importance, self.chunk_size = alpha, dampening, importance, chunk_size
        self.automatic_optimization = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Nothing is trained."""
        return []

    def check_data(self, data: UnlearnData) -> None:
        """Checks that some weight could be dampened."""
        if self.importance != "per_sample":
            return
        counts = data.split.counts()
        forget, full = counts["forget"], counts["forget"] + counts["retain"]
        for name, value in (("alpha", self.alpha), ("dampening", self.dampening)):
            if value * forget >= full:
                raise UsageError(
                    f"{name} is {value}, but must be below {full / forget:.3g}, with importances per sample: no weight "
                    f"matters more than that to the {forget:,} samples to forget than to all {full:,}, and none would "
                    "be dampened"
                )

    def on_train_start(self) -> None:
        """Starts to measure the network as it answers, in eval mode."""
        measured = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if self.current_epoch == 0 and 0 < measured < self.trainer.num_training_batches:
            raise UsageError("SSD has a single pass, which cannot go on from its middle: leave ckpt_path out")
        self.backbone.eval()
        if self.current_epoch > 0:  # a run that had dampened is resumed
            self.finish()
        self._weights = {name: p.detach() for name, p in self.backbone.named_parameters() if p.requires_grad}
        self._full, self._forget = MeanSquares(self._weights), MeanSquares(self._weights)
        self._waiting: tuple[Tensor, ...] = ()

    def training_step(self, batch: dict[str, tuple[Tensor, Tensor, Tensor]], batch_idx: int) -> Tensor:
        """Adds a batch of all training samples to both importances."""
        images, labels, is_forget = batch["mixed"]
        measure = self._measure_samples if self.importance == "per_sample" else self._measure_batches
        with torch.autocast(self.device.type, enabled=False):  # small gradients, squared, need the range
            loss = measure(images, labels, is_forget)
        self.log("train/loss", loss, batch_size=len(labels))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Dampens after the last batch, before the epoch's validation, and ends the run."""
        if self.current_epoch > 0 or batch_idx + 1 < self.trainer.num_training_batches:
            return
        if self._waiting:
            self._measure_batch(self._forget, *self._waiting)
        full, forget = (each.mean(self.trainer.strategy) for each in (self._full, self._forget))
        self.log("train/dampened", chosen_share(full, forget, self.alpha))
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(dampened(weight, full[name], forget[name], self.alpha, self.dampening))
        self.finish()

    def _measure_samples(self, images: Tensor, labels: Tensor, is_forget: Tensor) -> Tensor:
        losses = []
        for part in zip(*(torch.split(tensor, self.chunk_size) for tensor in (images, labels, is_forget)), strict=True):
            gradients, loss = loss_gradients(self.backbone, self._weights, part[0], part[1], "per_sample")
            self._full.add(gradients, torch.ones_like(loss))
            self._forget.add(gradients, part[2].to(loss))
            losses.append(loss)
        return torch.cat(losses).mean()

    def _measure_batches(self, images: Tensor, labels: Tensor, is_forget: Tensor) -> Tensor:
        new = images[is_forget], labels[is_forget]
        waiting = tuple(map(torch.cat, zip(self._waiting, new, strict=True))) if self._waiting else new
        size = self.data.forget_batch_size or self.data.batch_size
        while len(waiting[1]) >= size:
            self._measure_batch(self._forget, *(tensor[:size] for tensor in waiting))
            waiting = tuple(tensor[size:] for tensor in waiting)
        self._waiting = waiting if len(waiting[1]) else ()
        return self._measure_batch(self._full, images, labels)

    def _measure_batch(self, squares: MeanSquares, images: Tensor, labels: Tensor) -> Tensor:
        gradients, loss = loss_gradients(self.backbone, self._weights, images, labels, "per_batch")
        squares.add(gradients, torch.ones_like(loss))
        return loss.mean()


def dampened(weight: Tensor, full: Tensor, forget: Tensor, alpha: float, dampening: float) -> Tensor:
    """The weight, times min(λ·I_D / I_f, 1) where I_f > α·I_D."""
    return torch.where(forget > alpha * full, weight * (dampening * full / forget).clamp(max=1), weight)


def chosen_share(full: dict[str, Tensor], forget: dict[str, Tensor], alpha: float) -> Tensor:
    """The share of all weights whose importance to Df is above α times that to D."""
    return torch.cat([(forget[name] > alpha * full[name]).flatten() for name in full]).float().mean()
