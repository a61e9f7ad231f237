"""Contraction of representations: the loss, its target points, and how far it went.

One-Point Contraction (arXiv 2507.07754) argues from the norm of the logits z to the uncertainty of the prediction; the
bound below is that argument in closed form.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.metrics.effective_rank import effective_rank

ContractionPoint = Literal["origin", "retain_mean", "random_point", "uniform"]
"""The kinds of point that representations contract to."""


def target_point(target: ContractionPoint, forget: Tensor, retain: Tensor, seed: int) -> Tensor:
    """The point that representations contract to.

    Args:
        target: ``origin``; ``retain_mean``, the mean of ``retain``; ``random_point``, a point of norm 1 in the positive
            orthant, which a ReLU can reach; or ``uniform``, for each sample the nearest point of equal coordinates.
        forget: what contracts, (B, d).
        retain: what does not, (N, d).
        seed: of the random point.

    Returns:
        (d,), or for ``uniform`` (B, d).

    Raises:
        UsageError: for an unknown target.
    """
    if target == "retain_mean":
        return retain.mean(0)
    if target == "uniform":
        return forget.mean(1, keepdim=True).expand_as(forget)
    if target == "random_point":
        point = torch.rand(forget.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return point.div(point.norm()).to(forget)
    if target == "origin":
        return torch.zeros_like(forget[0])
    raise unknown("target", target, get_args(ContractionPoint))


def contraction_loss(z: Tensor, target: Tensor, squared: bool = False) -> Tensor:
    """Mean distance of the samples to the point they shall contract to.

    The gradient of a sample that already lies on the target is 0. Half precision is raised to float32.

    Args:
        z: representations (B, d); an empty batch costs 0.
        target: one point, (d,) or (1, d), a point for each sample, (B, d), or a scalar for all coordinates.
        squared: squared distances in place of distances.

    Returns:
        The mean over the batch, shape ().

    Raises:
        UsageError: if the shapes do not fit.
    """
    if z.ndim != 2 or tuple(target.shape) not in {(), (z.shape[1],), (1, z.shape[1]), tuple(z.shape)}:
        shapes = f"{tuple(z.shape)} and {tuple(target.shape)}"
        raise UsageError(f"representations and target have shapes {shapes}: expected (B, d) and (d,) or (B, d)")
    difference = _at_least_float32(z) - target
    distance = difference.square().sum(1) if squared else torch.linalg.vector_norm(difference, dim=1)
    return distance.sum() / max(len(z), 1)


def entropy_floor(norm: Tensor | float, num_classes: int) -> Tensor:
    """The least entropy that softmax can have when the logits' norm is no larger than ``norm``.

    With a = norm · √(C/(C-1)) and q = (C-1)e^(-a) it is log(1 + q) + a·q/(1 + q): log C at norm 0, falling to 0. It is
    tight: a vector with one logit against the rest reaches it.

    Args:
        norm: Euclidean norms of logits, of any shape, at least 0.
        num_classes: C, the length of the logit vector.

    Returns:
        Entropies in nats, of the shape of ``norm``.

    Raises:
        UsageError: if there are fewer than two classes.
    """
    if num_classes < 2:
        raise UsageError(f"num_classes is {num_classes}: an entropy floor needs at least 2 classes")
    norm = _at_least_float32(norm) if isinstance(norm, Tensor) else torch.tensor(norm, dtype=torch.float64)
    # Beyond a = 1000 the floor is 0 in float64 too; the limit keeps an infinite norm from making inf · 0.
    gap = (norm * math.sqrt(num_classes / (num_classes - 1))).clamp(max=1000.0)
    rest = (num_classes - 1) * torch.exp(-gap)
    return torch.log1p(rest) + gap * rest / (1 + rest)


def depth(logits: Tensor, features: Tensor) -> dict[str, Tensor]:
    """How contracted some samples are: their mean logit and feature norms, feature variance and effective rank.

    Args:
        logits: (B, C).
        features: (B, d).

    Returns:
        ``logit_norm``, ``feature_norm``, ``feature_variance`` (a mean over dimensions) and ``effective_rank``, each ().
    """
    logits, features = _at_least_float32(logits), _at_least_float32(features)
    return {
        "logit_norm": logits.norm(dim=1).mean(),
        "feature_norm": features.norm(dim=1).mean(),
        "feature_variance": features.var(0, unbiased=False).mean(),
        "effective_rank": effective_rank(features),
    }


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in {torch.float32, torch.float64} else x.float()
