"""Over how many directions representations spread (Roy and Vetterli, 2007)."""

import math

import torch
from torch import Tensor


def effective_rank(h: Tensor) -> Tensor:
    """How many directions the samples spread over: exp of the entropy of the normalised singular values of centred h.

    Between 1 and min(B - 1, d). By convention it is 0 where nothing spreads: constant
    representations, or fewer than two samples. It is NaN only when h holds values that are not finite.

    Args:
        h: representations (B, d).

    Returns:
        The effective rank, shape (), float64; no gradient.
    """
    h = h.detach().double()
    if not h.isfinite().all():
        return h.new_full((), math.nan)
    singular = torch.linalg.svdvals(h - h.mean(0))
    # What centring leaves of a constant is rounding of its size, not spread.
    rounding = max(h.shape) * torch.finfo(h.dtype).eps * torch.linalg.vector_norm(h)
    return rank_of_spectrum(torch.where(singular > rounding, singular, 0.0))


def rank_of_spectrum(singular: Tensor) -> Tensor:
    """The effective rank, shape (), of a matrix with these singular values (d,), all at least 0; 0 where all are 0."""
    total = singular.sum()
    share = singular / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, torch.special.entr(share).sum().exp(), 0.0)
