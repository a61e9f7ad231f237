"""Classifiers of torchvision and timm as backbones, pretrained or not."""

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from lit_unlearn.backbones.split import SplitBackbone, find_head, per_channel
from lit_unlearn.backbones.weights import start_from
from lit_unlearn.errors import UsageError, first_line
from lit_unlearn.recipes import Recipe, recipe_of, timm_network, torchvision_recipe, torchvision_weights

_FILES = {".bin", ".ckpt", ".pt", ".pth", ".safetensors"}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
IMAGENET_GREY = (0.449, 0.226)


class Torchvision(SplitBackbone):
    """A classifier of torchvision that ends in a linear layer.

    Args:
        name: of the model, such as ``resnet18``.
        num_classes: how many logits.
        in_channels: channels of the images; for other than 3 the first convolution is replaced.
        mean: per-channel mean of images in [0, 1]; None is that of the weights' recipe, or ImageNet's (the average over
            its channels unless there are 3).
        std: per-channel standard deviation; None as for mean.
        stages: dotted paths inside the network; None is its blocks in five groups.
        pretrained: start from weights: a member of torchvision's enumeration, such as ``IMAGENET1K_V2``, or true for
            its default, downloaded on first use; or a file. The head then starts afresh unless the class counts agree.
        train: the part that learns, see :meth:`Backbone.train_only`.
        options: further arguments of the model's constructor, such as ``image_size`` for vision transformers.

    Raises:
        UsageError: for an unknown model, weights or part, options it does not take, or one that does not end in a
            linear layer.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        stages: list[str] | None = None,
        pretrained: bool | str = False,
        train: str = "all",
        options: dict[str, Any] | None = None,
    ) -> None:
        from torchvision import models

        file, sizes, recipe, source = file_of(pretrained), {"num_classes": num_classes}, None, None
        weights = torchvision_weights(name, pretrained if isinstance(pretrained, str) and file is None else None)
        if pretrained and file is None:
            sizes, recipe, source = {"weights": weights}, torchvision_recipe(name, weights.name), str(weights)
        mean, std = _normalisation(in_channels, mean, std, recipe)
        try:
            network = models.get_model(name, **sizes, **(options or {}))
        except Exception as error:
            raise UsageError(f"cannot make torchvision's {name}: {first_line(error)}") from error
        if file is not None:
            source = start_from(network, file)
        if source is not None:
            _replace_head(network, num_classes)
        if in_channels != 3:
            _replace_stem(network, in_channels)
        swin = isinstance(network, models.SwinTransformer)
        super().__init__(network, num_classes, None, mean, std, stages, channels_last=swin)
        self.pretrained, self.recipe = source, recipe
        self.train_only(train)


class Timm(SplitBackbone):
    """A classifier of timm (``pip install 'lit_unlearn[timm]'``) that ends in a linear layer.

    Args:
        name: of the model, such as ``vit_tiny_patch16_224``, ``hf-hub:timm/resnet18.a1_in1k`` for one on Hugging Face's
            hub, or ``local-dir:folder`` for a folder of that form.
        num_classes: how many logits.
        in_channels: channels of the images.
        mean: per-channel mean of images in [0, 1]; None is what the model was trained with, ImageNet's for most (the
            average over its channels unless there are 3).
        std: per-channel standard deviation; None is what the model was trained with, as for mean.
        stages: dotted paths inside the network; None is its blocks in five groups.
        pretrained: start from weights: true for those of the name, downloaded on first use, or a file. The head then
            starts afresh unless the class counts agree.
        train: the part that learns, see :meth:`Backbone.train_only`.
        options: further arguments of the model's constructor, such as ``img_size`` for vision transformers.

    Raises:
        UsageError: without timm, for an unknown model or part, weights that cannot be had, options it does not take,
            or one that does not end in a linear layer.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        stages: list[str] | None = None,
        pretrained: bool | str = False,
        train: str = "all",
        options: dict[str, Any] | None = None,
    ) -> None:
        file = file_of(pretrained)
        if isinstance(pretrained, str) and file is None:
            raise UsageError(f"pretrained is {pretrained!r}, but must be true, false or a file of weights")
        sizes = {"num_classes": num_classes, "in_chans": in_channels if file is None else 3}
        network = timm_network(name, pretrained=bool(pretrained) and file is None, **sizes, **(options or {}))
        source = name if pretrained else None
        if file is not None:
            source = start_from(network, file)
            if in_channels != 3:
                _replace_stem(network, in_channels)
        recipe = recipe_of(network)
        mean, std = _normalisation(in_channels, mean, std, recipe)
        channels_last = str(getattr(network, "output_fmt", "NCHW")) == "NHWC"
        super().__init__(network, num_classes, None, mean, std, stages, channels_last)
        self.pretrained, self.recipe = source, recipe if pretrained else None
        self.train_only(train)


def file_of(pretrained: bool | str) -> Path | None:
    """The file that is given as the weights to start from; None where it is no file's name."""
    if isinstance(pretrained, bool):
        return None
    path = Path(pretrained).expanduser()
    return path if path.is_file() or path.suffix in _FILES else None


def _normalisation(
    in_channels: int, mean: list[float] | None, std: list[float] | None, recipe: Recipe | None
) -> tuple[list[float], list[float]]:
    """What is given, else the recipe's, else ImageNet's: their averages over the channels unless there are 3."""
    default = IMAGENET if recipe is None else (list(recipe.mean), list(recipe.std))
    if in_channels != 3:
        return per_channel(in_channels, mean, std, (fmean(default[0]), fmean(default[1])))
    return per_channel(in_channels, mean or default[0], std or default[1], IMAGENET_GREY)


def _replace_head(network: nn.Module, num_classes: int) -> None:
    """Put a fresh head of another class count in place of a pretrained one."""
    path = find_head(network, None)
    old = network.get_submodule(path)
    assert isinstance(old, nn.Linear)
    if old.out_features != num_classes:
        network.set_submodule(path, nn.Linear(old.in_features, num_classes))


def _replace_stem(network: nn.Module, in_channels: int) -> None:
    """Let the first convolution take other than 3 channels, and respond to a grey image as before.

    Raises:
        UsageError: for a convolution that pads or scales its weights in a way of its own, which a plain one would lose.
    """
    path, old = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    if type(old) is not nn.Conv2d:
        raise UsageError(
            f"in_channels is {in_channels}, but the first convolution of the file in pretrained is a "
            f"{type(old).__name__}, which is read for 3 channels alone: give in_channels 3, or pretrained true or false"
        )
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(dim=1, keepdim=True).expand_as(new.weight) / in_channels)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    network.set_submodule(path, new)
