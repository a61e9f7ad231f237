"""Images for the attacks that look at pixels: the same ones on every rank, and results put together from all ranks."""

import torch
from torch import Tensor
from torch import distributed as dist

from lit_unlearn.attacks.positions import all_labels, pick
from lit_unlearn.attacks.target import Target, rank_and_world


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks, on every rank; the tensor itself takes it."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def draw(target: Target, split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of a split drawn without replacement, in the order of the split; the same on every rank.

    Args:
        target: whose data to draw from.
        split: a split that has samples.
        count: how many; the whole split where it has fewer.
        seed: of the draw.

    Returns:
        Images (N, C, H, W) in [0, 1] and their labels (N,), on the target's device.
    """
    total = len(all_labels(target.data, split, target.device))
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return pick(target.data, split, drawn, target.device)
