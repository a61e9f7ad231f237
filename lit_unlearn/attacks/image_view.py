"""The splits as an attacker prepares them: fewer images of each, and changed ones."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lit_unlearn.attacks.target import SplitData


class ImageView:
    """Splits whose images are changed on their way to a network; splits and labels stay as they are.

    Args:
        data: the splits.
        change: from images (B, C, H, W) in [0, 1] to such images; None leaves them as they are.
        most: how many samples of each split at most, evenly spread over it; None takes all.
    """

    def __init__(
        self, data: SplitData, change: Callable[[Tensor], Tensor] | None = None, most: int | None = None
    ) -> None:
        self.data, self.change, self.most = data, change, most

    @property
    def class_names(self) -> Sequence[str]:
        """Those of the data."""
        return self.data.class_names

    @property
    def split_names(self) -> Sequence[str]:
        """Those of the data."""
        return self.data.split_names

    def evaluation_batches(
        self, split: str, device: torch.device, part: str = "all", most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields this rank's batches of a split, as a data module does.

        Args:
            split: its name.
            device: where the batches are to be.
            part: of the split.
            most: fewer samples than those of the view.
        """
        limits = [limit for limit in (self.most, most) if limit is not None]
        for images, labels in self.data.evaluation_batches(split, device, part, min(limits, default=None)):
            yield images if self.change is None else self.change(images), labels
