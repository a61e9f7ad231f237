"""The convolution kernels of a network, for methods that change them before they train."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError


def learning_kernels(backbone: Backbone, what: str, positions: int = 1) -> list[str]:
    """The names of the kernels (out, in, height, width) that learn; one that several convolutions share comes once.

    Args:
        backbone: the network.
        what: what is done to them, for the error.
        positions: how many positions, height · width, a kernel must have at least.

    Raises:
        UsageError: if there is none.
    """
    found: dict[int, str] = {}
    for path, module in backbone.named_modules():
        kernel = dict(module.named_parameters(recurse=False)).get("weight") if isinstance(module, nn.Conv2d) else None
        if kernel is not None and kernel.requires_grad and kernel[0, 0].numel() >= positions:
            found.setdefault(id(kernel), f"{path}.weight")
    if not found:
        raise UsageError(f"{what}, but a {type(backbone).__name__} has none that learns")
    return list(found.values())


def kaiming(kernel: Tensor, generator: torch.Generator) -> Tensor:
    """A fresh kernel like this one (out, in, height, width): normal, variance 2 / (out · height · width)."""
    deviation = math.sqrt(2 / (kernel.shape[0] * kernel[0, 0].numel()))
    return deviation * torch.randn(kernel.shape, dtype=kernel.dtype, generator=generator).to(kernel.device)


@torch.no_grad()
def renew(kernels: Sequence[nn.Parameter], blend: float, redraw: float, generator: torch.Generator) -> None:
    """Mixes kernels with fresh ones, then draws some of their entries anew.

    Args:
        kernels: (out, in, height, width) each; changed in place.
        blend: weight of the fresh kernel in the mixture, in [0, 1].
        redraw: share of each kernel's entries that becomes fresh, in [0, 1], to the nearest number of them.
        generator: on the CPU, the same on every rank.
    """
    for kernel in kernels:
        if blend:
            kernel.lerp_(kaiming(kernel, generator), blend)
        if redraw:
            order = torch.rand(kernel.numel(), dtype=torch.float64, generator=generator).argsort()
            mask = torch.zeros(kernel.numel(), dtype=torch.bool)
            mask[order[: round(redraw * kernel.numel())]] = True
            kernel.copy_(torch.where(mask.view(kernel.shape).to(kernel.device), kaiming(kernel, generator), kernel))
