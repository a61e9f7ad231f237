"""Random Fourier features (Rahimi and Recht, NIPS 2007): a Gaussian kernel as a finite map."""

import math

import torch
from torch import Tensor


class RandomFeatures:
    """The map z(x) = √(2/D) cos(x·w/√d + b), with z(x)·z(x') ≈ exp(-‖x - x'‖²/2d).

    On standardised features ‖x - x'‖² is 2d on average, so the kernel's width fits without tuning.

    Args:
        num_features: d.
        num_outputs: D.
        seed: of the draws of w and b, which are the same on every device.
    """

    def __init__(self, num_features: int, num_outputs: int, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_features, num_outputs, generator=draw, dtype=torch.float64)
        self._directions = directions / math.sqrt(num_features)
        self._phases = 2 * math.pi * torch.rand(num_outputs, generator=draw, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps features (B, d) to (B, D), in float64."""
        angles = x.double() @ self._directions.to(x.device) + self._phases.to(x.device)
        return angles.cos_().mul_(math.sqrt(2 / len(self._phases)))
