"""SSD (selective synaptic dampening): shrink, in one shot, the weights that matter more to the forget set than to all.

I_D, I_f = mean squared gradients of CE on D and on Df, in eval mode; where I_f > α·I_D: θ ← θ · min(λ·I_D / I_f, 1).
Foster et al., arXiv 2308.07707. The paper means gradients of single samples, ``importance="per_sample"``; the released
code squares mean gradients of batches, ``per_batch``, the default, since the published λ 1 belongs to it. Batches of D
are those of Df and those of Dr, and where whole classes are forgotten, each is of one class, as in the released code
(src/forget_full_class_main.py): in a batch of several classes gradients cancel, and every weight seems to belong to Df.

Df is a part of D, so that I_D ≥ |Df| / |D| · I_f, counted in samples or in batches: only α in (1, |D| / |Df|) can
single out weights, below 3.3 for three of ten classes. λ has the same limit. The published α 10 is for one class of
twenty or of a hundred, and for .165 % of the images, 83 of CIFAR-10, in batches of 128. Without an α of your own it is
(|D| / |Df|)^s. At 10 their code has s = .77 for a class of twenty, the default and the gentlest of these, .50 for one
of a hundred and .39 for the 83 images, all counted in batches. They also have α 50 for one of 105 faces (s = .84),
and on a vision transformer 5 for a class of twenty (.54) and 25 for a subclass (.70). Deviations: images are augmented
as the data say, where that code does not augment; what is left of the classes' last batches makes batches together; in
the released code two classes that follow each other share one, and the last samples of Dr share one with the first of
Df.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, check_fraction
from lit_unlearn.methods.base import UnlearnModule
from lit_unlearn.methods.gradients import GradientKind, MeanSquares, loss_gradients, one_of_gradients
from lit_unlearn.methods.protocols import Labelled, UnlearnData


class SSD(UnlearnModule):
    """Measures importances in one epoch, dampens at its end and stops, whatever ``max_epochs`` says.

    Args:
        backbone: the trained network.
        weights: the original weights.
        alpha: α ≥ 0, below |D| / |Df|: how many times more important to Df than to D a weight must be for it to be
            dampened; above 1 for it to single out what Df needs. None takes it from ``selectivity``.
        dampening: λ ≥ 0, below |D| / |Df|.
        importance: ``per_batch`` (the released code; also where vmap fails on a network) or ``per_sample`` (the paper).
        chunk_size: how many samples' gradients are held at a time.
        selectivity: s in (0, 1), for α = (|D| / |Df|)^s.

    Raises:
        UsageError: for an unknown importance, or a number out of range; before training, for α or λ with which no
            weight can change, and for a checkpoint from within the pass.
    """

    order = "forget_then_retain"
    search = (("selectivity", 0.4, 0.95, (0.01, 0.99)), ("dampening", 0.1, 1.9, (0.01, 1.9)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        alpha: float | None = None,
        dampening: float = 1.0,
        importance: GradientKind = "per_batch",
        chunk_size: int = 32,
        selectivity: float = 0.77,
    ) -> None:
        super().__init__(backbone, weights)
        for name, value, low in (("alpha", alpha, 0), ("dampening", dampening, 0), ("chunk_size", chunk_size, 1)):
            if value is not None:
                check_at_least(name, value, low)
        check_fraction("selectivity", selectivity)
        one_of_gradients("importance", importance)
        self.alpha, self.dampening, self.importance, self.chunk_size = alpha, dampening, importance, chunk_size
        self.selectivity = selectivity
        self.automatic_optimization = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Nothing is trained."""
        return []

    def check_data(self, data: UnlearnData) -> None:
        """Checks that some weight could be dampened."""
        limit, counts = self._limit(data), data.split.counts()
        for name, value in (("alpha", self.alpha), ("dampening", self.dampening)):
            if value is not None and value >= limit:
                raise UsageError(
                    f"{name} is {value}, but must be below {limit:.3g}: no weight can matter that much more to the "
                    f"{counts['forget']:,} samples to forget than to all {counts['forget'] + counts['retain']:,}, so "
                    "that none would be dampened"
                )

    def _limit(self, data: UnlearnData) -> float:
        """|D| / |Df|, in samples or in batches: how many times more a weight can matter to Df than to D."""
        forget, retain = (data.split.counts()[name] for name in ("forget", "retain"))
        if self.importance == "per_batch":
            forget, retain = -(-forget // _size(data, "forget")), -(-retain // _size(data, "retain"))
        return (forget + retain) / forget

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
        by_class = bool(self.data.split.forgotten_classes)
        self._passes = {part: _Cut(_size(self.data, part), by_class) for part in ("forget", "retain")}

    def training_step(self, batch: dict[str, tuple[Tensor, Tensor]], batch_idx: int) -> Tensor | None:
        """Adds a batch of Df to both importances, or one of Dr to that of D."""
        ((part, (images, labels)),) = batch.items()
        if self.importance == "per_sample":
            batches = _split((images, labels), self.chunk_size)
        else:
            batches = list(self._passes[part].add(images, labels))
        losses = self._measure(part, batches)
        if not losses:
            return None
        loss = torch.cat(losses).mean()
        self.log("train/loss", loss, batch_size=len(labels))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Dampens after the last batch, before the epoch's validation, and ends the run."""
        if self.current_epoch > 0 or batch_idx + 1 < self.trainer.num_training_batches:
            return
        for part, cut in self._passes.items():
            self._measure(part, list(cut.rest()))
        full, forget = (each.mean(self.trainer.strategy) for each in (self._full, self._forget))
        alpha = self._limit(self.data) ** self.selectivity if self.alpha is None else self.alpha
        self.log("train/alpha", alpha)
        self.log("train/dampened", chosen_share(full, forget, alpha))
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(dampened(weight, full[name], forget[name], alpha, self.dampening))
        self.finish()

    def _measure(self, part: str, batches: list[Labelled]) -> list[Tensor]:
        """Adds batches of a part to the importances that it belongs to; their losses."""
        found, importances = [], (self._full, self._forget) if part == "forget" else (self._full,)
        with torch.autocast(self.device.type, enabled=False):  # small gradients, squared, need the range
            for images, labels in batches:
                gradients, loss = loss_gradients(self.backbone, self._weights, images, labels, self.importance)
                for squares in importances:
                    squares.add(gradients, torch.ones_like(loss))
                found.append(loss)
        return found


class _Cut:
    """Cuts a pass into batches of one size, each of one class where that is asked for.

    Args:
        size: samples in a batch.
        by_class: whether a batch is of one class; what is left of the classes in the end makes batches together.
    """

    def __init__(self, size: int, by_class: bool) -> None:
        self._size, self._by_class = size, by_class
        self._waiting: dict[int, Labelled] = {}

    def add(self, images: Tensor, labels: Tensor) -> Iterator[Labelled]:
        """Takes some samples; the batches that are full."""
        group = labels if self._by_class else torch.zeros_like(labels)
        for key in torch.unique(group).tolist():
            new = images[group == key], labels[group == key]
            waiting = _joined([self._waiting[key], new]) if key in self._waiting else new
            *full, self._waiting[key] = _split(waiting, self._size)
            yield from full
            if len(self._waiting[key][1]) == self._size:
                yield self._waiting.pop(key)

    def rest(self) -> Iterator[Labelled]:
        """What is left, the classes in their order."""
        if left := [self._waiting[key] for key in sorted(self._waiting)]:
            yield from _split(_joined(left), self._size)
        self._waiting.clear()


def _split(samples: Labelled, size: int) -> list[Labelled]:
    images, labels = (torch.split(part, size) for part in samples)
    return list(zip(images, labels, strict=True))


def _joined(parts: list[Labelled]) -> Labelled:
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def _size(data: UnlearnData, part: str) -> int:
    return data.forget_batch_size or data.batch_size if part == "forget" else data.batch_size


def dampened(weight: Tensor, full: Tensor, forget: Tensor, alpha: float, dampening: float) -> Tensor:
    """The weight, times min(λ·I_D / I_f, 1) where I_f > α·I_D."""
    return torch.where(forget > alpha * full, weight * (dampening * full / forget).clamp(max=1), weight)


def chosen_share(full: dict[str, Tensor], forget: dict[str, Tensor], alpha: float) -> Tensor:
    """The share of all weights whose importance to Df is above α times that to D."""
    return torch.cat([(forget[name] > alpha * full[name]).flatten() for name in full]).float().mean()
