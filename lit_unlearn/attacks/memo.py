"""What this process has computed before: a worker of a benchmark attacks many models beside one original."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from lit_unlearn.attacks.images import summed
from lit_unlearn.attacks.target import rank_and_world

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """The last values made, each under a key that names all that it depends on.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[str, Value] = OrderedDict()

    def __call__(self, key: str, make: Callable[[], Value], device: torch.device) -> Value:
        """The value of that key, made where there is none; on several processes, by all of them unless all have it."""
        known = summed(torch.tensor(float(key in self._values), device=device))
        if float(known) < rank_and_world()[1]:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self.size:
            self._values.popitem(last=False)
        return self._values[key]


def fingerprint(network: nn.Module, tensors: tuple[Tensor, ...], options: object) -> str:
    """A key made of a network's layers, weights and buffers, of tensors, and of what options print as."""
    digest = hashlib.blake2b(f"{network!r}{options!r}".encode(), digest_size=16)
    for name, value in [*network.state_dict().items(), *enumerate(tensors)]:
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
