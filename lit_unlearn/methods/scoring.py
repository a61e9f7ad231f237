"""How a module counts right answers on each split, in validation and test."""

from collections.abc import Iterable
from typing import cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_unlearn.methods.protocols import Labelled
from lit_unlearn.metrics.evaluation import SplitAccuracy


class SplitScoring(LightningModule):
    """A LightningModule with one counter a split, in the order of the evaluation loaders."""

    def __init__(self) -> None:
        super().__init__()
        self.split_accuracy = nn.ModuleDict()
        self._answers_finite: Tensor | bool = True

    def configure_metrics(self, splits: Iterable[str]) -> None:
        """Makes the counters, one for each split."""
        self.split_accuracy = nn.ModuleDict({name: SplitAccuracy() for name in splits})

    def validation_step(self, batch: Labelled, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Counts right answers on one split."""
        del batch_idx
        images, labels = batch
        logits = self(images)
        self._answers_finite = self._answers_finite & torch.isfinite(logits).all()
        self._counters()[dataloader_idx].update(logits, labels)

    def test_step(self, batch: Labelled, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Counts right answers on one split."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def log_accuracies(self, stage: str) -> None:
        """Logs ``<stage>/<split>_acc``, fractions, and resets the counters."""
        for name, counter in zip(self.split_accuracy, self._counters(), strict=True):
            value = counter.value
            if value is not None:
                self.log(f"{stage}/{name}_acc", value, add_dataloader_idx=False)
            counter.reset()

    def answers_finite(self) -> bool:
        """Whether all logits on this rank were finite since the last call."""
        finite, self._answers_finite = bool(self._answers_finite), True
        return finite

    def _counters(self) -> list[SplitAccuracy]:
        return [cast(SplitAccuracy, counter) for counter in self.split_accuracy.values()]
