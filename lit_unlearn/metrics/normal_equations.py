"""Streaming linear least squares: sums that add up across batches and ranks, and the solution read off them.

The sums are float64 sums of float64 products: in float32 the normal equations lose everything once the features'
condition number reaches 1e5. Memory is O(d² + dk), whatever the number of samples, and one all-reduce serves every
ridge value, the class means and LDA (with one-hot targets the cross moments are the per-class sums).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.metrics.eigen import eigh


@dataclass(frozen=True, eq=False)
class LinearMap:
    """An affine map from features to targets, in float64.

    Attributes:
        weight: (k, d).
        bias: (k,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Maps features (B, d) to targets (B, k), in float64."""
        return x.double() @ self.weight.T + self.bias


class Moments:
    """Sums over samples that a least-squares fit needs, in float64.

    Not a dataclass: torchmetrics walks through one and would turn a (1, 1) sum into a scalar.

    Attributes:
        n: number of samples, shape ().
        sum_x: (d,).
        sum_y: (k,).
        xtx: sum of outer products of the features, (d, d).
        xty: sum of products of features and targets, (d, k).
    """

    def __init__(self, n: Tensor, sum_x: Tensor, sum_y: Tensor, xtx: Tensor, xty: Tensor) -> None:
        """Holds the sums, see the attributes."""
        self.n, self.sum_x, self.sum_y, self.xtx, self.xty = n, sum_x, sum_y, xtx, xty

    def solve(self, ridge: float = 0.0, bias: bool = True) -> LinearMap:
        """The least-squares map, see :func:`solve`."""
        return solve(self, ridge, bias)


def measure(x: Tensor, y: Tensor) -> Moments:
    """The moments of one batch of features (B, d) and targets (B, k), computed in float64."""
    x, y = x.double(), y.double()
    return Moments(x.new_tensor(float(len(x))), x.sum(0), y.sum(0), x.T @ x, x.T @ y)


def solve(moments: Moments, ridge: float = 0.0, bias: bool = True) -> LinearMap:
    """The map that minimises ‖XWᵀ + b - Y‖²/n + ridge · (trace(G)/d) · ‖W‖².

    G is the covariance of the features, or their raw second moment when ``bias`` is off; the bias carries no penalty.
    Directions that rounding alone could have made count as empty: eigenvalues of G below :func:`rounding_level` times
    the largest eigenvalue of the raw second moment. So the solution is the minimum-norm one, and constant features give
    the mean of Y.

    Args:
        moments: sums over the samples.
        ridge: penalty relative to the mean variance of a feature, at least 0.
        bias: whether the map has a free intercept.

    Raises:
        UsageError: if there are no samples, a sum is not finite, or ``ridge`` is negative or not finite.
    """
    check_at_least("ridge", ridge, 0)
    second, cross, mean_x, mean_y = _means(moments)
    gram = second - torch.outer(mean_x, mean_x) if bias else second
    target = cross - torch.outer(mean_x, mean_y) if bias else cross
    values, vectors = eigh(gram)
    floor = rounding_level(moments.n, len(values)) * torch.linalg.eigvalsh(second)[-1]
    damped = values + ridge * gram.diagonal().mean()
    inverse = torch.where(values > floor, damped.reciprocal(), 0.0)
    weight = (vectors @ (inverse[:, None] * (vectors.T @ target))).T
    return LinearMap(weight, mean_y - weight @ mean_x if bias else torch.zeros_like(mean_y))


def solve_samples(x: Tensor, y: Tensor, ridge: float = 0.0, bias: bool = True) -> LinearMap:
    """The map of :func:`solve` from the samples themselves, for features wider than samples are many.

    G = XᵀX/n has the same eigenvalues above 0 as XXᵀ/n = UΛUᵀ, with X centred where there is an intercept. So
    W = Yᵀ U (Λ + ridge · trace(G)/d)⁻¹ Uᵀ X / n, and nothing of d × d is needed.

    Args:
        x: features (n, d), of any dtype.
        y: targets (n, k), of any dtype.
        ridge: penalty relative to the mean variance of a feature, at least 0.
        bias: whether the map has a free intercept.

    Raises:
        UsageError: if there are no samples, a value is not finite, or ``ridge`` is negative or not finite.
    """
    check_at_least("ridge", ridge, 0)
    x, y = x.double(), y.double()
    count = x.new_tensor(float(len(x)))
    _check(count, x, y)
    second = x @ x.T / count
    floor = rounding_level(count, x.shape[1]) * torch.linalg.eigvalsh(second)[-1]
    mean_x, mean_y = x.mean(0), y.mean(0)
    if bias:
        x, y = x - mean_x, y - mean_y
        second = x @ x.T / count
    values, vectors = eigh(second)
    damped = values + ridge * second.diagonal().sum() / x.shape[1]
    inverse = torch.where(values > floor, damped.reciprocal(), 0.0)
    weight = (vectors @ (inverse[:, None] * (vectors.T @ y))).T @ x / count
    return LinearMap(weight, mean_y - weight @ mean_x if bias else torch.zeros_like(mean_y))


def rounding_level(n: Tensor, width: int) -> Tensor:
    """What rounding alone can leave of a covariance, relative to the raw second moment: (d + 4√n) · eps of float64.

    The 4√n is measured: the sums of constant features drift by up to 1.5√n · eps in batches of 10 or more.

    Args:
        n: number of samples, shape ().
        width: d, the number of features.
    """
    return (width + 4 * n.sqrt()) * torch.finfo(torch.float64).eps


def _means(moments: Moments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Second moment (d, d), cross moment (d, k) and the means (d,) and (k,), or an error where they do not exist."""
    means = tuple(total / moments.n for total in (moments.xtx, moments.xty, moments.sum_x, moments.sum_y))
    _check(moments.n, *means)
    return means[0], means[1], means[2], means[3]


def _check(count: Tensor, *values: Tensor) -> None:
    if count <= 0:
        raise UsageError("a linear map cannot be fitted to no samples: the calibration set is empty")
    if not all(bool(value.isfinite().all()) for value in values):
        raise UsageError("a linear map cannot be fitted: features or targets hold values that are not finite")


class NormalEquations(Metric):
    """Collects :class:`Moments` batch by batch; exact across ranks, because the sums are summed.

    Example:
        >>> fit = NormalEquations(num_features=2, num_targets=1)
        >>> fit.update(torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
        >>> fit.solve()(torch.tensor([[4.0, 0.0]])).round(decimals=6)
        tensor([[9.]], dtype=torch.float64)
    """

    is_differentiable = False
    full_state_update = False

    n: Tensor
    sum_x: Tensor
    sum_y: Tensor
    xtx: Tensor
    xty: Tensor

    def __init__(self, num_features: int, num_targets: int) -> None:
        """Starts from empty sums.

        Args:
            num_features: d, the width of the features.
            num_targets: k, the width of the targets.

        Raises:
            UsageError: if a width is below 1.
        """
        super().__init__()
        check_at_least("num_features", num_features, 1)
        check_at_least("num_targets", num_targets, 1)
        self.num_features = num_features
        self.num_targets = num_targets
        shapes: dict[str, tuple[int, ...]] = {
            "n": (),
            "sum_x": (num_features,),
            "sum_y": (num_targets,),
            "xtx": (num_features, num_features),
            "xty": (num_features, num_targets),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch, which may be empty.

        Args:
            x: features (B, d), of any dtype.
            y: targets (B, k), of any dtype; one-hot rows for classes.

        Raises:
            UsageError: if a shape does not fit.
        """
        for name, batch, width in (("features", x, self.num_features), ("targets", y, self.num_targets)):
            if tuple(batch.shape) != (len(x), width):
                raise UsageError(f"{name} have shape {tuple(batch.shape)}: expected {(len(x), width)}")
        batch_moments = measure(x, y)
        for name in self._defaults:
            # Not in place: states converted with the module that holds them, or made in inference mode, heal here.
            setattr(self, name, getattr(self, name) + getattr(batch_moments, name))

    def compute(self) -> Moments:
        """The sums over all batches and ranks."""
        return Moments(self.n, self.sum_x, self.sum_y, self.xtx, self.xty)

    def solve(self, ridge: float = 0.0, bias: bool = True) -> LinearMap:
        """The least-squares map over all batches and ranks, see :func:`solve`; call it on every rank."""
        moments: Moments = self.compute()
        return moments.solve(ridge, bias)


class WideLeastSquares(Metric):
    """Collects the samples themselves, of all ranks, for :func:`solve_samples`.

    Memory is O(nd + n²), where :class:`NormalEquations` takes O(d²).
    """

    is_differentiable = False
    full_state_update = False

    x: list[Tensor]
    y: list[Tensor]

    def __init__(self) -> None:
        """Starts without samples."""
        super().__init__()
        self.add_state("x", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch of features (B, d) and targets (B, k), of any dtype; it may be empty."""
        self.x.append(x)
        self.y.append(y)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The samples of all batches and ranks."""
        return dim_zero_cat(self.x), dim_zero_cat(self.y)

    def solve(self, ridge: float = 0.0, bias: bool = True) -> LinearMap:
        """The least-squares map over all batches and ranks, see :func:`solve`; call it on every rank."""
        return solve_samples(*self.compute(), ridge, bias)
