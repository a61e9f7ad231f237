"""MNIST: 70,000 grey images of handwritten digits, 28x28 pixels, 10 classes."""

from pathlib import Path

from lit_unlearn.data.idx import load_idx
from lit_unlearn.data.source import Dataset, Source


class MNIST(Source):
    """MNIST from files that are already there, or downloaded by torchvision.

    Looked for in ``<root>/MNIST/raw`` (torchvision's layout) and in ``root`` itself.

    Args:
        root: folder of data sets.
        download: fetch the files into ``root`` if they are in neither place.
    """

    def __init__(self, root: str | Path = "data", download: bool = False) -> None:
        self.root = root
        self.download = download

    def load(self) -> Dataset:
        """Read the four files."""
        root = Path(self.root)
        names = [str(digit) for digit in range(10)]
        advice = "name its folder with root, or set download: true"
        return load_idx("MNIST", [root / "MNIST" / "raw", root], names, advice, self._fetch if self.download else None)

    def _fetch(self) -> None:
        from torchvision import datasets

        datasets.MNIST(self.root, download=True)
