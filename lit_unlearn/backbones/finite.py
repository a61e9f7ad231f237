"""Whether the weights of a network are numbers at all."""

import torch
from torch import Tensor, nn

from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.errors import UsageError


def check_finite(network: nn.Module, role: str) -> None:
    """Refuses a network with NaN or infinite weights; a buffer may have -inf, since masks do.

    Args:
        network: a backbone or any other network.
        role: what it is, as the user knows it, such as ``original``.

    Raises:
        UsageError: naming the first such parameter or buffer as the user's network does.
    """
    wrong = [name for name, value in network.named_parameters() if not bool(torch.isfinite(value).all())]
    wrong += [name for name, value in network.named_buffers() if not _is_right(value)]
    if wrong:
        name = network.name_in_network(wrong[0]) if isinstance(network, Backbone) else wrong[0]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UsageError(
            f"{role}: {type(network).__name__} has values that are not finite (NaN or infinite) in {name}{more}: "
            "give a network with the weights before they diverged"
        )


def _is_right(buffer: Tensor) -> bool:
    return not bool((buffer.isnan() | buffer.isposinf()).any())
