"""How far representations spread, from one pass: mean, total variance, effective rank and mean norm."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.metrics.effective_rank import rank_of_spectrum
from lit_unlearn.metrics.normal_equations import rounding_level


class Spread(Metric):
    """Sums of representations in float64, O(d²) of memory; exact across ranks, because the sums are summed.

    Its numbers are the same on every rank, and must be asked for on every rank. All are NaN without samples.

    Args:
        num_features: d, the width of the representations.

    Raises:
        UsageError: if the width is below 1.

    Example:
        >>> spread = Spread(num_features=2)
        >>> spread.update(torch.tensor([[3.0, 4.0], [-3.0, 4.0], [3.0, -4.0], [-3.0, -4.0]]))
        >>> [round(float(spread.compute()[name]), 3) for name in ("variance", "rank", "norm")]
        [25.0, 1.98, 5.0]
    """

    is_differentiable = False
    full_state_update = False

    n: Tensor
    sum_x: Tensor
    xtx: Tensor
    norms: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        check_at_least("num_features", num_features, 1)
        self.num_features = num_features
        shapes = {"n": (), "sum_x": (num_features,), "xtx": (num_features, num_features), "norms": ()}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        """Adds a batch of representations (B, d), which may be empty.

        Raises:
            UsageError: if the shape does not fit.
        """
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise UsageError(f"representations have shape {tuple(x.shape)}: expected (B, {self.num_features})")
        x = x.double()
        self.n = self.n + len(x)
        self.sum_x = self.sum_x + x.sum(0)
        self.xtx = self.xtx + x.T @ x
        self.norms = self.norms + torch.linalg.vector_norm(x, dim=1).sum()

    def compute(self) -> dict[str, Tensor]:
        """What the samples are like, in float64.

        Returns:
            ``mean`` (d,), and of shape (): ``variance``, the trace of the covariance; ``rank``, the effective rank as
            :func:`~lit_unlearn.metrics.effective_rank.effective_rank` defines it; ``norm``, the mean Euclidean norm.
            Directions that rounding alone could have made count as empty, so ``variance`` and ``rank`` are 0 for
            constant representations.
        """
        mean, second = self.sum_x / self.n, self.xtx / self.n
        found = {"mean": mean, "norm": self.norms / self.n}
        if not bool(second.isfinite().all()):
            nan = self.n.new_full((), torch.nan)
            return found | {"variance": nan, "rank": nan}
        values = torch.linalg.eigvalsh(second - torch.outer(mean, mean))
        floor = rounding_level(self.n, self.num_features) * torch.linalg.eigvalsh(second)[-1]
        values = torch.where(values > floor, values, 0.0)
        return found | {"variance": values.sum(), "rank": rank_of_spectrum(values.sqrt())}
