"""Whether the weights of a network are numbers at all."""

from collections.abc import Mapping, Set

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.errors import UsageError


def not_finite(values: Mapping[str, Tensor], buffers: Set[str]) -> list[str]:
    """The names of tensors with NaN or infinite values; a buffer may have -inf, since masks do.

    Args:
        values: name → tensor.
        buffers: the names that are of buffers.
    """
    return [name for name, value in values.items() if not _is_right(value, name in buffers)]


def check_finite(network: nn.Module, role: str) -> None:
    """Refuses a network with NaN or infinite weights.

    Args:
        network: a backbone or any other network.
        role: what it is, as the user knows it, such as ``original``.

    Raises:
        UsageError: naming the first such parameter or buffer as the user's network does.
    """
    if any(is_lazy(each) for each in (*network.parameters(), *network.buffers())):
        raise UsageError(f"{role}: {type(network).__name__} has lazy layers: run one batch through it first")
    if any(each.is_meta for each in (*network.parameters(), *network.buffers())):
        raise UsageError(
            f"{role}: {type(network).__name__} is on the meta device, which holds no values: give its weights"
        )
    buffers = dict(network.named_buffers())
    wrong = not_finite(dict(network.named_parameters()) | buffers, buffers.keys())
    if wrong:
        name = network.name_in_network(wrong[0]) if isinstance(network, Backbone) else wrong[0]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UsageError(
            f"{role}: {type(network).__name__} has values that are not finite (NaN or infinite) in {name}{more}: "
            "give a network with the weights before they diverged"
        )


def _is_right(value: Tensor, buffer: bool) -> bool:
    wrong = value.isnan() | value.isposinf() if buffer else ~value.isfinite()
    return not bool(wrong.any())
