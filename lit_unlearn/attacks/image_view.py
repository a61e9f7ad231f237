"""The splits as an attacker prepares them: fewer images of each, and changed ones."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lit_unlearn.attacks.splits import SplitData, spread
from lit_unlearn.errors import UsageError


class ImageView:
    """Splits whose images are changed on their way to a network; splits and labels stay as they are.

    Args:
        data: the splits.
        change: from images (B, C, H, W) in [0, 1] to such images; None leaves them as they are.
        most: how many samples of a split at most, evenly spread over it; None takes all.
        together: splits that have ``most`` samples together, each the same share of its own: readouts that are fitted
            on them then meet the classes in their shares. Else a readout names the classes of a small split too often.
    """

    def __init__(
        self,
        data: SplitData,
        change: Callable[[Tensor], Tensor] | None = None,
        most: int | None = None,
        together: Sequence[str] = (),
    ) -> None:
        self.data, self.change, self.most, self.together = data, change, most, together

    @property
    def class_names(self) -> Sequence[str]:
        """Those of the data."""
        return self.data.class_names

    @property
    def split_names(self) -> Sequence[str]:
        """Those of the data."""
        return self.data.split_names

    def labels(self, split: str) -> Tensor:
        """The labels (N,) of the samples that the view has of a split, in order."""
        labels = self.data.labels(split)
        limit = self._limit(split)
        return labels if limit is None else spread(labels, limit)

    def _limit(self, split: str) -> int | None:
        """How many samples of a split at most.

        Of ``test_retain`` all, where ``test_matched`` lies in the half of it that nothing is fitted on: of fewer images
        each would have another place, and another half.
        """
        if split == "test_retain" and "test_matched" in self.split_names:
            return None
        if self.most is None or split not in self.together:
            return self.most
        sizes = {name: len(self.data.labels(name)) for name in self.together if name in self.split_names}
        return max(1, round(sizes[split] * min(1.0, self.most / sum(sizes.values()))))

    def evaluation_batches(
        self,
        split: str,
        device: torch.device,
        part: str = "all",
        most: int | None = None,
        wanted: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields this rank's batches of a split, as a data module does.

        Args:
            split: its name.
            device: where the batches are to be.
            part: of the split.
            most: fewer samples than those of the view.
            wanted: positions in the view's split, sorted; None takes all.

        Raises:
            UsageError: if positions are wanted of a view that has fewer samples than the split.
        """
        if wanted is not None and self.most is not None:
            raise UsageError("an ImageView of fewer samples knows no positions")
        limits = [limit for limit in (self._limit(split), most) if limit is not None]
        for images, labels in self.data.evaluation_batches(split, device, part, min(limits, default=None), wanted):
            yield images if self.change is None else self.change(images), labels
