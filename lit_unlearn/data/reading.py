"""Where the images of a batch come from: cut out of a tensor, or read one by one, ahead of the loop, by processes.

Which samples a batch has is known before anything is read, and random transforms draw from a seed of their own for
every sample. So the number of processes changes no batch, and no other random number of the run.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from multiprocessing import current_process
from typing import Any, Protocol, TypeGuard, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_unlearn.errors import UsageError

Transform = Callable[[Tensor], Tensor]
Step = TypeVar("Step")
Batch = TypeVar("Batch")

_LOWEST, _HIGHEST = -0.5, 1.5
"""Of float images. They lie in [0, 1], but what resizes them with cubic kernels overshoots at an edge, by 0.45 at most,
while a normalised image with a dark or a bright pixel lies outside."""

_SHALLOW = 0.25
"""A cubic kernel falls below 0 by this at most, or by half of the highest value of the batch. Images that were shifted
to the middle, such as to [-0.5, 0.5], have values as far below 0 as above it."""

_AHEAD = 2
"""Batches that each process reads ahead, PyTorch's own number."""


class Samples(Sized, Protocol):
    """A data set of images without labels; it must be possible to send it to another process."""

    def __getitem__(self, index: int) -> Tensor:
        """The image of an index, (C, H, W): uint8, or float in [0, 1]."""


class Streamed:
    """Images that are read when a batch has them, in place of a tensor (N, C, H, W).

    Args:
        samples: where they are read.
        shape: (C, H, W) of every image; None where they differ, and transforms make them alike.
        indices: which of the samples, int64 (N,); None is all.
    """

    def __init__(
        self, samples: Samples, shape: tuple[int, int, int] | None = None, indices: Tensor | None = None
    ) -> None:
        self.samples = samples
        self.shape = shape
        self.indices = torch.arange(len(samples)) if indices is None else indices

    def __len__(self) -> int:
        """N."""
        return len(self.indices)

    def __getitem__(self, chosen: Tensor | slice) -> "Streamed":
        """Some of the images: by int64 (n,), or a slice."""
        return Streamed(self.samples, self.shape, self.indices[chosen])

    def read(self, places: Tensor) -> list[Tensor]:
        """Images (C, H, W), uint8 or float in [0, 1], at places int64 (n,).

        They are read at once where the data set can, with ``__getitems__``.
        """
        indices = self.indices[places].tolist()
        at_once = getattr(self.samples, "__getitems__", None)
        return [self.samples[index] for index in indices] if at_once is None else list(at_once(indices))


Images = Tensor | Streamed


@dataclass(frozen=True)
class Reading:
    """How batches are read.

    Args:
        transform: of each image, (C, H, W), uint8 or float in [0, 1], before they become a batch.
        workers: processes that read ahead where images are streamed or transformed; 0 reads in the loop itself.
        pin: whether batches are to lie in pinned memory, from which they reach a GPU while it computes.
    """

    transform: Transform | None = None
    workers: int = 0
    pin: bool = False

    def take(self, images: Images, indices: Tensor, seeds: Tensor) -> Tensor:
        """The images of a batch (B, C, H, W): uint8, or what the transform makes of them.

        Args:
            images: all images of the set.
            indices: int64 (B,).
            seeds: of the transform of each of them, int64 (B,).

        Raises:
            UsageError: if the images of the batch differ in size, or are floats that do not lie in [0, 1].
        """
        if isinstance(images, Tensor) and self.transform is None:
            return images.index_select(0, indices)
        if len(indices) == 0:  # size and type are those of any image
            first = torch.zeros(1, dtype=torch.int64)
            return self.take(images, first, first)[:0]
        found = images.read(indices) if isinstance(images, Streamed) else list(images[indices])
        if self.transform is not None:
            found = _transformed(found, seeds.tolist(), self.transform)
        if len(shapes := {tuple(image.shape) for image in found}) > 1:
            raise UsageError(
                f"images of one batch have the shapes {' and '.join(map(str, sorted(shapes)[:2]))}: the last transform "
                "must give all of them one size, as CenterCrop does"
            )
        return _in_range(torch.stack(found))

    def ahead(self, images: Images, steps: Iterable[Step], batch: Callable[[Step], Batch]) -> Iterator[Batch]:
        """The batch of each step, in order.

        Args:
            images: what is read; a tensor without a transform is cut in the loop itself.
            steps: what each batch consists of.
            batch: makes a batch of a step, in any process.

        Raises:
            UsageError: as ``batch`` does.
        """
        at_once = isinstance(images, Tensor) and self.transform is None
        if self.workers == 0 or at_once or current_process().daemon:  # which may not have processes of its own
            yield from map(batch, steps)
            return
        loader = DataLoader(
            cast(Any, _InWorker(batch)),
            batch_size=None,
            sampler=steps,
            num_workers=self.workers,
            prefetch_factor=_AHEAD,
            pin_memory=self.pin,
            generator=torch.Generator(),  # the global one is the run's
        )
        for made in loader:
            if isinstance(made, _Refused):
                raise UsageError(made.reason)
            yield made


@dataclass(frozen=True)
class _InWorker:
    """Hands an error of the user over as it is: PyTorch would put a traceback into its text."""

    batch: Callable[[Any], Any]

    def __getitem__(self, step: Any) -> Any:
        try:
            return self.batch(step)
        except UsageError as error:
            return _Refused(str(error))


@dataclass(frozen=True)
class _Refused:
    reason: str


def is_image(value: object) -> TypeGuard[Tensor]:
    """Whether it is one image, uint8 or float (C, H, W)."""
    return isinstance(value, Tensor) and value.ndim == 3 and (value.dtype == torch.uint8 or value.is_floating_point())


def told(value: Any) -> str:
    """What a value is that should be an image or labels: type and shape, or its class."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def plain(value: Any) -> Any:
    """A number, or numbers, of numpy or torch in Python's own types."""
    return value.tolist() if hasattr(value, "tolist") else value


def _transformed(images: list[Tensor], seeds: list[int], transform: Transform) -> list[Tensor]:
    """Each image after the transform, which draws from torch's generator of the CPU."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            found.append(transform(image))
    return found


def _in_range(batch: Tensor) -> Tensor:
    """The batch.

    Raises:
        UsageError: if its values are floats that cannot be those of pixels.
    """
    if batch.is_floating_point() and batch.numel():
        low, high = (float(value) for value in batch.aminmax())
        if not (low >= max(_LOWEST, -max(_SHALLOW, high / 2)) and high <= _HIGHEST):  # so that NaN is refused, too
            raise UsageError(
                f"images have values from {low:.3g} to {high:.3g}, but must lie in [0, 1]: leave out Normalize; mean "
                "and deviation belong to the network"
            )
    return batch
