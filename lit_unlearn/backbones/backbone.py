"""A classifier in three parts: normalise → encoder with named stages → linear head.

Images come in [0, 1]; normalisation lives inside, so that attacks and adversarial steps work in pixel space.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from lit_unlearn.backbones.normalise import Normalise
from lit_unlearn.backbones.parts import freeze_others, part_of
from lit_unlearn.backbones.taps import Tap
from lit_unlearn.errors import UsageError, first_line, unknown
from lit_unlearn.options import TypedOptions
from lit_unlearn.recipes import Recipe

Network = Any
"""An ``nn.Module``. Not written as such where a config is read, since shell completion would list every module's
arguments inside every module's, without end."""

FEATURES = "features"
LOGITS = "logits"


class Backbone(TypedOptions, nn.Module):
    """An image classifier whose features, logits and inner stages can be asked for by name.

    Args:
        encoder: maps normalised images (B, C, H, W) to features (B, d).
        head: a linear layer from features to logits; it has ``in_features`` and ``out_features``.
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation.
        stages: name of each stage → path of its submodule inside the encoder, in order of depth.
        channels_last: whether the stages hand on (B, H, W, C) in place of (B, C, H, W), as Swin transformers do.

    Raises:
        UsageError: if the head has no sizes, mean and std differ in length or are empty, a standard deviation is not
            positive, or a stage is not in the encoder or has a name that is taken.
    """

    head_path: str | None = None
    """Where the head was in the network that was split, or None if the backbone was constructed in two parts."""

    pretrained: str | None = None
    """What the network was pretrained as, before it saw any of the user's images; None: its weights are random."""

    recipe: Recipe | None = None
    """How images were prepared when it was pretrained, where that is known."""

    trained: str = "all"
    """The part of it that is trained, see :meth:`train_only`."""

    _frozen: tuple[str, ...] = ()
    _stopped: tuple[str, ...] = ()
    _compiled: Callable[[Tensor], Tensor] | None = None
    _tapped: bool = False

    def __init__(
        self,
        encoder: Network,
        head: Network,
        mean: Sequence[float],
        std: Sequence[float],
        stages: Mapping[str, str],
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        for size in ("in_features", "out_features"):
            if not isinstance(getattr(head, size, None), int):
                raise UsageError(f"the head must be a linear layer, but a {type(head).__name__} has no {size}")
        self.normalise = Normalise(mean, std)
        self.encoder: nn.Module = encoder
        self.head: nn.Module = head
        self.channels_last = channels_last
        self._stages = dict(stages)
        modules = [name for name, _ in encoder.named_modules() if name]
        for name, path in self._stages.items():
            if name in (FEATURES, LOGITS):
                raise UsageError(f"a stage may not be called {name!r}: that name is taken by the backbone's own output")
            if path not in modules:
                raise unknown("stage", path, modules)

    @property
    def num_classes(self) -> int:
        """How many logits the head gives."""
        return int(getattr(self.head, "out_features"))  # noqa: B009

    @property
    def num_features(self) -> int:
        """Width d of the features."""
        return int(getattr(self.head, "in_features"))  # noqa: B009

    @property
    def in_channels(self) -> int:
        """How many channels an image must have."""
        return int(self.normalise.mean.numel())

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the encoder's stages, in order of depth."""
        return tuple(self._stages)

    def stage(self, name: str) -> nn.Module:
        """The module that is the stage of that name."""
        return self.encoder.get_submodule(self._stages[name])

    def train_only(self, train: str | Iterable[str]) -> None:
        """Lets a part of the network learn alone: the parameters and running statistics of all else stay as they are.

        Methods and the optimizer leave it out. An attack may train all of it. What the user froze never learns.

        Args:
            train: ``all``; ``head``; ``last_<k>``, the last k blocks and the head, or ``last_<k>_layers`` and
                ``last_<k>_stages``; or the paths of the part's modules.

        Raises:
            UsageError: if it is none of these, or the network has fewer than k.
        """
        if isinstance(train, str):
            self.trained, train = train, part_of(self, train)
        self._frozen, self._stopped = freeze_others(self, list(train), self._stopped)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of the part that learns; all else stays in eval mode."""
        super().train(mode)
        for path in self._frozen:
            self.get_submodule(path).eval()
        return self

    def stands(self, name: str) -> bool:
        """Whether a parameter or buffer of that name is outside of the part that learns."""
        return name.startswith(tuple(f"{path}." for path in self._frozen))

    @property
    def stopped(self) -> tuple[str, ...]:
        """Names of the parameters that :meth:`train_only` has taken out of training."""
        return self._stopped

    def name_in_network(self, name: str) -> str:
        """The name of a parameter or buffer in the network that :meth:`to_network` gives."""
        return name

    @property
    def compiled(self) -> bool:
        """Whether :meth:`compile` was called; a copy is not compiled."""
        return self._compiled is not None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Let training passes from images to features run compiled; names in the state dict stay as they are.

        Evaluation does not, nor do passes that tap stages, nor those of copies, such as attacks are handed: what is
        measured of some weights is the same with and without it. A pass raises a UsageError if it cannot be compiled.

        Args:
            *args: as for ``torch.compile``.
            **kwargs: as for ``torch.compile``.
        """
        self._compiled = torch.compile(self._encode, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_compiled": None}  # type: ignore[no-untyped-call]

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (B, d) of images (B, C, H, W) in [0, 1].

        In eval mode the network itself never sees an empty batch, which ``view(len(x), -1)`` cannot take: it gets one
        image of zeros, whose features are cut off again.
        """
        if self._pads(x):  # joined, so that the result has a gradient by the images
            return self._encode(torch.cat([x, x.new_zeros(1, *x.shape[1:])]))[:0]
        if self._compiled is None or self._tapped or not self.training:
            return self._encode(x)
        try:
            return self._compiled(x)
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise UsageError(f"compile: this network cannot be compiled here: {first_line(error)}") from error
            raise

    def _pads(self, x: Tensor) -> bool:
        """Whether one image is added to a batch."""
        return not self.training and len(x) == 0

    def _encode(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(self.normalise(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits

    def taps(self, x: Tensor, names: Iterable[str], cells: int = 1) -> dict[str, Tensor]:
        """Pooled activations of several stages, from one pass through the encoder.

        Args:
            x: images (B, C, H, W) in [0, 1].
            names: names of stages, ``"features"`` or ``"logits"``.
            cells: stages are averaged over cells × cells parts of their positions; see
                :func:`~lit_unlearn.backbones.taps.pool`.

        Returns:
            name → (B, c), in the order asked for: feature maps are averaged over positions, token sequences
            (B, T, D) over tokens, vectors are as they are. Gradients flow. Of a stage that runs several times
            in one pass, the last output counts.

        Raises:
            UsageError: for an unknown name, or a stage that the pass does not run or that gives no tensor.
        """
        wanted = list(dict.fromkeys(names))
        found: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name in wanted:
                if name in self._stages:
                    self._tapped = True  # a compiled pass would not notice hooks
                    hooks.callback(setattr, self, "_tapped", False)
                    module = self.stage(name)
                    hooks.enter_context(module.register_forward_hook(Tap(name, found, self.channels_last, cells)))
                elif name not in (FEATURES, LOGITS):
                    raise unknown("stage", name, [*self.stages, FEATURES, LOGITS])
            features = self.features(x)
        if self._pads(x):
            found = {name: tapped[:0] for name, tapped in found.items()}
        found[FEATURES] = features
        if LOGITS in wanted:
            found[LOGITS] = self.head(found[FEATURES])
        silent = [name for name in wanted if name not in found]
        if silent:
            raise UsageError(f"the stage {silent[0]!r} does not run in the forward pass: name other stages")
        return {name: found[name] for name in wanted}

    def describe(self) -> dict[str, Any]:
        """The network in plain types: its classes, where its head is, its normalisation and its sizes."""
        mean, std = (_numbers(each) for each in (self.normalise.mean, self.normalise.std))
        return {
            "class": type(self).__name__,
            "network": self.network_class(),
            "head": self.head_path or "head",
            "normalises": self.head_path is None,
            "mean": mean,
            "std": std,
            "num_classes": self.num_classes,
            "num_features": self.num_features,
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
            **({} if self.trained == "all" else {"train": self.trained}),
            **({} if self.pretrained is None else {"pretrained": self.pretrained}),
            **({"compiled": True} if self.compiled else {}),
        }

    def network_class(self) -> str:
        """Import path of the class that :meth:`to_network` gives a module of."""
        return import_path(type(self))

    def network_name(self) -> str:
        """The name of that class alone."""
        return self.network_class().rpartition(".")[2]

    def to_network(self) -> nn.Module:
        """A copy of the network under its own class and names, in eval mode: here, the backbone itself."""
        return deepcopy(self).eval()

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Check, before anything is trained, that the data fits; the backbone does not change.

        Args:
            image_shape: (C, H, W) of the images.
            num_classes: how many classes the data has.

        Raises:
            UsageError: if channels, class count, image size or the weights' precision do not fit.
        """
        channels = image_shape[0]
        if channels != self.in_channels:
            raise UsageError(
                f"the backbone takes {self.in_channels}-channel images but the data has {channels} channels: "
                f"set the backbone's in_channels={channels}"
            )
        if num_classes != self.num_classes:
            raise UsageError(
                f"the backbone has {self.num_classes} classes but the data has {num_classes}: "
                f"set the backbone's num_classes={num_classes}"
            )
        modes = [(module, module.training) for module in self.modules()]
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, *image_shape, generator=generator).to(self.normalise.mean)
        try:
            with torch.no_grad():
                self.eval()
                self._dry_run(images)
        except UsageError as error:
            for name, parameter in self.named_parameters():
                if parameter.is_floating_point() and parameter.dtype != images.dtype:
                    raise UsageError(
                        f"{self.name_in_network(name)} is {parameter.dtype}, but images are {images.dtype}: give the "
                        "network in single precision, by .float(); in which one it runs is an option of the trainer"
                    ) from error
            raise
        finally:
            for module, mode in modes:
                module.training = mode

    def check_answers(self, images: Tensor) -> None:
        """Makes sure that images get the network's own answers; what was split from a network overrides this."""

    def _dry_run(self, images: Tensor) -> None:
        """One pass of a small batch (B, C, H, W) without gradients, in eval mode."""
        features = attempt(self.features, images)
        expected = (len(images), self.num_features)
        if not isinstance(features, Tensor) or features.shape != expected:
            got = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
            raise UsageError(
                f"for images of {_size(images)} the encoder gives {got}, but the head needs features {expected}"
            )


def _numbers(values: Tensor) -> list[float]:
    """Values as the shortest numbers that give them back in single precision."""
    return [float(str(value)) for value in values.detach().float().cpu().flatten().numpy()]


def import_path(kind: type) -> str:
    """Where a class can be imported from."""
    return f"{kind.__module__}.{kind.__qualname__}"


def attempt(function: Callable[[Tensor], object], images: Tensor) -> object:
    """What a network gives for images (B, C, H, W); any error of the network becomes a UsageError of one line."""
    try:
        return function(images)
    except Exception as error:
        raise UsageError(f"the backbone cannot take images of {_size(images)}: {first_line(error)}") from error


def _size(images: Tensor) -> str:
    return "×".join(map(str, images.shape[1:]))
