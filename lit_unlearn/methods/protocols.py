"""What methods read of the data. :class:`lit_unlearn.data.UnlearnDataModule` has it; so may a data module of yours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

Labelled = tuple[Tensor, Tensor]
"""Images (B, C, H, W) in [0, 1] and their labels (B,)."""


class Split(Protocol):
    """Which samples are to be forgotten."""

    @property
    def hash(self) -> str:
        """Names this split of this training set."""

    @property
    def forgotten_classes(self) -> tuple[int, ...]:
        """The classes of which no sample is retained, sorted."""

    def counts(self) -> dict[str, int]:
        """How many samples each split has, by its name."""

    @property
    def before(self) -> Sequence[Mapping[str, object]]:
        """Earlier requests, each as in :meth:`requests`."""

    def requests(self) -> list[dict[str, object]]:
        """All that a model of this split has forgotten, oldest first: each request's hash and specification."""

    @property
    def left_out(self) -> str:
        """Names all that must never be learnt: this forget set and those of earlier requests."""


class UnlearnData(Protocol):
    """A data module with a forget split."""

    @property
    def split(self) -> Split:
        """What is forgotten and what is retained."""

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that have samples, in the order of the evaluation loaders."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""

    @property
    def num_classes(self) -> int:
        """Number of classes, forgotten ones included."""

    @property
    def batch_size(self) -> int:
        """Samples per training step and device."""

    @property
    def forget_batch_size(self) -> int | None:
        """The same for batches of the forget set alone; None means ``batch_size``."""

    @property
    def holdout(self) -> Tensor:
        """Retained training indices that training leaves out for the method's ``holdout``, int64.

        Raises:
            UsageError: if a class of the forget set has too few retained samples.
        """

    def evaluation_batches(self, split: str, device: torch.device) -> Iterator[Labelled]:
        """This rank's share of a split, in [0, 1], on a device and without augmentation."""

    def shuffled_batches(
        self, split: str, device: torch.device, most: int, each: int | None = None
    ) -> Iterator[Labelled]:
        """At most so many random samples of a split, or of each class, in batches of training's size, on every rank."""
