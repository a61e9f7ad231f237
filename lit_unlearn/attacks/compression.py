"""Compression: is the forgotten recovered when the weights are made coarser?

Threat model. The attacker holds the unlearned weights and nothing else, no image, no label, no original; or there is
no attacker at all, since networks are quantised and pruned before they are shipped. If accuracy on the forgotten
returns, unlearning moved the weights by less than a rounding step: the forgetting was shallow (arXiv 2410.16454, on
language models).

    Quantise   w → s·round(w / s),  s = max|w| / (2^(bits−1) − 1) for each output channel
    Prune      w → 0 for the ``amount`` of all weights that are smallest in magnitude, over the whole network

Both touch what layers multiply by, each parameter called ``…weight`` with two dimensions or more; biases, norms and
position embeddings stay. A weight that is computed from others (weight norm, spectral norm) is computed once, as it is
when a network is shipped, and then made coarser. Activations keep their precision, and statistics of norms stay as
they are: no data is needed.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.errors import UsageError, check_fraction
from lit_unlearn.results import AttackResult

Network = TypeVar("Network", bound=nn.Module)


class Compression(Attack):
    """Scores a copy whose weights were made coarser; the numbers are ``<split>_acc``."""

    family: ClassVar[str] = "compression"

    @abstractmethod
    def compress(self, network: nn.Module) -> None:
        """Changes the network in place."""

    def lacks(self, target: Target) -> str | None:
        """Says also where there is nothing to compress."""
        if not any(weights(plain(copy.deepcopy(target.model.backbone)))):
            return "the network has no weight to compress: no parameter called '…weight' has two dimensions or more"
        return super().lacks(target)

    def evaluate(self, target: Target) -> AttackResult:
        """Accuracy of the compressed copy on every split."""
        network = plain(copy.deepcopy(target.model.backbone))
        self.compress(network)
        encoded = EncodedData(network.eval().requires_grad_(False), target.data, target.device, budget=0)
        return AttackResult(replace(target, model=encoded).accuracies(lambda batch: batch.logits))


class Quantise(Compression):
    """Symmetric fake quantisation of the weights, for each output channel.

    Args:
        bits: of a weight, from 2 to 16.
        name: metric name prefix; None is ``int<bits>``.

    Raises:
        UsageError: if ``bits`` is out of range.
    """

    def __init__(self, bits: int = 8, name: str | None = None) -> None:
        super().__init__(f"int{bits}" if name is None else name)
        if not 2 <= bits <= 16:
            raise UsageError(f"bits is {bits}, but must lie between 2 and 16")
        self.bits = bits

    @torch.no_grad()
    def compress(self, network: nn.Module) -> None:
        """Rounds every weight to its grid."""
        for module, name in weights(network):
            weight: Tensor = getattr(module, name)
            weight.copy_(quantised(weight.float(), self.bits))


class Prune(Compression):
    """Global magnitude pruning.

    Args:
        amount: share of the weights that is set to zero, above 0 and below 1.
        name: metric name prefix; None is ``prune<percent>``.

    Raises:
        UsageError: if ``amount`` is out of range.
    """

    def __init__(self, amount: float = 0.5, name: str | None = None) -> None:
        super().__init__(f"prune{100 * amount:g}" if name is None else name)
        check_fraction("amount", amount)
        self.amount = amount

    def compress(self, network: nn.Module) -> None:
        """Sets the smallest weights to zero."""
        found = list(weights(network))
        for module, name in found:
            weight = getattr(module, name)
            weight.data = weight.data.contiguous()  # torch flattens them by a view
        prune.global_unstructured(found, prune.L1Unstructured, amount=self.amount)
        for module, name in found:
            prune.remove(module, name)  # type: ignore[no-untyped-call]


def plain(network: Network) -> Network:
    """The network, changed in place: weights that are computed from others are parameters of their own."""
    for module in list(network.modules()):
        computed = getattr(module, "parametrizations", None)
        if isinstance(computed, nn.ModuleDict) and parametrize.is_parametrized(module):
            values = {name: getattr(module, name).detach().clone() for name in computed}
            # Not torch's remove_parametrizations: it takes the weight also from the network that this is a copy of.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            for name, value in values.items():
                module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return network


def weights(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yields the module and name of each weight with two dimensions or more; a shared one comes once."""
    seen: set[int] = set()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("weight") and parameter.ndim > 1 and id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, name


def quantised(weight: Tensor, bits: int) -> Tensor:
    """A weight (out, …) on the symmetric grid of its own output channel; a channel of zeros stays so.

    Args:
        weight: float32.
        bits: the grid has 2^bits − 1 points, zero in the middle.
    """
    highest = 2 ** (bits - 1) - 1
    scale = weight.abs().flatten(1).amax(1) / highest
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = torch.zeros_like(scale, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -highest, highest)
    return rounded
