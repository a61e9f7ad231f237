"""The convolution kernels of a network, for methods that change them before they train."""

from torch import nn

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
