"""Your own images, one folder per class."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_unlearn.data.sources import Dataset, Source
from lit_unlearn.errors import UsageError, check_at_least, check_fraction

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_SIZES_READ = 20
_FAR_LARGER = 4
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}


class ImageFolder(Source):
    """Images under ``<root>/train/<class>/``, and ``<root>/test/<class>/`` or ``<root>/val/<class>/``.

    Every image is decoded once. An index file may name training images by their path below ``train``, as in
    ``cat/001.png``.

    Args:
        root: folder that holds ``train``.
        image_size: height and width in pixels: the shorter side is resized to it and the centre cut out. None takes
            the images as they are, which must all have one size.
        channels: 3 for colour, 1 for grey.
        test_fraction: share of every class of ``train`` to hold out as the test set, where there is none.
        test_seed: decides which images are held out.
        cache: file to keep the decoded images in; it is mapped into memory, shared by the processes of a run, and
            made again when an image or a setting has changed. None decodes into memory, in every process again.

    Raises:
        UsageError: for a size, channel count or share out of range.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | None = None,
        channels: int = 3,
        test_fraction: float | None = None,
        test_seed: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        if image_size is not None:
            check_at_least("image_size", image_size, 1)
        if channels not in (1, 3):
            raise UsageError(f"channels is {channels}, allowed: 1 (grey) or 3 (colour)")
        if test_fraction is not None:
            check_fraction("test_fraction", test_fraction)
        self.root = root
        self.image_size = image_size
        self.channels = channels
        self.test_fraction = test_fraction
        self.test_seed = test_seed
        self.cache = cache

    def load(self) -> Dataset:
        """List, decode (or map the cache) and label all images."""
        folder = Path(self.root) / "train"
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}; images belong into {folder}/<class>/")
        class_names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not class_names:
            raise UsageError(f"{folder} has no class folders; images belong into {folder}/<class>/")
        train = [_list_images(folder / name) for name in class_names]
        test = self._list_test(class_names)
        if test is None:
            train, test = self._hold_out(train)
        paths = [path for part in (train, test) for of_class in part for path in of_class]
        count = sum(map(len, train))
        images = self._images(paths)
        names = [path.relative_to(folder).as_posix() for path in paths[:count]]
        warnings = list(self._warnings(paths))
        return Dataset(images[:count], _labels(train), images[count:], _labels(test), class_names, names, warnings)

    def _warnings(self, paths: Sequence[Path]) -> Iterator[str]:
        """Says that the images are far larger than what is kept of them, by a few of the files."""
        if self.image_size is None:
            return
        some = paths[:: max(1, len(paths) // _SIZES_READ)]
        median = sorted(min(_size(path)) for path in some)[len(some) // 2]
        if median >= _FAR_LARGER * self.image_size:
            yield (
                f"image_size is {self.image_size}, but the files have {median} pixels on the shorter side (median): "
                "the network must have been trained at that image_size"
            )

    def _list_test(self, class_names: Sequence[str]) -> list[list[Path]] | None:
        folders = [Path(self.root) / name for name in ("test", "val")]
        folder = next((path for path in folders if path.is_dir()), None)
        if (folder is None) == (self.test_fraction is None):
            problem = f"there is no {folders[0]} or {folders[1]}" if folder is None else f"there is {folder} already"
            raise UsageError(f"test_fraction is {self.test_fraction} and {problem}: give the one or the other")
        if folder is None:
            return None
        strange = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        strange -= set(class_names)
        if strange:
            raise UsageError(f"{folder} has classes that train has not: {', '.join(sorted(strange)[:5])}")
        return [_list_images(folder / name) if (folder / name).is_dir() else [] for name in class_names]

    def _hold_out(self, train: list[list[Path]]) -> tuple[list[list[Path]], list[list[Path]]]:
        generator = torch.Generator().manual_seed(self.test_seed)
        kept: list[list[Path]] = []
        held: list[list[Path]] = []
        for paths in train:
            order = torch.randperm(len(paths), generator=generator).tolist()
            out = set(order[: round((self.test_fraction or 0.0) * len(paths))])
            kept.append([path for index, path in enumerate(paths) if index not in out])
            held.append([path for index, path in enumerate(paths) if index in out])
        return kept, held

    def _images(self, paths: Sequence[Path]) -> Tensor:
        width, height = _size(paths[0]) if self.image_size is None else (self.image_size, self.image_size)
        shape = (len(paths), self.channels, height, width)
        decode = _decode if self.image_size is None else _decode_and_cut
        if self.cache is None:
            images = torch.empty(shape, dtype=torch.uint8)
            _decode_all(paths, images, decode)
            return images
        return _cached(paths, Path(self.cache), shape, decode)


def _list_images(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    visible = [path for path in paths if not path.name.startswith(".")]
    if not visible:
        raise UsageError(f"{folder} has no images (looked for {', '.join(sorted(SUFFIXES))})")
    return visible


def _labels(part: Sequence[Sequence[Path]]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(part)), torch.tensor([len(paths) for paths in part]))


def _decode_all(paths: Sequence[Path], into: Tensor, decode: Callable[[Path, Tensor], None]) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode, paths, into):
            pass


def _decode(path: Path, into: Tensor) -> None:
    image, (_, height, width) = _open(path, len(into)), into.shape
    if image.size != (width, height):
        sizes = f"{image.width}x{image.height} pixels, but others have {width}x{height}"
        raise UsageError(f"image_size is None, so that all images must have one size: {path} has {sizes}")
    _copy(image, into)


def _decode_and_cut(path: Path, into: Tensor) -> None:
    from PIL.Image import Resampling

    image, size = _open(path, len(into)), into.shape[1]
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    _copy(image.resize((width, height), Resampling.BILINEAR).crop((left, top, left + size, top + size)), into)


def _copy(image: "Image.Image", into: Tensor) -> None:
    import numpy as np

    channels, height, width = into.shape
    into.copy_(torch.from_numpy(np.array(image)).view(height, width, channels).permute(2, 0, 1))


def _size(path: Path) -> tuple[int, int]:
    """Width and height, from the head of the file alone."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.size
    except Exception as error:
        raise UsageError(f"cannot decode the image {path}: {error}") from error


def _open(path: Path, channels: int) -> "Image.Image":
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.mode not in EIGHT_BIT_MODES:
                raise ValueError(f"mode {opened.mode} has more than 8 bits a channel")
            return opened.convert("L" if channels == 1 else "RGB")
    # Pillow's decoders raise many kinds of error for a broken file.
    except Exception as error:
        raise UsageError(f"cannot decode the image {path}: {error}") from error


def _cached(
    paths: Sequence[Path], cache: Path, shape: tuple[int, ...], decode: Callable[[Path, Tensor], None]
) -> Tensor:
    size = torch.Size(shape).numel()
    digest = _fingerprint(paths, f"{decode.__name__} {shape}")
    try:
        if not _is_valid(cache, size, digest):
            temporary = cache.with_name(f"{cache.name}.{os.getpid()}.part")
            try:
                _decode_all(paths, torch.from_file(str(temporary), True, size, dtype=torch.uint8).view(shape), decode)
                with temporary.open("ab") as file:
                    file.write(digest)
                temporary.replace(cache)
            finally:
                temporary.unlink(missing_ok=True)
        # Not shared: a write to the tensor stays in this process and never reaches the file.
        return torch.from_file(str(cache), False, size, dtype=torch.uint8).view(shape)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot use the image cache {cache}: {error}") from error


def _is_valid(cache: Path, size: int, digest: bytes) -> bool:
    if not cache.is_file():
        return False
    with cache.open("rb") as file:
        file.seek(size)
        return file.read(len(digest) + 1) == digest


def _fingerprint(paths: Sequence[Path], settings: str) -> bytes:
    digest = hashlib.sha256(settings.encode())
    for path in paths:
        state = path.stat()
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.digest()
