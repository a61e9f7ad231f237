"""How a pretrained network's images were prepared: what torchvision and timm say of their weights, without a download.

A network that has left its recipe still works, but not as well as its authors measured.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lit_unlearn.errors import UsageError, first_line, unknown

_SOURCES = ("hf-hub:", "local-dir:")
"""What timm's names of networks may begin with that lie on Hugging Face's hub, or in a folder of that form."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and numbers of a network's own evaluation.

    Args:
        size: pixels of a side of the square that the network sees.
        resize: pixels of the shorter side from which the square's centre is cut.
        interpolation: how images are resized: ``nearest``, ``bilinear`` or ``bicubic``.
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation.
    """

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def torchvision_weights(name: str, weights: str | None = None) -> Any:
    """A member of torchvision's enumeration of the weights of a network.

    Args:
        name: of the network, such as ``resnet50``.
        weights: such as ``IMAGENET1K_V2``, or with its class, ``ResNet50_Weights.IMAGENET1K_V2``; None is torchvision's
            default.

    Raises:
        UsageError: for an unknown network, or weights that it has not.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision classifier", name, known)
    members = models.get_model_weights(name)
    kind, _, member = (weights or "DEFAULT").rpartition(".")
    if member not in members.__members__ or kind not in ("", members.__name__):
        raise unknown(f"weights of torchvision's {name}:", weights, members.__members__)
    return members[member]


def torchvision_recipe(name: str, weights: str | None = None) -> Recipe:
    """The recipe of torchvision's weights; arguments and errors are those of :func:`torchvision_weights`."""
    made = torchvision_weights(name, weights).transforms()
    return Recipe(
        size=int(made.crop_size[0]),
        resize=int(made.resize_size[0]),
        interpolation=str(made.interpolation.value),
        mean=tuple(made.mean),
        std=tuple(made.std),
    )


def timm_recipe(name: str) -> Recipe:
    """The recipe of timm's weights.

    Args:
        name: of the network, such as ``resnet50.a1_in1k``, ``hf-hub:timm/resnet50.a1_in1k`` or ``local-dir:folder``.

    Raises:
        UsageError: without timm, or for a network that it does not have or cannot reach.
    """
    with torch.device("meta"):
        return recipe_of(timm_network(name))


def timm_network(name: str, **arguments: Any) -> nn.Module:
    """A network of timm; arguments are those of ``timm.create_model``, errors those of :func:`timm_recipe`."""
    timm = imported_timm()
    if not name.startswith(_SOURCES) and not timm.is_model(name):
        raise unknown("timm classifier", name, timm.list_models())
    try:
        made: nn.Module = timm.create_model(name, **arguments)
    # A wrong option, a broken file and a hub out of reach raise errors of many kinds.
    except Exception as error:
        raise UsageError(f"cannot make timm's {name}: {first_line(error)}") from error
    return made


def recipe_of(network: nn.Module) -> Recipe:
    """The recipe of the weights of a network that timm has made; timm's own default where it knows nothing of them."""
    known = getattr(network, "pretrained_cfg", None) or {}
    found = imported_timm().data.resolve_data_config(pretrained_cfg=known)
    size = int(found["input_size"][1])
    return Recipe(
        size=size,
        resize=round(size / float(found["crop_pct"])),
        interpolation=str(found["interpolation"]),
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
    )


def imported_timm() -> Any:
    """The package timm.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise UsageError("timm is not installed: pip install 'lit_unlearn[timm]'") from error
    return timm
