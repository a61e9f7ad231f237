"""Parts of a network: what "the last k" are, and how one part is trained while the others stand."""

import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Literal

from torch import nn

from lit_unlearn.errors import UsageError, unknown

if TYPE_CHECKING:
    from lit_unlearn.backbones.backbone import Backbone

Unit = Literal["layers", "blocks", "stage"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ROUNDING = 1e-9  # a share of .1 of 30 is 3


def last_k(backbone: "Backbone", k: int | float, unit: Unit) -> dict[str, nn.Module]:
    """The modules, by path, from the k-th last unit on, in the order in which the network defines them.

    Args:
        backbone: the network.
        k: how many units, at least 1; or a share of them in (0, 1], a float, rounded up.
        unit: ``layers``, modules with a weight matrix or kernel, the head and shortcuts among them; ``blocks``,
            residual or transformer blocks: modules with parts of their own that stand in a sequence; or ``stage``, the
            backbone's stages. What follows the k-th last of them belongs to it, so blocks and stages bring the head.

    Raises:
        UsageError: if the unit is unknown, or the network has fewer than k of it.
    """
    if unit not in _UNITS:
        raise unknown("unit", unit, tuple(_UNITS))
    found = {id(module) for module in _UNITS[unit](backbone)}
    modules = list(backbone.named_modules())
    starts = [position for position, (_, module) in enumerate(modules) if id(module) in found]
    if not (0 < k <= 1 if isinstance(k, float) else k >= 1):
        raise UsageError(f"k is {k}, but must be a whole number of {unit}, at least 1, or a share of them in (0, 1]")
    count = math.ceil(k * len(starts) - _ROUNDING) if isinstance(k, float) else k
    if not count <= len(starts) > 0:
        raise UsageError(f"k is {k}, but a {backbone.network_name()} has {len(starts)} {unit.removesuffix('s')}(s)")
    return dict(modules[starts[-count] :])


def part_of(backbone: "Backbone", train: str) -> dict[str, nn.Module]:
    """The modules, by path, of the part that is named.

    Args:
        backbone: the network.
        train: ``all``; ``head``, the last linear layer; or ``last_<k>``, the last k blocks (residual or transformer
            blocks) and what follows them, ``last_<k>_layers`` or ``last_<k>_stages``, as :func:`last_k` counts them.

    Raises:
        UsageError: if it is none of these, or the network has fewer than k.
    """
    if train in ("all", "head"):
        return {
            path: each for path, each in backbone.named_modules() if train == "all" or f"{path}.".startswith("head.")
        }
    match = re.fullmatch(r"last_(\d+)(?:_(layers|blocks|stages))?", train)
    if match is None:
        raise UsageError(
            f"train is {train!r}, but must be all, head, or last_<k>, such as last_2: the last two blocks (or "
            "last_2_layers, last_2_stages)"
        )
    units: dict[str | None, Unit] = {"layers": "layers", "blocks": "blocks", "stages": "stage", None: "blocks"}
    return last_k(backbone, int(match[1]), units[match[2]])


def frozen_by_user(backbone: "Backbone") -> dict[str, nn.Parameter]:
    """The parameters, by name, that do not learn, but for those that :meth:`Backbone.train_only` takes out."""
    taken_out = {*backbone.stopped}
    return {
        name: parameter
        for name, parameter in backbone.named_parameters()
        if not parameter.requires_grad and name not in taken_out
    }


def freeze_others(
    backbone: "Backbone", trained: Collection[str], stopped: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Takes every parameter outside of a part out of training.

    Parameters that an earlier call took out learn again, unless they are outside of this part, too. Those that never
    learnt, since the user froze them, stay as they are.

    Args:
        backbone: the network.
        trained: paths of the modules of the part.
        stopped: names of the parameters that an earlier call took out.

    Returns:
        The paths of the modules that hold nothing of the part; their running statistics stand in eval mode. And the
        names of the parameters that are taken out.
    """
    parameters = dict(backbone.named_parameters())
    for name in stopped:
        if name in parameters:
            parameters[name].requires_grad_(True)
    learning = [name for name, parameter in parameters.items() if parameter.requires_grad]
    others = {path: module for path, module in backbone.named_modules() if path not in trained}
    for module in others.values():
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    stand = (path for path in others if path and not any(each.startswith(f"{path}.") for each in trained))
    return tuple(stand), tuple(name for name in learning if not parameters[name].requires_grad)


def _layers(backbone: "Backbone") -> Iterator[nn.Module]:
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


def _stages(backbone: "Backbone") -> Iterator[nn.Module]:
    yield from (backbone.stage(name) for name in backbone.stages)


_UNITS: dict[str, Callable[["Backbone"], Iterator[nn.Module]]] = {
    "layers": _layers,
    "blocks": _blocks,
    "stage": _stages,
}
