"""Your own network as a backbone."""

from copy import deepcopy
from importlib import import_module
from typing import Any

from torch import nn

from lit_unlearn.backbones.backbone import Backbone, Network
from lit_unlearn.backbones.split import SplitBackbone, per_channel
from lit_unlearn.backbones.weights import start_from
from lit_unlearn.errors import UsageError, first_line

_LIBRARIES = "a network of torchvision or timm is the backbone Torchvision or Timm"
_WRAPPING = {"head", "mean", "std", "stages", "train"}


class Custom(SplitBackbone):
    """Any network that ends in a linear layer, from images to logits.

    Args:
        network: an ``nn.Module``, of which a copy is split; in a config its class path, or class path and arguments.
        num_classes: how many logits; None takes what the head has.
        head: dotted path of the last linear layer, such as ``classifier.2``; None looks for the last one with
            num_classes outputs.
        in_channels: channels of the images.
        mean: per-channel mean of images in [0, 1]; None is 0: the network sees the images as they are.
        std: per-channel standard deviation; None is 1.
        stages: dotted paths inside the network; None is its blocks in five groups.
        pretrained: file of weights that take the place of the network's own, which it starts from; the head starts
            afresh where the file's has other classes. None keeps the network's own, which then count as random.
        train: the part that learns, see :meth:`Backbone.train_only`.

    Raises:
        UsageError: if ``network`` is no torch module, or cannot be made or copied, if there is no such head, stage or
            part, the number of values does not fit in_channels, or the file is of another network.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        >>> Custom(net, in_channels=1).stages
        ('0',)
    """

    def __init__(
        self,
        network: Network,
        num_classes: int | None = None,
        head: str | None = None,
        in_channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        stages: list[str] | None = None,
        pretrained: str | None = None,
        train: str = "all",
    ) -> None:
        network = _made(network)
        if not isinstance(network, nn.Module):
            raise UsageError(f"network must be a torch module or its class path, got {str(network)[:80]!r}")
        mean, std = per_channel(in_channels, mean, std, default=(0.0, 1.0))
        network = _copied(network)
        source = None if pretrained is None else start_from(network, pretrained, head)
        super().__init__(network, num_classes, head, mean, std, stages)
        self.pretrained = source
        self.train_only(train)


def as_backbone(network: Network, image_shape: tuple[int, int, int], num_classes: int, **options: Any) -> Backbone:
    """A network as a backbone: a backbone as it is, any other network as a copy that is split at its last layer.

    Args:
        network: a backbone, or any ``nn.Module`` that ends in a linear layer.
        image_shape: (C, H, W) of the images that it is to take.
        num_classes: how many logits it must give.
        **options: further arguments of :class:`Custom` for a plain network: head, mean, std, stages, train.

    Raises:
        UsageError: for options with a backbone, or an unknown option; if the network is no torch module, or has no
            linear layer of that many outputs.
    """
    if unfit := sorted(options.keys() - (set() if isinstance(network, Backbone) else _WRAPPING)):
        allowed = "a Backbone takes none" if isinstance(network, Backbone) else ", ".join(sorted(_WRAPPING))
        raise UsageError(f"option {unfit[0]!r} to wrap the network with is not accepted (allowed: {allowed})")
    if isinstance(network, Backbone):
        return network
    return Custom(network, num_classes=num_classes, in_channels=image_shape[0], **options)


def _copied(network: nn.Module) -> nn.Module:
    try:
        return deepcopy(network)
    except Exception as error:  # whatever is in it: a lock, a file, a tensor that a hook has made
        raise UsageError(
            f"network: a {type(network).__name__} cannot be copied ({type(error).__name__}: {first_line(error)}): give "
            "a newly made one that has loaded its state dict; of the old weight_norm, take the one of parametrizations"
        ) from error


def _made(network: object) -> object:
    """Makes a network that is given by class path; only modules are made, for a config may come from a stranger."""
    spec = network.as_dict() if hasattr(network, "as_dict") else network
    path: object = spec
    arguments: dict[str, Any] = {}
    if isinstance(spec, dict):
        path, arguments = spec.get("class_path"), spec.get("init_args") or {}
    if not isinstance(path, str):
        return network
    module, _, name = path.rpartition(".")
    if not module:
        raise UsageError(f"network is {path!r}, but must be an import path, module.Class; {_LIBRARIES}")
    try:
        kind = getattr(import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"it is no class of torch modules; {_LIBRARIES}")
        return kind(**arguments)
    except Exception as error:
        raise UsageError(f"network {path!r} cannot be made: {type(error).__name__}: {error}") from error
