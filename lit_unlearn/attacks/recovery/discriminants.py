"""Classifiers read off class moments, in closed form: nearest class mean, and linear discriminant analysis.

Both are affine in the features. A class without samples is never named: its score is -inf.
"""

import math

import torch
from torch import Tensor

from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.metrics.eigen import eigh
from lit_unlearn.metrics.normal_equations import LinearMap, Moments


def nearest_mean(moments: Moments) -> LinearMap:
    """Scores x·μ_c - ‖μ_c‖²/2, largest for the class whose mean is nearest.

    Args:
        moments: sums over samples whose targets are one-hot classes.

    Raises:
        UsageError: if there are no samples.
    """
    means, seen = _class_means(moments)
    return _only(seen, means, -means.square().sum(1) / 2)


def linear_discriminant(moments: Moments, ridge: float = 0.0) -> LinearMap:
    """Scores (x - μ)ᵀ S⁻¹ m_c - m_cᵀ S⁻¹ m_c / 2 + log π_c, with m_c = μ_c - μ.

    S is the covariance within classes, divided by n, and π_c the share of class c. Directions in which S is empty up to
    rounding are left out, unless the ridge fills them.

    Args:
        moments: sums over samples whose targets are one-hot classes.
        ridge: added to S as a multiple of its mean eigenvalue, at least 0.

    Raises:
        UsageError: if there are no samples, or ``ridge`` is negative or not finite.
    """
    check_at_least("ridge", ridge, 0)
    means, seen = _class_means(moments)
    n, mean = moments.n, moments.sum_x / moments.n
    second = moments.xtx / n
    within = second - (means.T * (moments.sum_y / n)) @ means
    values, vectors = eigh(within)
    rounding = (len(values) + 4 * n.sqrt()) * torch.finfo(values.dtype).eps
    damped = values.clamp(min=0) + ridge * values.mean().clamp(min=0)
    inverse = torch.where(damped > rounding * torch.linalg.eigvalsh(second)[-1], damped.reciprocal(), 0.0)
    centred = torch.where(seen[:, None], means - mean, 0.0)
    weight = (centred @ vectors * inverse) @ vectors.T
    offset = (weight * (centred / 2 + mean)).sum(1)
    return _only(seen, weight, (moments.sum_y / n).log() - offset)


def _class_means(moments: Moments) -> tuple[Tensor, Tensor]:
    """The mean of each class (C, d), 0 where there is no sample, and whether there is one (C,)."""
    if moments.n <= 0:
        raise UsageError("a classifier cannot be fitted to no samples: the calibration set is empty")
    seen = moments.sum_y > 0
    return moments.xty.T / torch.where(seen, moments.sum_y, 1.0)[:, None], seen


def _only(seen: Tensor, weight: Tensor, bias: Tensor) -> LinearMap:
    return LinearMap(weight, torch.where(seen, bias, -math.inf))
