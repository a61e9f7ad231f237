"""Data sets that others have made: torchvision's, Hugging Face's, your own. Images are read when a batch has them."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_unlearn.data.decoding import converted
from lit_unlearn.data.reading import Streamed, is_image, plain, told
from lit_unlearn.data.sources import Dataset, Source
from lit_unlearn.errors import UsageError

_LABELS = ("targets", "labels", "_labels")
"""Where data sets of torchvision keep the labels of all samples."""

_COMPARED = 32
"""Samples, and as many of different classes, whose labels are compared with those that a data set keeps together."""

_READ_TWICE = 8
"""Images of each set that are read twice. A random flip leaves all of them alike in one of 256 runs."""


class MapStyle(Source):
    """A training and a test set, each with ``len()`` and samples by index.

    A sample is ``(image, label, ...)`` or a mapping. An image is a picture of Pillow, an array of uint8 (H, W) or
    (H, W, C), or a tensor (C, H, W), uint8 or float in [0, 1]; images of several sizes need transforms of the data
    module. Data sets are sent to worker processes, so that an open file in them must survive it.

    Args:
        train: the training set, or in a config its class and arguments, such as
            ``{class_path: torchvision.datasets.Food101, init_args: {root: data}}``.
        test: the test set, likewise.
        channels: of pictures: 3 for colour, 1 for grey.
        image: the key of the image, where samples are mappings.
        label: the key of the label, likewise.
        class_names: one name for each class; None takes ``classes`` of the training set, or else the numbers. Where
            samples have other labels than ``targets``, as after a ``target_transform``, it takes the numbers.

    Raises:
        UsageError: for another channel count than 1 or 3, if a class cannot be made, or is no such data set; while
            loading, if labels are not whole numbers from 0 on, or an image is none of these.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        channels: int = 3,
        image: str = "image",
        label: str = "label",
        class_names: list[str] | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise UsageError(f"channels is {channels}, allowed: 1 (grey) or 3 (colour)")
        self.train = _made("train", train)
        self.test = _made("test", test)
        self.channels = channels
        self.image = image
        self.label = label
        self.class_names = class_names

    def load(self) -> Dataset:
        """Find all labels, and leave the images to be streamed; they have the size of the first one of their set."""
        images = self._images()
        return self._streamed(images, [_shape(each[0]) for each in images])

    def load_raw(self) -> Dataset:
        """The same, with images in sizes of their own."""
        return self._streamed(self._images(), [None, None])

    def _images(self) -> "list[ImagesOf]":
        for part in (self.train, self.test):
            if not len(part):
                raise UsageError(f"{type(part).__name__} has no samples")
        return [ImagesOf(part, self.image, self.channels) for part in (self.train, self.test)]

    def _streamed(self, found: "list[ImagesOf]", shapes: Sequence[tuple[int, int, int] | None]) -> Dataset:
        (train, differ), (test, _) = (labels_of(part, self.label) for part in (self.train, self.test))
        images = [Streamed(each, shape) for each, shape in zip(found, shapes, strict=True)]
        names, warnings = self.class_names or _class_names(self.train), _random_images(found)
        fixed = not warnings
        if differ and names and not self.class_names:  # those are the names of other labels
            names = []
            warnings.append(
                f"the samples of {type(self.train).__name__} have other labels than its targets: its classes are named "
                "by numbers; give class_names to name them"
            )
        names = names or [str(number) for number in range(int(max(train.max(), test.max())) + 1)]
        return Dataset(images[0], train, images[1], test, names, warnings=warnings, fixed=fixed)

    def describe(self) -> dict[str, object]:
        """The classes of both sets, for a result row."""
        sets = {f"{name}_set": type(part).__name__ for name, part in (("train", self.train), ("test", self.test))}
        return {"source": type(self).__name__, "channels": self.channels, **sets}


def _made(name: str, given: Any) -> Any:
    """A data set, or what a class and its arguments make: the command line knows no data sets, and reads none."""
    from jsonargparse import Namespace
    from lightning.pytorch.cli import instantiate_class

    if isinstance(given, Namespace):
        given = given.as_dict()
    made = given
    if isinstance(given, Mapping):
        try:
            made = instantiate_class((), {"init_args": {}, **given})
        except Exception as error:
            raise UsageError(f"{name} cannot be made of {dict(given)}: {error}") from error
    if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
        what = "None" if made is None else f"of the class {type(made).__name__}"
        raise UsageError(f"{name} is {what}, but must be a data set with len() and samples by index")
    return made


def _random_images(parts: "list[ImagesOf]") -> list[str]:
    """A warning for each set, of training and of test, whose images change from one reading to the next."""
    return [
        f"{name} images of {type(part.samples).__name__} are others each time they are read, also in evaluation and in "
        "attacks: leave random transforms out of the data set, and give them as data.transforms or data.augment"
        for name, part in zip(("training", "test"), parts, strict=True)
        if any(not torch.equal(part[place], part[place]) for place in _spread(len(part), _READ_TWICE))
    ]


def _class_names(samples: Any) -> list[str]:
    """Names in ``classes``; none where these are no names, such as None or a method."""
    found = plain(getattr(samples, "classes", None))
    return [str(name) for name in found] if isinstance(found, Iterable) and not isinstance(found, str) else []


class ImagesOf:
    """The images of a data set alone.

    Args:
        samples: the data set.
        image: the key of the image, where samples are mappings.
        channels: of pictures.
    """

    def __init__(self, samples: Any, image: str, channels: int) -> None:
        self.samples = samples
        self.image = image
        self.channels = channels

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        """An image (C, H, W), uint8 or float.

        Raises:
            UsageError: if the sample cannot be read, or holds no image.
        """
        given = _part(_sample(self.samples, index), self.image, 0, index)
        try:
            made = as_image(given, self.channels)
        except ValueError as error:
            raise UsageError(f"sample {index} of {type(self.samples).__name__}: {error}") from error
        if made is None:
            raise UsageError(
                f"sample {index} of {type(self.samples).__name__} holds {told(given)}, which is no image; allowed: a "
                "picture, a uint8 array (H, W) or (H, W, C), a tensor (C, H, W) of uint8 or of floats in [0, 1]"
            )
        return made


def _shape(image: Tensor) -> tuple[int, int, int]:
    return image.shape[0], image.shape[1], image.shape[2]


def as_image(given: Any, channels: int) -> Tensor | None:
    """A picture, an array or a tensor as (C, H, W), uint8 or float; None for anything else.

    Raises:
        ValueError: if a picture has more than 8 bits a channel.
    """
    import numpy as np
    from PIL import Image

    if isinstance(given, Image.Image):
        given = np.array(converted(given, channels))
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim in (2, 3):
        given = torch.from_numpy(given)
        given = given[None] if given.ndim == 2 else given.permute(2, 0, 1)
    return given if is_image(given) else None


def labels_of(samples: Any, label: str) -> tuple[Tensor, bool]:
    """The labels of a data set's samples, int64 (N,), and whether they are others than those that it keeps together.

    Those that it keeps together, after its ``target_transform``, are taken where a few samples have the same ones.
    Otherwise the samples are read one by one.

    Args:
        samples: the data set.
        label: the key of the label, where samples are mappings.

    Raises:
        UsageError: if they are not whole numbers from 0 on.
    """
    name = type(samples).__name__
    kept = next((found for each in _LABELS if _length(found := getattr(samples, each, None)) == len(samples)), None)
    if kept is not None:
        kept = [plain(each) for each in plain(kept)]
        if (changed := _target_transformed(samples, kept)) is not None:
            labels = _whole_numbers(changed, name)
            if _agree(samples, label, labels):
                return labels, labels.tolist() != kept
    why = f"has no {' or '.join(_LABELS)}" if kept is None else "gives its samples other labels than it keeps together"
    rank_zero_info(f"{name} {why}: its samples are all read for their labels")
    labels = _whole_numbers([_part(_sample(samples, index), label, 1, index) for index in range(len(samples))], name)
    return labels, kept is not None


def _target_transformed(samples: Any, kept: list[Any]) -> list[Any] | None:
    """Kept labels after torchvision's ``target_transform``; None where it does not take them as they are kept."""
    if (change := getattr(samples, "target_transform", None)) is None:
        return kept
    try:
        return [change(each) for each in kept]
    except Exception:  # of the user's own, and made for what the samples hold
        return None


def _agree(samples: Any, label: str, labels: Tensor) -> bool:
    """Whether a few samples, spread over the set and over its classes, have these labels, int64 (N,).

    A sample that has no label, or one that is no whole number, says nothing.
    """
    firsts = list({each: place for place, each in reversed(list(enumerate(labels.tolist())))}.values())
    for place in {*_spread(len(labels)), *(firsts[each] for each in _spread(len(firsts)))}:
        found = plain(_label_in(_sample(samples, place), label))
        if isinstance(found, Integral) and found != labels[place]:
            return False
    return True


def _label_in(sample: Any, label: str) -> Any:
    """The label of a sample; None where it has none."""
    try:
        return _part(sample, label, 1, 0)
    except UsageError:
        return None


def _spread(count: int, most: int = _COMPARED) -> list[int]:
    """Places below a count, evenly spread."""
    return [place * count // most for place in range(most)] if count > most else list(range(count))


def _whole_numbers(found: list[Any], name: str) -> Tensor:
    """Labels as a tensor, int64 (N,).

    Raises:
        UsageError: if they are not whole numbers from 0 on.
    """
    try:
        labels = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        wrong = next((place for place, each in enumerate(found) if not isinstance(plain(each), Integral)), None)
        why = error if wrong is None else f"that of sample {wrong} is {repr(plain(found[wrong]))[:80]}"
        raise UsageError(f"labels of {name} are not whole numbers: {why}") from error
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"labels of {name} are {told(labels)}, allowed: whole numbers from 0 on, one each")
    if (least := int(labels.min())) < 0:
        raise UsageError(f"a label of {name} is {least}, allowed: whole numbers from 0 on")
    return labels.to(torch.int64)


def _length(value: Any) -> int | None:
    """Its length; None where it has none."""
    return len(value) if hasattr(value, "__len__") else None


def _sample(samples: Any, index: int) -> Any:
    try:
        return samples[index]
    except Exception as error:  # a data set of the user's own may raise anything
        raise UsageError(f"sample {index} of {type(samples).__name__} cannot be read: {error}") from error


def _part(sample: Any, key: str, place: int, index: int) -> Any:
    try:
        return sample[key] if isinstance(sample, Mapping) else sample[place]
    except (KeyError, IndexError, TypeError) as error:
        has = ", ".join(map(str, sample)) if isinstance(sample, Mapping) else told(sample)
        raise UsageError(f"sample {index} has no {key!r}: it has {has}") from error
