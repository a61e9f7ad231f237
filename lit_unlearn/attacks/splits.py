"""What attacks ask of the data: its splits, and which of them shows what is left of the forgotten."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

HALVES = {"calibration": 0, "evaluation": 1}
"""The halves of a split, and whether they are its samples of even or of odd index."""


def forgotten_split(splits: Sequence[str]) -> str:
    """Which split shows what is left of the forgotten: unseen images of forgotten classes, else the forget set."""
    return "test_forget" if "test_forget" in splits else "forget"


def unseen_split(splits: Container[str]) -> str:
    """Which split single images are compared with: unseen images of their classes, where all have other shares."""
    return "test_matched" if "test_matched" in splits else "test_retain"


def forgotten_classes(data: "SplitData") -> Tensor:
    """The classes of the unseen images that are of forgotten ones, in order (K,)."""
    classes: Tensor = torch.unique(data.labels("test_forget"))
    return classes


def spread(values: Tensor, most: int) -> Tensor:
    """At most so many of the values (N,), spread evenly over them."""
    count = min(most, len(values))
    return values[torch.arange(count) * len(values) // max(1, count)]


def unseen_accuracy(accuracies: Mapping[str, float]) -> float | None:
    """Of accuracies ``<split>_acc`` that on :func:`unseen_split`, where there are such images."""
    return accuracies.get(f"{unseen_split([name.removesuffix('_acc') for name in accuracies])}_acc")


def obtained(decisive: str, forgotten: float, unseen: float | None) -> float:
    """What an attack got of the forgotten, by which it chooses among several ways to attack.

    Of classes that is the accuracy on unseen images of them. Single images were learnt by heart or not, and whatever a
    model can do for unseen images as well is skill: of them it is the lead over unseen images, where there are some.

    Args:
        decisive: the split that shows what is left, as :func:`forgotten_split` names it.
        forgotten: the accuracy on it, a fraction.
        unseen: the accuracy of the same attack on :func:`unseen_split`; None where there are no such images.
    """
    return forgotten - unseen if decisive == "forget" and unseen is not None else forgotten


class SplitData(Protocol):
    """What a target needs of the data: the classes' names, and of each split that has samples labels and batches.

    Rank r of W has the samples r, r + W, r + 2W, … of a split. Where positions in it are ``wanted``, sorted, batches
    have those of them that this rank has, and there is at least one batch.
    """

    @property
    def class_names(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def split_names(self) -> Sequence[str]: ...  # noqa: D102

    def labels(self, split: str) -> Tensor: ...  # noqa: D102

    def evaluation_batches(  # noqa: D102
        self,
        split: str,
        device: torch.device,
        part: str = "all",
        most: int | None = None,
        wanted: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]: ...


class ImageData(SplitData, Protocol):
    """What is asked of the data beside that, to fit a network to it: what an ``UnlearnDataModule`` has."""

    @property
    def num_classes(self) -> int: ...  # noqa: D102

    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # noqa: D102
