"""Linear CKA between two representations of the same samples, from one pass (Kornblith et al., arXiv 1905.00414).

With X, Y centred, CKA = ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F): 1 for a rotation and a scaling, 0 for what shares no direction.
It is biased upwards where samples are not many more than dimensions: independent features at n = 64, d = 512 score .88.

Unbiased, each of the three is the estimator HSIC₁ of Song et al. (JMLR 2012, equation 5), which for linear kernels
needs no n × n matrix: with P = XᵀY, aᵢ = ‖xᵢ‖², bᵢ = ‖yᵢ‖², s = Σxᵢ, t = Σyᵢ

    (n - 3)n · HSIC₁ = ‖P‖² - Σaᵢbᵢ + (‖s‖² - Σaᵢ)(‖t‖² - Σbᵢ) / ((n - 1)(n - 2))
                       - 2/(n - 2) · (sᵀPt - sᵀΣbᵢxᵢ - tᵀΣaᵢyᵢ + Σaᵢbᵢ)

all of which are sums over samples. No term is added to a denominator, so the scale of the features does not matter.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.metrics.normal_equations import rounding_level


class LinearCKA(Metric):
    """Linear CKA in a stream: float64 sums, O(d²) of memory, exact across ranks because the sums are summed.

    Undefined, NaN, where one of the two sets does not spread: where its variance, or its own similarity, is no more
    than what rounding leaves of constant features. Undefined too with fewer than 2 samples, unbiased 4.

    Args:
        num_x: width of the first representation.
        num_y: width of the second.
        unbiased: HSIC₁ in all three places; may fall slightly below 0.
        centre_x: a point (num_x,) near the first set's mean, the same on every rank. Sums about it lose less to
            rounding where the features lie far from 0; the value is that of any other centre.
        centre_y: the same of the second set.

    Raises:
        UsageError: if a width is below 1, or a centre does not have it.

    Example:
        >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
        >>> cka = LinearCKA(3, 3)
        >>> cka.update(x, -1e-5 * x.flip(1))
        >>> cka.compute().round(decimals=9)
        tensor(1., dtype=torch.float64)
    """

    is_differentiable = False
    full_state_update = False

    n: Tensor
    s: Tensor
    t: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor
    a: Tensor
    b: Tensor
    aa: Tensor
    bb: Tensor
    ab: Tensor
    ax: Tensor
    bx: Tensor
    ay: Tensor
    by: Tensor
    centre_x: Tensor
    centre_y: Tensor

    def __init__(
        self,
        num_x: int,
        num_y: int,
        unbiased: bool = False,
        centre_x: Tensor | None = None,
        centre_y: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_at_least("num_x", num_x, 1)
        check_at_least("num_y", num_y, 1)
        self.num_x, self.num_y, self.unbiased = num_x, num_y, unbiased
        for name, centre, width in (("centre_x", centre_x, num_x), ("centre_y", centre_y, num_y)):
            if centre is not None and tuple(centre.shape) != (width,):
                raise UsageError(f"{name} has shape {tuple(centre.shape)}: expected {(width,)}")
            self.register_buffer(name, torch.zeros(width).double() if centre is None else centre.detach().double())
        shapes: dict[str, tuple[int, ...]] = {"s": (num_x,), "t": (num_y,)}
        shapes |= {"xx": (num_x, num_x), "yy": (num_y, num_y), "xy": (num_x, num_y)}
        shapes |= {"ax": (num_x,), "bx": (num_x,), "ay": (num_y,), "by": (num_y,)}
        shapes |= dict.fromkeys(("n", "a", "b", "aa", "bb", "ab"), ())
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch, which may be empty: two representations (B, num_x) and (B, num_y) of the same samples.

        Raises:
            UsageError: if the shapes do not fit.
        """
        if x.ndim != 2 or x.shape[1] != self.num_x or tuple(y.shape) != (len(x), self.num_y):
            shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
            raise UsageError(f"x and y have shapes {shapes}: expected (B, {self.num_x}) and (B, {self.num_y})")
        x, y = x.double() - self.centre_x, y.double() - self.centre_y
        a, b = x.square().sum(1), y.square().sum(1)
        sums = {"n": a.new_tensor(float(len(x))), "s": x.sum(0), "t": y.sum(0)}
        sums |= {"xx": x.T @ x, "yy": y.T @ y, "xy": x.T @ y}
        sums |= {"ax": a @ x, "bx": b @ x, "ay": a @ y, "by": b @ y}
        sums |= {"a": a.sum(), "b": b.sum(), "aa": a @ a, "bb": b @ b, "ab": a @ b}
        for name, value in sums.items():
            setattr(self, name, getattr(self, name) + value)

    def compute(self) -> Tensor:
        """The similarity, float64, shape (); at most 1, biased at least 0; NaN where it is undefined."""
        own_x = self._similarity(self.xx, self.s, self.s, self.a, self.a, self.aa, self.ax, self.ax)
        own_y = self._similarity(self.yy, self.t, self.t, self.b, self.b, self.bb, self.by, self.by)
        cross = self._similarity(self.xy, self.s, self.t, self.a, self.b, self.ab, self.bx, self.ay)
        defined = self.n >= (4 if self.unbiased else 2)
        defined = defined & self._spreads(own_x, self.s, self.a, self.centre_x)
        defined = defined & self._spreads(own_y, self.t, self.b, self.centre_y)
        return torch.where(defined, cross / (own_x.sqrt() * own_y.sqrt()), torch.nan)

    def _similarity(
        self, p: Tensor, s: Tensor, t: Tensor, a: Tensor, b: Tensor, ab: Tensor, bx: Tensor, ay: Tensor
    ) -> Tensor:
        """‖cov‖²_F, or HSIC₁, of two sets with cross product p, sums s and t, and sums of ‖xᵢ‖² and ‖yᵢ‖² as named."""
        n = self.n
        if not self.unbiased:
            return (p / n - torch.outer(s, t) / n**2).square().sum()
        pairs = p.square().sum() - ab
        means = (s @ s - a) * (t @ t - b) / ((n - 1) * (n - 2))
        rows = 2 / (n - 2) * (s @ p @ t - s @ bx - t @ ay + ab)
        return (pairs + means - rows) / (n * (n - 3))

    def _spreads(self, own: Tensor, s: Tensor, a: Tensor, centre: Tensor) -> Tensor:
        """Whether a set has more variance, and similarity with itself, than rounding leaves of constant features."""
        level = rounding_level(self.n, len(s))
        variance = a / self.n - (s / self.n).square().sum()
        second = variance + (centre + s / self.n).square().sum()
        raw = (a / self.n).square()
        return (variance > level * second) & (own > (level if self.unbiased else level**2) * raw)
