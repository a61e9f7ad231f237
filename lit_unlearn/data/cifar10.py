"""CIFAR-10: 60,000 colour images, 32x32 pixels, 10 classes."""

from pathlib import Path

from lit_unlearn.data.source import Dataset, Source
from lit_unlearn.data.torchvision_files import load_cifar


class CIFAR10(Source):
    """CIFAR-10 through torchvision, which checks the files' sums.

    Args:
        root: folder that holds ``cifar-10-batches-py``.
        download: fetch it if it is not there.
    """

    def __init__(self, root: str | Path = "data", download: bool = False) -> None:
        self.root = root
        self.download = download

    def load(self) -> Dataset:
        """Read both sets."""
        from torchvision import datasets

        return load_cifar(datasets.CIFAR10, "CIFAR-10", self.root, self.download)
