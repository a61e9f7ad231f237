"""A uniform random part of a stream, in memory that does not grow with it."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_unlearn.errors import UsageError, check_at_least


class Reservoir(Metric):
    """Keeps the samples with the smallest of random keys, across batches and ranks.

    Args:
        num_features: d, the width of the features.
        limit: how many samples to keep at most, at least 1.
        seed: of the keys. A key belongs to the number of a sample in the stream, so the part is the same however the
            stream is cut into batches and spread over ranks.
    """

    is_differentiable = False
    full_state_update = False

    rows: Tensor

    def __init__(self, num_features: int, limit: int, seed: int = 0) -> None:
        """Starts from no samples."""
        super().__init__()
        check_at_least("limit", limit, 1)
        self._draw = torch.Generator().manual_seed(seed << 16)
        self._drawn = 0
        empty = torch.zeros(limit, num_features + 2, dtype=torch.float64)
        empty[:, 0] = math.inf
        self.add_state("rows", empty, dist_reduce_fx=_smallest)  # key, label, features

    def update(self, x: Tensor, y: Tensor, numbers: Tensor | None = None) -> None:
        """Adds a batch, which may be empty.

        Args:
            x: features (B, d).
            y: labels (B,).
            numbers: of the samples in the stream (B,), rising from batch to batch; None counts on.
        """
        if numbers is None:
            numbers = self._drawn + torch.arange(len(x))
        keys = self._keys(numbers.cpu()).to(x.device)
        rows = torch.cat([keys[:, None], y[:, None].double(), x.double()], dim=1)
        self.rows = _first(torch.cat([self.rows, rows]), len(self.rows))

    def _keys(self, numbers: Tensor) -> Tensor:
        """The keys of some numbers, drawn in their order with those of the numbers between them."""
        if not len(numbers):
            return torch.empty(0, dtype=torch.float64)
        first, end = self._drawn, int(numbers[-1]) + 1
        self._drawn = end
        return torch.rand(end - first, generator=self._draw, dtype=torch.float64)[numbers - first]

    def compute(self) -> tuple[Tensor, Tensor]:
        """The kept features (n, d), in float64, and labels (n,), the same on every rank.

        Raises:
            UsageError: if there were no samples.
        """
        kept = self.rows[self.rows[:, 0].isfinite()]
        if not len(kept):
            raise UsageError("there is nothing to draw from: the calibration set is empty")
        return kept[:, 2:], kept[:, 1].long()


def _first(rows: Tensor, limit: int) -> Tensor:
    return rows[rows[:, 0].argsort(stable=True)[:limit]]


def _smallest(shards: Tensor) -> Tensor:
    """Of the rows of all ranks (W, n, columns) the n with the smallest keys."""
    return _first(shards.flatten(0, 1), shards.shape[1])
