"""Exact accuracy over a split. The field's scores that are computed from it are in ``reports/scores.py``."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_unlearn.errors import UsageError


class SplitAccuracy(Metric):
    """Accuracy over one split, counted in integers, so that it is exact across batches and ranks.

    torchmetrics' own accuracy is float32, and 0 for a split without samples; here it is float64, and undefined.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        """Starts from no samples."""
        super().__init__()
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch, which may be empty.

        Args:
            logits: scores (B, C); a row that holds NaN is no answer and counts as wrong.
            labels: class indices (B,).

        Raises:
            UsageError: if the shapes do not fit.
        """
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
            raise UsageError(f"logits and labels have shapes {shapes}: expected (B, C) and (B,)")
        hits = (logits.argmax(1) == labels) & ~logits.isnan().any(1)
        self.correct = self.correct + hits.sum()
        self.total = self.total + len(labels)

    def compute(self) -> Tensor:
        """The share of correct answers, float64, shape (); NaN without samples."""
        return self.correct.double() / self.total

    @property
    def value(self) -> float | None:
        """The share of correct answers, or None without samples; read it on every rank."""
        accuracy = float(self.compute())
        return None if math.isnan(accuracy) else accuracy
