"""Gradients of a classifier as directions: of which quantity, their length, and what those of the head show.

With the log odds against the label, φ = logsumexp of the other logits − z_y, CE = softplus(φ), so ∇CE = σ(φ)∇φ: both
have the same direction.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

NamedGradients = Mapping[str, Tensor]
"""By parameter name; for a batch each tensor is (B, …)."""


def log_odds_against(logits: Tensor, labels: Tensor) -> Tensor:
    """φ = logsumexp of the other logits − z_y, (B,), of logits (B, C) and labels (B,); CE = softplus(φ)."""
    own = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    others = logits.masked_fill(own, -torch.inf).logsumexp(1)
    return others - logits.masked_fill(~own, 0.0).sum(1)


def inner(left: NamedGradients, right: NamedGradients) -> Tensor:
    """The inner product over all parameters of ``right``, ()."""
    return torch.stack([(left[name] * right[name]).sum() for name in right]).sum()


def unit(gradients: NamedGradients) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients over their common length, and that length; 0 stays 0."""
    peak = torch.stack([value.abs().max() for value in gradients.values() if value.numel()]).max()
    peak = torch.where(peak > 0, peak, 1.0)  # no square shall vanish
    scaled = {name: value / peak for name, value in gradients.items()}
    length = inner(scaled, scaled).sqrt()
    safe = torch.where(length > 0, length, 1.0)
    return {name: value / safe for name, value in scaled.items()}, length * peak


def infer_label(weight: Tensor, bias: Tensor | None) -> Tensor:
    """The label (B,) behind the last layer's gradient: that of the negative entry, exact for a single image.

    Args:
        weight: (B, C, d).
        bias: (B, C), or None without one; then rows of ``weight`` are summed, as features after a ReLU are positive.
    """
    return (weight.sum(2) if bias is None else bias).argmin(1)


def infer_features(weight: Tensor, bias: Tensor) -> Tensor:
    """The features (B, d) behind the last layer's gradient, dWᵀdb/‖db‖², exact for a single image, of either sign.

    Args:
        weight: (B, C, d).
        bias: (B, C), not 0.
    """
    return torch.einsum("bcd,bc->bd", weight, bias) / bias.square().sum(1, keepdim=True)
