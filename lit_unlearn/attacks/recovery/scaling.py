"""Ways to take the scale out of features, fitted in one stream: per dimension, per sample, or per group of samples.

A linear readout under a ridge sees a direction of small variance last, so a model that only makes the features of some
samples small looks as if it had forgotten them. All is computed in float64.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_unlearn.errors import UsageError

Scaling = Callable[[Tensor], Tensor]
"""From features (B, d) to scaled features (B, d)."""

_OCTAVES, _BINS_PER_OCTAVE = 1080, 16  # lengths from 2^-1080 to 2^1080: all that float64 has
SEPARATED = 0.8
"""Share of the variance of log lengths that two groups must explain; a normal law gives .64, a uniform one .75."""


def unit_norm(x: Tensor) -> Tensor:
    """Each sample of x (B, d) at Euclidean length 1, in float64; a sample of zeros stays so.

    Dividing by the largest entry first keeps squares from underflow, so any scale gives the same answer.
    """
    x = x.double()
    largest = x.abs().amax(1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1.0)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


class Standardiser(Metric):
    """Collects mean and standard deviation of every dimension; exact across ranks.

    A dimension whose variance rounding alone could have made is dead: it becomes 0.
    """

    is_differentiable = False
    full_state_update = False

    n: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, num_features: int) -> None:
        """Starts from no samples.

        Args:
            num_features: d, the width of the features.
        """
        super().__init__()
        for name, shape in (("n", ()), ("total", (num_features,)), ("squares", (num_features,))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        """Adds features (B, d), which may be empty."""
        x = x.double()
        self.n = self.n + len(x)
        self.total = self.total + x.sum(0)
        self.squares = self.squares + x.square().sum(0)

    def compute(self) -> Scaling:
        """The map to mean 0 and population variance 1 in every dimension that lives.

        Raises:
            UsageError: if there were no samples.
        """
        if self.n <= 0:
            raise UsageError("features cannot be standardised: the calibration set is empty")
        mean, second = self.total / self.n, self.squares / self.n
        variance = second - mean.square()
        alive = variance > 8 * self.n.sqrt() * torch.finfo(torch.float64).eps * second
        factor = torch.where(alive, torch.where(alive, variance, 1.0).rsqrt(), 0.0)
        return lambda x: (x.double() - mean) * factor


class NormGate(Metric):
    """Finds out whether samples come in two groups of length, and brings the short ones to the length of the others.

    The log lengths are kept as a histogram of 16 bins an octave, with their exact sum in each bin, so memory does not
    grow and ranks add up. Otsu's cut, the one that explains most of their variance, divides them; of equally good
    cuts, those of an empty valley, the middle counts. Every sample below it is multiplied by one and the same factor,
    the ratio of the two geometric mean lengths: differences of length within a group are information and are kept,
    which division by the own length loses. Where the two groups do not explain :data:`SEPARATED` of the variance, there
    is one group and nothing changes. Samples of zeros belong to none.
    """

    is_differentiable = False
    full_state_update = False

    counts: Tensor
    sums: Tensor
    squares: Tensor

    def __init__(self) -> None:
        """Starts from no samples."""
        super().__init__()
        bins = torch.zeros(2 * _OCTAVES * _BINS_PER_OCTAVE, dtype=torch.float64)
        self.add_state("counts", bins, dist_reduce_fx="sum")
        self.add_state("sums", bins.clone(), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        """Adds features (B, d), which may be empty."""
        logs = _log_length(x)
        logs = logs[logs.isfinite()]
        bins = ((logs + _OCTAVES) * _BINS_PER_OCTAVE).long()
        self.counts = self.counts.index_add(0, bins, torch.ones_like(logs))
        self.sums = self.sums.index_add(0, bins, logs)
        self.squares = self.squares + logs.square().sum()

    def compute(self) -> Scaling:
        """The map that lengthens the samples of the short group, or leaves all as they are."""
        cut, octaves = self._cut()

        def gate(x: Tensor) -> Tensor:
            x = x.double()
            return torch.where((_log_length(x) < cut)[:, None], x * 2.0**octaves, x)

        return gate

    def _cut(self) -> tuple[float, float]:
        """The log length that divides the groups and how many octaves lie between them; (-inf, 0) for one group."""
        n, total = self.counts.sum(), self.sums.sum()
        below, sum_below = self.counts.cumsum(0)[:-1], self.sums.cumsum(0)[:-1]
        above, sum_above = n - below, total - sum_below
        both = (below > 0) & (above > 0)
        if not both.any():
            return -math.inf, 0.0
        octaves = torch.where(both, sum_above / above - sum_below / below, 0.0)
        between = below * above / n.square() * octaves.square()
        best = (between == between.max()).nonzero().flatten()
        variance = self.squares / n - (total / n).square()
        if between.max() < SEPARATED * variance:
            return -math.inf, 0.0
        edge = (float(best[0]) + float(best[-1])) / 2 + 1
        return edge / _BINS_PER_OCTAVE - _OCTAVES, float(octaves[best[0]])


def _log_length(x: Tensor) -> Tensor:
    """Binary logarithm of the length of each sample (B,), in float64; -inf for zeros."""
    x = x.double()
    largest = x.abs().amax(1)
    scaled = x / torch.where(largest > 0, largest, 1.0)[:, None]
    log: Tensor = largest.log2() + torch.linalg.vector_norm(scaled, dim=1).log2()
    return log
