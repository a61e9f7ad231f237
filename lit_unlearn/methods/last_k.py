"""Which part of a network "the last k" are, for the methods that train that part alone."""

from collections.abc import Callable, Iterator
from typing import Literal

from torch import nn

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, unknown

Unit = Literal["layers", "blocks", "stage"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def last_k(backbone: Backbone, k: int, unit: Unit) -> dict[str, nn.Module]:
    """The modules, by path, from the k-th last unit on, in the order in which the network defines them.

    Args:
        backbone: the network.
        k: how many units, at least 1.
        unit: ``layers``, modules with a weight matrix or kernel, the head and shortcuts among them; ``blocks``,
            residual or transformer blocks: modules with parts of their own that stand in a sequence; or ``stage``, the
            backbone's stages. What follows the k-th last of them belongs to it, so blocks and stages bring the head.

    Raises:
        UsageError: if the unit is unknown, or the network has fewer than k of it.
    """
    if unit not in _UNITS:
        raise unknown("unit", unit, tuple(_UNITS))
    check_at_least("k", k, 1)
    found = {id(module) for module in _UNITS[unit](backbone)}
    modules = list(backbone.named_modules())
    starts = [position for position, (_, module) in enumerate(modules) if id(module) in found]
    if k > len(starts):
        raise UsageError(f"k is {k}, but a {type(backbone).__name__} has {len(starts)} {unit.removesuffix('s')}(s)")
    return dict(modules[starts[-k] :])


def freeze_others(backbone: Backbone, trained: dict[str, nn.Module]) -> list[nn.Module]:
    """Takes every parameter outside ``trained`` out of training.

    Returns:
        The modules that hold no part of ``trained``; their running statistics stand as long as they are in eval mode.
    """
    first = next(iter(trained))
    others = {path: module for path, module in backbone.named_modules() if path not in trained}
    for module in others.values():
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return [module for path, module in others.items() if path and not first.startswith(f"{path}.")]


def _layers(backbone: Backbone) -> Iterator[nn.Module]:
    for module in backbone.modules():
        own = module.named_parameters(recurse=False)
        if any(name.endswith("weight") and parameter.dim() > 1 for name, parameter in own):
            yield module


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        composed = bool(list(child.children())) and not isinstance(child, _CONTAINERS)
        if isinstance(module, _CONTAINERS) and composed:
            yield child
        else:
            yield from _blocks(child)


def _stages(backbone: Backbone) -> Iterator[nn.Module]:
    yield from (backbone.stage(name) for name in backbone.stages)


_UNITS: dict[str, Callable[[Backbone], Iterator[nn.Module]]] = {"layers": _layers, "blocks": _blocks, "stage": _stages}
