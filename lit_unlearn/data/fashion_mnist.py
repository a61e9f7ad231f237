"""Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels, 10 classes (arXiv 1708.07747)."""

from pathlib import Path

from lit_unlearn.data.idx import load_idx
from lit_unlearn.data.source import Dataset, Source

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
ADVICE = "name its folder with root, install the Debian package dataset-fashion-mnist, or set download: true"


class FashionMNIST(Source):
    """Fashion-MNIST from files that are already there, or downloaded by torchvision.

    Looked for in ``<root>/FashionMNIST/raw`` (torchvision's layout), in ``root`` itself and in the folder of
    Debian's package ``dataset-fashion-mnist``.

    Args:
        root: folder of data sets.
        download: fetch the files into ``root`` if they are in none of these places.
    """

    def __init__(self, root: str | Path = "data", download: bool = False) -> None:
        self.root = root
        self.download = download

    def load(self) -> Dataset:
        """Read the four files."""
        root = Path(self.root)
        places = [root / "FashionMNIST" / "raw", root, DEBIAN_FOLDER]
        return load_idx("Fashion-MNIST", places, CLASS_NAMES, ADVICE, self._fetch if self.download else None)

    def _fetch(self) -> None:
        from torchvision import datasets

        datasets.FashionMNIST(self.root, download=True)
