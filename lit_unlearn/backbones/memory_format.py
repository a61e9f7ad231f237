"""The order in which convolutions keep their numbers in memory: it changes their speed, and results by rounding alone.

A network whose kernels are ``channels_last`` hands its feature maps on in that order, whatever that of the images; so a
format is a property of the weights, and copies have it too. Which one is faster depends on network, precision and
machine: :func:`faster_format` tries both.
"""

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Literal, get_args

import torch
from lightning.pytorch.plugins import Precision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.errors import UsageError, first_line

MemoryFormat = Literal["contiguous", "channels_last"]
MemoryFormatChoice = Literal["auto", "contiguous", "channels_last"]
"""A format, or ``auto``: the one that a probe finds faster."""

_FORMATS: Mapping[MemoryFormat, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
_LEAD = 1.05
"""How many times as fast channels_last has to be."""
_ROUNDS = 3
_SECONDS = 0.3
"""No further round begins after so long."""
_FEW = 16
"""Images in the probe's steps on a CPU, where a small batch tells nearly what a large one does."""
_TOLERANCE = 1e-3
_NARROW = 8
_SMALL = 40

_log = logging.getLogger(__name__)
_found: dict[object, MemoryFormat] = {}


def memory_format_of(network: nn.Module) -> MemoryFormat:
    """The format of a network's kernels."""
    kernels = [parameter for parameter in network.parameters() if parameter.dim() == 4]
    last = any(each.is_contiguous(memory_format=torch.channels_last) and not each.is_contiguous() for each in kernels)
    return "channels_last" if last else "contiguous"


def set_memory_format(network: nn.Module, name: MemoryFormat) -> None:
    """Puts a network's kernels into a format; its parameters stay the same objects."""
    wanted = _FORMATS[name]
    for kernel in (parameter for parameter in network.parameters() if parameter.dim() == 4):
        # Not Module.to: of a kernel of one pixel it would keep any strides, and convolutions go by strides.
        if kernel.stride() != torch.empty(kernel.shape, device="meta", memory_format=wanted).stride():
            kernel.data = kernel.data.clone(memory_format=wanted)


def crashing_layer(network: nn.Module, image_shape: tuple[int, int, int], device: torch.device) -> str | None:
    """The path of a layer that ends the process in channels_last; None where there is none.

    The backward pass of PyTorch 2.13 on a CPU writes beyond its memory in a convolution of 1x1 with a stride and 8
    channels or fewer, seen from 48x48 pixels on and not at 40x40 (8 to 16 channels, stride 2: "double free").
    """
    if device.type != "cpu" or max(image_shape[1:]) <= _SMALL:
        return None
    convolutions = {path: module for path, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    return next((path for path, module in convolutions.items() if _crashes(module)), None)


def _crashes(layer: nn.Conv2d) -> bool:
    return layer.in_channels <= _NARROW and set(layer.kernel_size) == {1} and set(layer.stride) != {1}


def check_memory_format(name: str, backbone: Backbone, image_shape: tuple[int, int, int], device: torch.device) -> None:
    """Refuses a format that there is not, or that a network cannot take on a device. Random state stays as it is.

    Raises:
        UsageError: naming the format.
    """
    if name not in get_args(MemoryFormatChoice):
        raise UsageError(f"memory_format is {name!r}, but must be one of {', '.join(get_args(MemoryFormatChoice))}")
    if name == "channels_last":
        if (path := crashing_layer(backbone, image_shape, device)) is not None:
            raise UsageError(f"memory_format channels_last: PyTorch would crash at {path} on a CPU: take contiguous")
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                _features(_copy(backbone, "channels_last"), _images(_FEW, image_shape))
        except Exception as error:
            raise UsageError(f"memory_format channels_last: the network cannot take it: {first_line(error)}") from error


def faster_format(
    backbone: Backbone,
    image_shape: tuple[int, int, int],
    batch_size: int,
    device: torch.device,
    precision: Precision,
) -> MemoryFormat:
    """The format in which copies of a network are trained faster: channels_last only where it is so by a clear margin.

    Contiguous too where channels_last fails or gives other features, as it does where dropout draws for feature maps.
    A process tries the same network, images, precision and threads once. Weights, modes and random state stay as they
    are.

    Args:
        backbone: the network.
        image_shape: (C, H, W).
        batch_size: images in a step; on a CPU the probe takes fewer where that many take long.
        device: where to try.
        precision: of the run.
    """
    shapes = tuple(tuple(parameter.shape) for parameter in backbone.parameters())
    if not any(len(shape) == 4 for shape in shapes) or crashing_layer(backbone, image_shape, device) is not None:
        return "contiguous"
    key = (
        *(repr(backbone), shapes, image_shape, batch_size),
        *(str(device), type(precision), precision.precision, torch.get_num_threads()),
    )
    if key not in _found:
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
            _found[key] = _probe(backbone, image_shape, batch_size, device, precision)
    return _found[key]


def _probe(
    backbone: Backbone,
    image_shape: tuple[int, int, int],
    batch_size: int,
    device: torch.device,
    precision: Precision,
) -> MemoryFormat:
    try:
        pair = {name: _copy(backbone, name) for name in _FORMATS}
        if not _agree(list(pair.values()), _images(_FEW, image_shape)):
            _log.debug("contiguous: channels_last gives other features")
            return "contiguous"
        images = _images(min(batch_size, _FEW) if device.type == "cpu" else batch_size, image_shape)
        contiguous, last = _in_turn([_Step(network, device, precision) for network in pair.values()], images)
        _log.debug("%d images: contiguous %.4f s, channels_last %.4f s", len(images), contiguous, last)
        return "channels_last" if contiguous > _LEAD * last else "contiguous"
    except Exception as error:  # a network of the user's own may fail in any way
        _log.debug("contiguous: %s", first_line(error))
        return "contiguous"


def _in_turn(steps: Sequence["_Step"], images: Tensor) -> list[float]:
    """The median seconds of each, after a first round that does not count."""
    rounds: list[list[float]] = []
    while len(rounds) <= _ROUNDS and (len(rounds) < 2 or sum(map(sum, rounds)) < _SECONDS):
        rounds.append([step.seconds(images) for step in steps])
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


class _Step:
    """Forward and backward of cross-entropy in train mode, as the run would do it."""

    def __init__(self, network: nn.Module, device: torch.device, precision: Precision) -> None:
        self.network = precision.convert_module(network.to(device))
        self.device, self.precision = device, precision

    def seconds(self, images: Tensor) -> float:
        images = self.precision.convert_input(images.to(self.device))
        labels = torch.zeros(len(images), dtype=torch.long, device=self.device)
        started = self._clock()
        with self.precision.forward_context():
            loss = cross_entropy(self.network(images), labels)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        spent = self._clock() - started
        self.network.zero_grad()
        return spent

    def _clock(self) -> float:
        """Of one thread its processor time, so that what else runs on the machine counts for less."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        elif torch.get_num_threads() == 1:
            return time.process_time()
        return time.perf_counter()


def _copy(backbone: Backbone, name: MemoryFormat) -> Backbone:
    network = deepcopy(backbone).train()
    set_memory_format(network, name)
    return network


def _images(count: int, image_shape: tuple[int, int, int]) -> Tensor:
    return torch.rand(count, *image_shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _features(network: Backbone, images: Tensor) -> Tensor:
    """Features (B, d) of a pass in train mode; what is random in it is the same each time. It moves statistics."""
    torch.manual_seed(0)
    return network.features(images.to(network.normalise.mean))


def _agree(networks: Sequence[Backbone], images: Tensor) -> bool:
    """Whether two networks give the same features but for rounding."""
    one, two = (_features(network, images) for network in networks)
    return bool((one - two).norm() <= _TOLERANCE * one.norm())
