"""The idx files of the MNIST family, plain or gzipped."""

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_unlearn.data.source import Dataset
from lit_unlearn.data.torchvision_files import run_torchvision
from lit_unlearn.errors import UsageError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def load_idx(
    name: str, places: Sequence[Path], class_names: Sequence[str], advice: str, download: Callable[[], object] | None
) -> Dataset:
    """Read the four files of a data set of the MNIST family.

    Args:
        name: name of the data, for complaints.
        places: folders to look into, in this order; a download puts the files into the first.
        class_names: one name per class index.
        advice: what to do when the files are nowhere.
        download: fetches the files if they are nowhere; None to stay offline.

    Raises:
        UsageError: if files are missing or broken, or the download fails.
    """
    folder = _find(places)
    if folder is None and download is not None:
        run_torchvision(name, places[0], download)
        folder = _find(places)
    if folder is None:
        raise UsageError(f"{name} is in none of {', '.join(map(str, places))}; {advice}")
    train_images, train_labels, test_images, test_labels = (_read(folder, file) for file in FILES)
    return Dataset(
        train_images.unsqueeze(1), train_labels.long(), test_images.unsqueeze(1), test_labels.long(), list(class_names)
    )


def _find(places: Sequence[Path]) -> Path | None:
    return next((place for place in places if all(_path(place, file).is_file() for file in FILES)), None)


def _path(folder: Path, file: str) -> Path:
    plain = folder / file
    return plain if plain.is_file() else folder / f"{file}.gz"


def _read(folder: Path, file: str) -> Tensor:
    path = _path(folder, file)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    dimensions = 3 if "idx3" in file else 1
    header = 4 * (1 + dimensions)
    # The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, each size as a big-endian integer.
    shape = [int.from_bytes(data[start : start + 4], "big") for start in range(4, header, 4)]
    if data[:4] != bytes([0, 0, 8, dimensions]) or not math.prod(shape) or len(data) != header + math.prod(shape):
        raise UsageError(f"{path} is not an intact idx file of unsigned bytes with {dimensions} dimension(s)")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).reshape(shape)
