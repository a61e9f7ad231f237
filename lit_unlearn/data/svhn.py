"""SVHN: 99,289 colour images of house numbers' digits, 32x32 pixels, 10 classes."""

from pathlib import Path

import torch
from torch import Tensor

from lit_unlearn.data.source import Dataset, Source
from lit_unlearn.data.torchvision_files import run_torchvision


class SVHN(Source):
    """Street View House Numbers (cropped digits, without the extra set) through torchvision, which checks the sums.

    Args:
        root: folder that holds ``train_32x32.mat`` and ``test_32x32.mat``.
        download: fetch them if they are not there.
    """

    def __init__(self, root: str | Path = "data", download: bool = False) -> None:
        self.root = root
        self.download = download

    def load(self) -> Dataset:
        """Read both sets."""
        return Dataset(*self._part("train"), *self._part("test"), [str(digit) for digit in range(10)])

    def _part(self, part: str) -> tuple[Tensor, Tensor]:
        from torchvision import datasets

        read = run_torchvision("SVHN", self.root, lambda: datasets.SVHN(self.root, part, download=self.download))
        return torch.from_numpy(read.data).contiguous(), torch.from_numpy(read.labels).long()
