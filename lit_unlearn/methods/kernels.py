"""The kernels and weight matrices of a network, for methods that change them before or while they train."""

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
        raise UsageError(f"{what}, but a {backbone.network_name()} has none that learns")
    return list(found.values())


def kaiming(kernel: Tensor, generator: torch.Generator) -> Tensor:
    """A fresh kernel like this one (out, in, height, width): normal, variance 2 / (out · height · width)."""
    deviation = math.sqrt(2 / (kernel.shape[0] * kernel[0, 0].numel()))
    return deviation * torch.randn(kernel.shape, dtype=kernel.dtype, generator=generator).to(kernel.device)


def learning_weights(backbone: Backbone, what: str) -> list[str]:
    """The names of the kernels (out, in, height, width) and weight matrices (out, in) that learn; a shared one once.

    Args:
        backbone: the network.
        what: what is done to them, for the error.

    Raises:
        UsageError: if there is none.
    """
    names = [name for name, value in backbone.named_parameters() if value.ndim in (2, 4) and value.requires_grad]
    if not names:
        raise UsageError(f"{what}, but a {backbone.network_name()} has none that learns")
    return names


def fresh(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Fresh weights like these: kernels as :func:`kaiming`, matrices normal with variance 1 / (3 · in), as torch's."""
    if weights.ndim == 4:
        return kaiming(weights, generator)
    drawn = torch.randn(weights.shape, dtype=weights.dtype, generator=generator)
    return (drawn / math.sqrt(3 * weights.shape[1])).to(weights.device)


@torch.no_grad()
def renew(
    weights: Sequence[nn.Parameter], blend: float, redraw: float, generator: torch.Generator, shuffled: bool = False
) -> None:
    """Mixes weights with fresh ones, then replaces some of their entries.

    Args:
        weights: kernels (out, in, height, width) and matrices (out, in); changed in place.
        blend: share of the fresh weights in the mixture, in [0, 1].
        redraw: share of the entries of each that are replaced, in [0, 1], to the nearest number of them.
        generator: on the CPU, the same on every rank.
        shuffled: the entries change places at random among themselves; otherwise they become fresh.
    """
    for each in weights:
        if blend:
            each.lerp_(fresh(each, generator), blend)
        if redraw:
            order = torch.rand(each.numel(), dtype=torch.float64, generator=generator).argsort()
            chosen = order[: round(redraw * each.numel())].to(each.device)
            values, places = (each, chosen.sort().values) if shuffled else (fresh(each, generator), chosen)
            each.copy_(each.flatten().scatter(0, chosen, values.flatten()[places]).view(each.shape))


@torch.no_grad()
def renew_head(head: nn.Module, generator: torch.Generator, rows: Sequence[int] | None = None) -> None:
    """Draws a linear layer anew: its matrix as :func:`fresh` does, its bias zero.

    Args:
        head: changed in place.
        generator: on the CPU, the same on every rank.
        rows: the classes whose rows are drawn; None draws all.
    """
    for each in head.parameters():
        chosen = slice(None) if rows is None else list(rows)
        each[chosen] = (fresh(each, generator) if each.ndim == 2 else torch.zeros_like(each))[chosen]
