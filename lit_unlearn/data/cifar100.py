"""CIFAR-100: 60,000 colour images, 32x32 pixels, 100 fine classes."""

from pathlib import Path

from lit_unlearn.data.source import Dataset, Source
from lit_unlearn.data.torchvision_files import load_cifar


class CIFAR100(Source):
    """CIFAR-100 with its fine labels through torchvision, which checks the files' sums.

    Args:
        root: folder that holds ``cifar-100-python``.
        download: fetch it if it is not there.
    """

    def __init__(self, root: str | Path = "data", download: bool = False) -> None:
        self.root = root
        self.download = download

    def load(self) -> Dataset:
        """Read both sets."""
        from torchvision import datasets

        return load_cifar(datasets.CIFAR100, "CIFAR-100", self.root, self.download)
