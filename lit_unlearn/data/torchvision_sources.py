"""The data sets that torchvision reads: CIFAR-10, CIFAR-100, SVHN, MNIST and Fashion-MNIST."""

import gzip
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lit_unlearn.data.sources import Dataset, Source
from lit_unlearn.errors import UsageError

DEFAULT_ROOT = "data"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
ADVICE = "name its folder with root, or set download: true"
DIGITS = tuple(map(str, range(10)))
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

Made = TypeVar("Made")


class TorchvisionSource(Source):
    """Base of the sources that torchvision reads from files in a folder.

    Args:
        root: folder of data sets.
        download: fetch the files into ``root`` if they are not there.
    """

    title: ClassVar[str]

    def __init__(self, root: str | Path = DEFAULT_ROOT, download: bool = False) -> None:
        self.root = root
        self.download = download

    def run(self, make: Callable[[], Made]) -> Made:
        """What ``make`` constructs with torchvision.

        Raises:
            UsageError: if files are missing or broken, or the download fails.
        """
        try:
            return make()
        # Unpickling and parsing a broken file raise errors of any kind, and a failed download is an OSError.
        except Exception as error:
            where = f"{self.title} cannot be read from {str(self.root)!r}"
            raise UsageError(f"{where} ({_reason(error)}); {ADVICE}") from error


class CIFAR10(TorchvisionSource):
    """CIFAR-10: 60,000 colour images, 32x32 pixels, 10 classes; torchvision checks the files' sums.

    Args:
        root: folder that holds ``cifar-10-batches-py``.
        download: fetch it if it is not there.
    """

    title = "CIFAR-10"

    def load(self) -> Dataset:
        """Read both sets."""
        from torchvision import datasets

        return _cifar(self, datasets.CIFAR10)


class CIFAR100(TorchvisionSource):
    """CIFAR-100: 60,000 colour images, 32x32 pixels, with their 100 fine classes; torchvision checks the files' sums.

    Args:
        root: folder that holds ``cifar-100-python``.
        download: fetch it if it is not there.
    """

    title = "CIFAR-100"

    def load(self) -> Dataset:
        """Read both sets."""
        from torchvision import datasets

        return _cifar(self, datasets.CIFAR100)


class SVHN(TorchvisionSource):
    """SVHN: 99,289 colour images of house numbers' digits, 32x32 pixels, without the extra set.

    Args:
        root: folder that holds ``train_32x32.mat`` and ``test_32x32.mat``, whose sums torchvision checks.
        download: fetch them if they are not there.
    """

    title = "SVHN"

    def load(self) -> Dataset:
        """Read both sets."""
        from torchvision import datasets

        make = partial(datasets.SVHN, self.root, download=self.download)
        train, test = (self.run(partial(make, split=part)) for part in ("train", "test"))
        images = [torch.from_numpy(part.data).contiguous() for part in (train, test)]
        labels = [torch.from_numpy(part.labels).long() for part in (train, test)]
        return Dataset(images[0], labels[0], images[1], labels[1], list(DIGITS))


class MNIST(TorchvisionSource):
    """MNIST: 70,000 grey images of handwritten digits, 28x28 pixels, 10 classes.

    Looked for in ``<root>/MNIST/raw`` (torchvision's layout) and in ``root`` itself.

    Args:
        root: folder of data sets.
        download: fetch the files into ``root`` if they are in neither place.
    """

    title = "MNIST"

    def load(self) -> Dataset:
        """Read the four files."""
        places = [Path(self.root) / "MNIST" / "raw", Path(self.root)]
        return _idx(self, "MNIST", places, DIGITS, ADVICE)


class FashionMNIST(TorchvisionSource):
    """Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels, 10 classes (arXiv 1708.07747).

    Looked for in ``<root>/FashionMNIST/raw`` (torchvision's layout) and in ``root`` itself; without a ``root`` also in
    the folder of Debian's package ``dataset-fashion-mnist``.

    Args:
        root: folder of data sets.
        download: fetch the files into ``root`` if they are in none of these places.
    """

    title = "Fashion-MNIST"

    def load(self) -> Dataset:
        """Read the four files."""
        places = [Path(self.root) / "FashionMNIST" / "raw", Path(self.root)]
        places += [DEBIAN_FOLDER] if str(self.root) == DEFAULT_ROOT else []  # a root that is given may be misspelt
        advice = "name its folder with root, install the Debian package dataset-fashion-mnist, or set download: true"
        return _idx(self, "FashionMNIST", places, CLOTHES, advice)


def _cifar(source: TorchvisionSource, kind: Callable[..., Any]) -> Dataset:
    make = partial(kind, source.root, download=source.download)
    train, test = (source.run(partial(make, train=part)) for part in (True, False))
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
    labels = [torch.tensor(part.targets) for part in (train, test)]
    return Dataset(images[0], labels[0], images[1], labels[1], list(train.classes))


def _idx(
    source: TorchvisionSource, kind: str, places: Sequence[Path], class_names: Sequence[str], advice: str
) -> Dataset:
    """The four files of a data set of the MNIST family, in the first of these folders that has them all."""
    folder = _find(places)
    if folder is None and source.download:
        from torchvision import datasets

        source.run(partial(getattr(datasets, kind), source.root, download=True))
        folder = _find(places)
    if folder is None:
        raise UsageError(f"{source.title} is in none of {', '.join(map(str, places))}; {advice}")
    train_images, train_labels, test_images, test_labels = (_read_idx(_path(folder, file)) for file in IDX_FILES)
    return Dataset(train_images[:, None], train_labels, test_images[:, None], test_labels, list(class_names))


def _find(places: Sequence[Path]) -> Path | None:
    return next((place for place in places if all(_path(place, file).is_file() for file in IDX_FILES)), None)


def _path(folder: Path, file: str) -> Path:
    plain = folder / file
    return plain if plain.is_file() else folder / f"{file}.gz"


def _read_idx(path: Path) -> Tensor:
    """Images (N, height, width), uint8, or labels (N,), int64, by torchvision's reader.

    torchvision's own data sets find these files only unpacked and in torchvision's layout, and its reader opens plain
    files alone. So a gzipped one is unpacked into a temporary file.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    read: Callable[[str], Tensor] = read_image_file if "idx3" in path.name else read_label_file
    try:
        with tempfile.NamedTemporaryFile() as unpacked:
            if path.suffix != ".gz":
                return read(str(path))
            unpacked.write(gzip.decompress(path.read_bytes()))
            unpacked.flush()
            return read(unpacked.name)
    # The reader checks type and size with assertions and views.
    except Exception as error:
        raise UsageError(f"cannot read {path}, it is not an intact idx file ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
