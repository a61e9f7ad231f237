"""Normalisation inside the network, so that images outside are always in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_unlearn.errors import UsageError


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation, both per channel; they are saved with the weights.

    Args:
        mean: one value a channel, in the units of images in [0, 1].
        std: one positive value a channel.

    Raises:
        UsageError: if the two differ in length, are empty, or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not mean or len(mean) != len(std):
            raise UsageError(f"mean and std need one value a channel each, got mean {list(mean)} and std {list(std)}")
        if not all(value > 0 for value in std):
            raise UsageError(f"std must be positive in every channel, got {list(std)}")
        self.register_buffer("mean", torch.tensor([float(value) for value in mean]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor([float(value) for value in std]).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to normalised images of the same shape."""
        return (x - self.mean) / self.std
