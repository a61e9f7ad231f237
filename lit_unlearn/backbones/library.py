"""Classifiers of torchvision and timm as backbones."""

from typing import Any

import torch
from torch import nn

from lit_unlearn.backbones.backbone import first_line
from lit_unlearn.backbones.split import SplitBackbone, find_head, per_channel
from lit_unlearn.errors import UsageError, unknown

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
IMAGENET_GREY = (0.449, 0.226)


class Torchvision(SplitBackbone):
    """A classifier of torchvision that ends in a linear layer.

    Args:
        name: of the model, such as ``resnet18``.
        num_classes: how many logits.
        in_channels: channels of the images; for other than 3 the first convolution is replaced.
        mean: per-channel mean of images in [0, 1]; None is ImageNet's (the average over its channels unless there
            are 3).
        std: per-channel standard deviation; None is ImageNet's, as for mean.
        stages: dotted paths inside the network; None is its blocks in five groups.
        pretrained: start from torchvision's ImageNet weights, downloaded on first use; the head is then fresh unless
            num_classes is 1000.
        options: further arguments of the model's constructor, such as ``image_size`` for vision transformers.

    Raises:
        UsageError: for an unknown model, options it does not take, or one that does not end in a linear layer.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        stages: list[str] | None = None,
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        from torchvision import models

        known = models.list_models(module=models)
        if name not in known:
            raise unknown("torchvision classifier", name, known)
        default = IMAGENET if in_channels == 3 else (None, None)
        mean, std = per_channel(in_channels, mean or default[0], std or default[1], IMAGENET_GREY)
        sizes: dict[str, Any] = {"weights": "DEFAULT"} if pretrained else {"num_classes": num_classes}
        try:
            network = models.get_model(name, **sizes, **(options or {}))
        except Exception as error:
            raise UsageError(f"cannot make torchvision's {name}: {first_line(error)}") from error
        if pretrained:
            _replace_head(network, num_classes)
        if in_channels != 3:
            _replace_stem(network, in_channels)
        swin = isinstance(network, models.SwinTransformer)
        super().__init__(network, num_classes, None, mean, std, stages, channels_last=swin)


class Timm(SplitBackbone):
    """A classifier of timm (``pip install 'lit_unlearn[timm]'``) that ends in a linear layer.

    Args:
        name: of the model, such as ``vit_tiny_patch16_224``.
        num_classes: how many logits.
        in_channels: channels of the images.
        mean: per-channel mean of images in [0, 1]; None is what the model was trained with, ImageNet's for most (the
            average over its channels unless there are 3).
        std: per-channel standard deviation; None is what the model was trained with, as for mean.
        stages: dotted paths inside the network; None is its blocks in five groups.
        pretrained: start from timm's weights, downloaded on first use; the head is then fresh unless the class
            counts agree.
        options: further arguments of the model's constructor, such as ``img_size`` for vision transformers.

    Raises:
        UsageError: without timm, for an unknown model, options it does not take, or one that does not end in a
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
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise UsageError("timm is not installed: pip install 'lit_unlearn[timm]'") from error
        if not timm.is_model(name):
            raise unknown("timm classifier", name, timm.list_models())
        sizes: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
        try:
            network: nn.Module = timm.create_model(name, pretrained=pretrained, **sizes, **(options or {}))
        except Exception as error:
            raise UsageError(f"cannot make timm's {name}: {first_line(error)}") from error
        config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
        default = (config.get("mean"), config.get("std")) if in_channels == 3 else (None, None)
        mean, std = per_channel(in_channels, mean or default[0], std or default[1], IMAGENET_GREY)
        channels_last = str(getattr(network, "output_fmt", "NCHW")) == "NHWC"
        super().__init__(network, num_classes, None, mean, std, stages, channels_last)


def _replace_head(network: nn.Module, num_classes: int) -> None:
    """Put a fresh head of another class count in place of a pretrained one."""
    path = find_head(network, None)
    old = network.get_submodule(path)
    assert isinstance(old, nn.Linear)
    if old.out_features != num_classes:
        network.set_submodule(path, nn.Linear(old.in_features, num_classes))


def _replace_stem(network: nn.Module, in_channels: int) -> None:
    """Let the first convolution take other than 3 channels, and respond to a grey image as before."""
    path, old = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
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
