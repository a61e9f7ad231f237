"""What a stage gives, read in passing and averaged over positions."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lit_unlearn.errors import UsageError


class Tap:
    """A forward hook that puts a module's pooled output into a dictionary.

    Args:
        name: of the stage, and of its output in the dictionary.
        found: the dictionary.
        channels_last: whether a map is (B, H, W, C).
        cells: see :func:`pool`.
    """

    def __init__(self, name: str, found: dict[str, Tensor], channels_last: bool, cells: int) -> None:
        self.name = name
        self.found = found
        self.channels_last = channels_last
        self.cells = cells

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        """Pools what the module gives.

        Raises:
            UsageError: if it is no tensor.
        """
        if not isinstance(output, Tensor):
            raise UsageError(f"the stage {self.name!r} gives a {type(output).__name__}, not a tensor")
        self.found[self.name] = pool(output, self.channels_last, self.cells)


def pool(activation: Tensor, channels_last: bool = False, cells: int = 1) -> Tensor:
    """Average an activation (B, C, H, W), (B, T, D) or (B, D) over its positions.

    Args:
        activation: what a stage gives.
        channels_last: whether a map is (B, H, W, C).
        cells: a map is averaged over cells × cells parts, or over single positions where it has fewer. Of tokens the
            last ones that make a square are a map; those before them, such as a class token, are averaged.

    Returns:
        (B, channels), or with more cells than one (B, channels · parts).
    """
    if activation.dim() == 3 and cells > 1:
        side = math.isqrt(activation.shape[1])
        first, rest = activation[:, : -side * side], activation[:, -side * side :]
        tiled = pool(rest.reshape(len(rest), side, side, -1), channels_last=True, cells=cells)
        return torch.cat([first.mean(1), tiled], 1) if first.shape[1] else tiled
    if activation.dim() == 4 and cells > 1:
        maps = activation.permute(0, 3, 1, 2) if channels_last else activation
        height, width = (min(cells, side) for side in maps.shape[2:])
        return adaptive_avg_pool2d(maps, (height, width)).flatten(1)
    if activation.dim() == 4:
        return activation.mean(dim=(1, 2) if channels_last else (2, 3))
    if activation.dim() == 3:
        return activation.mean(dim=1)
    # A copy, because an activation function that works in place would overwrite a vector after it was tapped.
    return activation.clone()
