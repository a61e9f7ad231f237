"""Any classifier that ends in a linear layer, split into an encoder and that layer."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from lit_unlearn.backbones.answers import trouble_with
from lit_unlearn.backbones.backbone import FEATURES, LOGITS, Backbone, Network, attempt, import_path
from lit_unlearn.backbones.saving import own_name
from lit_unlearn.errors import UsageError, check_at_least, unknown

_GROUPS = 5
"""How many stages a network has by default: as many as a ResNet, so that attacks on stages cost what they do there."""

_FEW = 4
_NEARLY_ALL = 0.8


class SplitBackbone(Backbone):
    """A network whose last linear layer becomes the head; an identity takes its place in the encoder.

    Weight files of the network before the split load too.

    Args:
        network: maps normalised images to logits; it is changed and becomes the encoder.
        num_classes: how many logits the head must give; None accepts any number.
        head: dotted path of the last linear layer; None looks for it.
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation.
        stages: dotted paths inside the network; None is its blocks in five groups, see :func:`default_stages`. One
            called ``features`` becomes the stage ``encoder.features``: that name means the penultimate features.
        channels_last: whether the stages hand on (B, H, W, C).

    Raises:
        UsageError: if there is no such head or stage, or the network gives auxiliary logits.
    """

    head_path: str

    def __init__(
        self,
        network: Network,
        num_classes: int | None,
        head: str | None,
        mean: Sequence[float],
        std: Sequence[float],
        stages: Sequence[str] | None = None,
        channels_last: bool = False,
    ) -> None:
        if getattr(network, "aux_logits", False):
            raise UsageError(f"{type(network).__name__} gives auxiliary logits in training: set aux_logits to false")
        path = find_head(network, num_classes, head)
        layer = network.get_submodule(path)
        network.set_submodule(path, nn.Identity())
        super().__init__(network, layer, mean, std, name_stages(network, stages), channels_last)
        self.head_path = path

    def network_class(self) -> str:
        """Import path of the class of the network that was split."""
        return import_path(type(self.encoder))

    def name_in_network(self, name: str) -> str:
        """The name that a parameter or buffer had before the split."""
        return own_name(name, self.head_path)

    def to_network(self) -> nn.Module:
        """A copy of the network as it was before the split: its own class, its own names, in eval mode.

        Normalisation stays behind: the network takes what it took before, images minus the mean over the deviation.
        Parameters that :meth:`train_only` has taken out of training learn again.
        """
        parts = deepcopy(nn.ModuleDict({"encoder": self.encoder, "head": self.head}))  # at once: tied weights stay tied
        for name, parameter in parts.named_parameters():
            if name in self.stopped:
                parameter.requires_grad_(True)
        network = parts["encoder"]
        network.set_submodule(self.head_path, parts["head"])
        return network.eval()

    def _dry_run(self, images: Tensor) -> None:
        """As for every backbone, and the two parts must together do what the network did."""
        # Random weights, because a head that starts at zero would hide what comes after it.
        head = deepcopy(self.head)
        generator = torch.Generator().manual_seed(1)
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        whole = self._whole(head, images)
        try:
            super()._dry_run(images)
        except UsageError as error:
            raise self._not_last(whole) from error
        if not _agree(whole, head(self.features(images))):
            raise self._not_last(whole)
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            trained = attempt(deepcopy(self.encoder).train(), self.normalise(images))
        if not isinstance(trained, Tensor):
            raise UsageError(
                f"{type(self.encoder).__name__} returns a {type(trained).__name__} in training, but must return logits "
                "alone, as it does in evaluation: leave its other outputs out"
            )

    @torch.no_grad()
    def check_answers(self, images: Tensor) -> None:
        """Makes sure that the network as it was before the split answers as its two parts do, in eval mode.

        A network that behaves otherwise on the noise that it was split with would be measured as what it is not.

        Args:
            images: (B, C, H, W) in [0, 1].

        Raises:
            UsageError: if it does not.
        """
        bare = deepcopy(self)
        bare.encoder._forward_hooks.clear()  # a gate or a map behind the encoder reads features, and no logits
        if not _agree(bare._whole(bare.head, images), bare.head(bare.features(images))):
            raise UsageError(
                f"{type(self.encoder).__name__} answers otherwise on the data's images than its features and its head "
                f"{self.head_path!r} do: what follows the head would not be measured; leave it out"
            )

    def _whole(self, head: nn.Module, images: Tensor) -> object:
        """What the network gives with a head in its place again."""
        identity = self.encoder.get_submodule(self.head_path)
        self.encoder.set_submodule(self.head_path, head)
        try:
            return attempt(self.features, images)
        finally:
            self.encoder.set_submodule(self.head_path, identity)

    def _not_last(self, answer: object) -> UsageError:
        if trouble := trouble_with(answer):
            return UsageError(f"{type(self.encoder).__name__} {trouble}")
        return UsageError(
            f"the head {self.head_path!r} is not the last operation of the network, so the network cannot be split "
            "there: name the last linear layer with the argument head of Custom, or leave out what follows it (a "
            "temperature, a mean over heads) and noise"
        )


def _agree(whole: object, parts: Tensor) -> bool:
    """Whether a network gives what its parts give."""
    return isinstance(whole, Tensor) and whole.shape == parts.shape and _close(whole, parts)


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-3, atol=1e-4, equal_nan=True)


def find_head(network: nn.Module, num_classes: int | None, head: str | None = None) -> str:
    """Dotted path of the linear layer that gives the logits.

    Args:
        network: the whole network.
        num_classes: how many outputs the layer must have; None accepts any number.
        head: the path, if it is known; None takes the last fitting ``nn.Linear`` in the order of definition.

    Raises:
        UsageError: if there is no such layer.
    """
    linear = {name: module for name, module in network.named_modules() if name and isinstance(module, nn.Linear)}
    name = type(network).__name__
    if not linear:
        raise UsageError(f"{name} has no linear layer inside, so it cannot be split into an encoder and a linear head")
    if head is not None and head not in linear:
        raise unknown("head, not a linear layer of the network:", head, linear)
    fitting = [path for path, module in linear.items() if num_classes in (None, module.out_features)]
    if head is None and not fitting:
        last = list(linear)[-1]
        raise UsageError(
            f"no linear layer of {name} has num_classes={num_classes} outputs; the last one, {last!r}, has "
            f"{linear[last].out_features}"
        )
    if head is not None and head not in fitting:
        raise UsageError(f"the head {head!r} has {linear[head].out_features} outputs, but num_classes={num_classes}")
    return head if head is not None else fitting[-1]


def name_stages(encoder: nn.Module, stages: Sequence[str] | None) -> dict[str, str]:
    """Names of stages → their paths in the encoder; the name is the path unless it is taken.

    Args:
        encoder: the network without its head.
        stages: paths; None is those of :func:`default_stages`.
    """
    found = default_stages(encoder) if stages is None else stages
    return {f"encoder.{path}" if path in (FEATURES, LOGITS) else path: path for path in found}


def default_stages(encoder: nn.Module) -> list[str]:
    """Where the network is looked into: the ends of five groups of its blocks, or all of them where they are fewer.

    Blocks are the children that have parameters. While there are few of them, or one has nearly all layers, the one of
    most layers is replaced by its own blocks, if it is a container: the ``features`` of a MobileNet, the ``blocks`` of
    a vision transformer.

    Args:
        encoder: the network without its head.
    """
    blocks = _parts(encoder, "")
    while blocks:
        path, size = max(blocks.items(), key=lambda item: item[1])
        inner = _parts(encoder.get_submodule(path), f"{path}.")
        if (len(blocks) >= _FEW and size <= _NEARLY_ALL * sum(blocks.values())) or not _is_container(
            encoder, path, inner
        ):
            break
        blocks = {
            name: count
            for part, own in blocks.items()
            for name, count in (inner if part == path else {part: own}).items()
        }
    paths = list(blocks)
    ends = [-(-(number + 1) * len(paths) // _GROUPS) - 1 for number in range(_GROUPS)]
    return paths if len(paths) <= _GROUPS else [paths[end] for end in ends]


def _parts(module: nn.Module, prefix: str) -> dict[str, int]:
    """The children that have parameters, by path, and how many layers with parameters each has."""
    layers = {f"{prefix}{name}": sum(map(_is_layer, child.modules())) for name, child in module.named_children()}
    return {path: count for path, count in layers.items() if count}


def _is_layer(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _is_container(encoder: nn.Module, path: str, inner: Mapping[str, int]) -> bool:
    """Whether a part only holds blocks that run one after the other, or one such container beside little else."""
    if isinstance(encoder.get_submodule(path), nn.Sequential | nn.ModuleList):
        return len(inner) > 1
    largest = max(inner, key=lambda part: inner[part], default=None)
    if largest is None or inner[largest] <= _NEARLY_ALL * sum(inner.values()):
        return False
    return isinstance(encoder.get_submodule(largest), nn.Sequential | nn.ModuleList)


def per_channel(
    in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None, default: tuple[float, float]
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation for each channel, the default where none are given.

    Raises:
        UsageError: if there is no channel or the number of values is not in_channels.
    """
    check_at_least("in_channels", in_channels, 1)
    found = [
        list(given) if given is not None else [value] * in_channels
        for given, value in zip((mean, std), default, strict=True)
    ]
    if any(len(values) != in_channels for values in found):
        raise UsageError(f"mean and std need {in_channels} values each (in_channels), got {found[0]} and {found[1]}")
    return found[0], found[1]
