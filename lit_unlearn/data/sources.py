"""What a data source hands over: the images of a training and a test set, in memory or to be read on demand."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_unlearn.data.reading import Images, Streamed
from lit_unlearn.errors import UsageError
from lit_unlearn.options import TypedOptions

OPTIONS = "options"
"""The argument of a source with what a store asks for, keys among it. No record of a run keeps it."""

_HASHED_AT_ONCE = 1000
_SAMPLED = 256


@dataclass(eq=False)
class Dataset:
    """Images and labels of a training and a test set.

    Args:
        train_images: uint8 (N, C, H, W), or N images that are streamed.
        train_labels: int64 (N,), from 0 to ``len(class_names) - 1``.
        test_images: M images, likewise.
        test_labels: int64 (M,).
        class_names: one name per class index, all different.
        train_names: one name per training image, so that a list of images can name them.
        warnings: what the user should know of these images, one sentence each.
        train_folder: that the names are paths in, if they are.
        fixed: whether an image is the same each time it is read.
        sampled: whether the hash is of 256 images of each set, also where all are in memory: for a source that streams
            images which do not fit, so that the hash does not depend on the free memory.

    Raises:
        UsageError: if any of this does not hold.
    """

    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    class_names: list[str]
    train_names: list[str] | None = None
    warnings: list[str] = field(default_factory=list)
    train_folder: str | None = None
    fixed: bool = True
    sampled: bool = False

    def __post_init__(self) -> None:
        """Check shapes, types and ranges."""
        _check_part("training", self.train_images, self.train_labels, len(self.class_names))
        _check_part("test", self.test_images, self.test_labels, len(self.class_names))
        train, test = (shape_of(images) for images in (self.train_images, self.test_images))
        if train != test:
            raise UsageError(f"data: training and test images differ in shape: {train} and {test}")
        if len(set(self.class_names)) != len(self.class_names):
            raise UsageError(f"data: class names repeat: {self.class_names}")
        if self.train_names is not None and len(self.train_names) != len(self.train_images):
            raise UsageError(f"data: {len(self.train_names)} names for {len(self.train_images)} training images")

    def sha256(self) -> tuple[str, str]:
        """Names images and labels: the sha256 over both sets, and that over the training set, as hexadecimal digits.

        Of images that are streamed, or ``sampled``, 256 of each set count, evenly spread.
        """
        return self._hashed(self.sampled)

    def full_sha256(self) -> str | None:
        """The sha256 over every image and label, where images that are named by 256 are all in memory."""
        in_memory = isinstance(self.train_images, Tensor) and isinstance(self.test_images, Tensor)
        return self._hashed(False)[0] if self.sampled and in_memory else None

    def _hashed(self, sampled: bool) -> tuple[str, str]:
        digest, found = hashlib.sha256(), []
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            _hash(digest, images, sampled)
            digest.update(labels.numpy().astype("<i8").tobytes())
            found.append(digest.hexdigest())
        return found[1], found[0]


def shape_of(images: Images) -> tuple[int, ...] | None:
    """(C, H, W) of each image; None where they differ."""
    return tuple(images.shape[1:]) if isinstance(images, Tensor) else images.shape


def _hash(digest: "hashlib._Hash", images: Images, sampled: bool) -> None:
    if sampled or isinstance(images, Streamed):
        count = len(images)
        for place in range(0, count, max(1, count // _SAMPLED)):
            image = images.read(torch.tensor([place]))[0] if isinstance(images, Streamed) else images[place]
            digest.update(f"{place}{tuple(image.shape)}".encode())
            digest.update(image.contiguous().numpy().data)
        return
    digest.update(str(tuple(images.shape)).encode())
    for start in range(0, len(images), _HASHED_AT_ONCE):
        digest.update(images[start : start + _HASHED_AT_ONCE].contiguous().numpy().data)


def _check_part(part: str, images: Images, labels: Tensor, num_classes: int) -> None:
    if isinstance(images, Tensor) and (images.dtype != torch.uint8 or images.ndim != 4):
        raise UsageError(f"data: {part} images are {images.dtype} {tuple(images.shape)}, allowed: uint8 (N, C, H, W)")
    if labels.dtype != torch.int64 or labels.shape != (len(images),):
        raise UsageError(
            f"data: {part} labels are {labels.dtype} {tuple(labels.shape)}, allowed: int64 ({len(images)},)"
        )
    if len(images) == 0:
        raise UsageError(f"data: there is no {part} image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UsageError(f"data: {part} labels go from {low} to {high}, allowed: 0 to {num_classes - 1}")


class Source(TypedOptions, ABC):
    """Where images come from. A subclass keeps its arguments as attributes of the same name and loads on demand.

    An argument named ``options`` may hold keys: of all that a run writes, ``config.yaml`` alone has it.
    """

    @abstractmethod
    def load(self) -> Dataset:
        """Read everything.

        Raises:
            UsageError: if files are missing or broken; the line says which and what to do.
        """

    def load_raw(self) -> Dataset:
        """The same for transforms: images may have sizes of their own. Raises as :meth:`load`."""
        return self.load()

    def describe(self) -> dict[str, object]:
        """Name and arguments as plain values, for a result row; without ``options``."""
        kept = {name: value for name, value in vars(self).items() if name != OPTIONS}
        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}
        return {"source": type(self).__name__, **arguments}


def without_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without the options of its source, for what others see and what outlives the run."""
    changed = dict(settings)
    place = changed
    for name in ("data", "init_args", "source", "init_args"):
        if not isinstance(place.get(name), Mapping):
            return changed
        place[name] = place = dict(place[name])
    place.pop(OPTIONS, None)
    return changed


def limited(data: Dataset, limit: int | None, seed: int) -> Dataset:
    """The data with only that many training images, drawn at random; None keeps all."""
    if limit is None:
        return data
    count = len(data.train_labels)
    if not 1 < limit <= count:
        raise UsageError(f"train_limit is {limit}, it must lie between 2 and the {count} training images")
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    names = None if data.train_names is None else [data.train_names[index] for index in kept.tolist()]
    return replace(data, train_images=data.train_images[kept], train_labels=data.train_labels[kept], train_names=names)


def held_out_of_training(data: Dataset, share: float | None, seed: int) -> Dataset:
    """The data with a share of its training images, drawn at random, in place of its test set; None changes nothing."""
    if share is None:
        return data
    count = len(data.train_labels)
    held = round(share * count)
    if not 0 < held < count:
        raise UsageError(f"test_from_train {share} of {count} training images leaves nothing to train or to test on")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    test, train = order[:held].sort().values, order[held:].sort().values
    return replace(
        data,
        train_images=data.train_images[train],
        train_labels=data.train_labels[train],
        test_images=data.train_images[test],
        test_labels=data.train_labels[test],
        train_names=None if data.train_names is None else [data.train_names[index] for index in train.tolist()],
    )
