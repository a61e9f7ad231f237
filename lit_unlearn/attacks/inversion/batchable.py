"""A network made ready for many per-sample gradients at once: what cannot be batched becomes what it computes."""

import copy

from torch import Tensor, nn
from torch.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

from lit_unlearn.backbones.memory_format import set_memory_format

BatchNorm = BatchNorm1d | BatchNorm2d | BatchNorm3d


class FrozenNorm(nn.Module):
    """Batch norm in eval mode as the affine map that it then is, with the same parameters under the same names.

    Args:
        norm: batch norm of any dimension that has running statistics.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.register_buffer("mean", norm.running_mean.clone())
        self.register_buffer("scale", (norm.running_var + norm.eps).rsqrt())
        self.weight: nn.Parameter | None = norm.weight
        self.bias: nn.Parameter | None = norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, …) to the same shape."""
        scale = self.scale if self.weight is None else self.scale * self.weight
        shift = -self.mean * scale if self.bias is None else self.bias - self.mean * scale
        shape = (-1, *[1] * (x.dim() - 2))
        return x * scale.view(shape) + shift.view(shape)


def batchable(network: nn.Module) -> nn.Module:
    """A frozen copy in eval mode that computes the same, with the same parameters by name.

    Batch norm with running statistics becomes :class:`FrozenNorm`, and activations no longer work in place; kernels are
    contiguous.

    Args:
        network: it is left as it is.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    set_memory_format(network, "contiguous")  # faster for second derivatives and vmap
    for path, module in list(network.named_modules()):
        if path and isinstance(module, BatchNorm) and module.running_mean is not None:
            network.set_submodule(path, FrozenNorm(module))
        elif getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010
    return network
