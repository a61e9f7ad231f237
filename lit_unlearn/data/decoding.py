"""Image files as uint8 tensors: decoded at once, into a file that is mapped, or one by one when they are wanted."""

import errno
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lit_unlearn.data.listing import fingerprint
from lit_unlearn.errors import UsageError
from lit_unlearn.files import replaced

if TYPE_CHECKING:
    from PIL import Image

Result = TypeVar("Result")

EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
_DEEP = re.compile(";16[BLN]")
"""In Pillow's name of a layout: 16 bits a channel. BGR;16 has them for all three together."""
_TIFF_BITS = 258
_PNG, _PNG_BITS = b"\x89PNG", 24
"""How a PNG file begins, and which of its bytes is the number of bits a channel."""
_NAMED = 5
_AT_ONCE = 64

Decode = Callable[[str, Tensor], None]
"""Decodes a file into uint8 (C, H, W)."""


class BrokenImageError(UsageError):
    """A file that cannot be decoded.

    Args:
        path: of the file.
        reason: why not.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot decode the image {path}: {reason}")
        self.path = path
        self.reason = reason


class Files:
    """Image files to be decoded on demand.

    Args:
        paths: of the files.
        channels: 3 for colour, 1 for grey.
        decode: decodes a file into a tensor of ``shape``.
        shape: (C, H, W) of every image; None decodes each in its own size.
    """

    def __init__(self, paths: Sequence[str], channels: int, decode: Decode, shape: tuple[int, int, int] | None) -> None:
        self.paths = paths
        self.channels = channels
        self.decode = decode
        self.shape = shape

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """An image, uint8 (C, H, W).

        Raises:
            BrokenImageError: if it cannot be decoded.
        """
        path = self.paths[index]
        if self.shape is None:
            return pixels(open_image(path, self.channels), self.channels)
        image = torch.empty(self.shape, dtype=torch.uint8)
        self.decode(path, image)
        return image


def decode(path: str, into: Tensor) -> None:
    """Decodes an image that must have the size of the tensor."""
    image = open_image(path, len(into))
    _check_size(path, image.size, into.shape[1:])
    into.copy_(pixels(image, len(into)))


def _check_size(path: str, size: tuple[int, int], wanted: Sequence[int]) -> None:
    """Compares the width and height of an image with a height and a width."""
    height, width = wanted
    if size != (width, height):
        sizes = f"{size[0]}x{size[1]} pixels, but others have {width}x{height}"
        raise UsageError(f"image_size is None, so that all images must have one size: {path} has {sizes}")


def check_sizes(paths: Sequence[str], shape: tuple[int, int, int]) -> None:
    """Makes sure, by the heads of the files alone, that all images have the height and width of (C, H, W).

    Raises:
        UsageError: naming one that has not, or cannot be read.
    """
    _in_threads(lambda path: _check_size(path, size_of(path), shape[1:]), paths)


def decode_and_cut(path: str, into: Tensor) -> None:
    """Decodes an image, resizes its shorter side to that of the square tensor, and cuts the centre out."""
    into.copy_(pixels(cut(open_image(path, len(into)), into.shape[1]), len(into)))


def cut(image: "Image.Image", size: int) -> "Image.Image":
    """A picture whose shorter side is resized, and whose centre, size × size, is cut out."""
    from PIL.Image import Resampling

    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    box = (left, top, left + size, top + size)
    return image.resize((width, height), Resampling.BILINEAR).crop(box)


def decode_all(paths: Sequence[str], into: Tensor, decode: Decode) -> None:
    """Decodes all files into (N, C, H, W).

    Raises:
        UsageError: naming files that cannot be decoded, all of them together.
    """
    broken = []

    def attempt(path: str, place: Tensor) -> None:
        try:
            decode(path, place)
        except BrokenImageError as error:
            broken.append(error)

    _in_threads(attempt, paths, into)
    if broken:
        raise refusal(broken, len(paths))


def broken_among(paths: Sequence[str], channels: int) -> list[BrokenImageError]:
    """The files that cannot be decoded, in their order; all are decoded for it."""

    def attempt(path: str) -> BrokenImageError | None:
        try:
            open_image(path, channels)
        except BrokenImageError as error:
            return error
        return None

    return [error for error in _in_threads(attempt, paths) if error is not None]


def refusal(broken: Sequence[BrokenImageError], count: int) -> UsageError:
    """One line on files that cannot be decoded, of so many."""
    how = "leave_out_broken: true leaves such files out"
    if len(broken) == 1:
        return UsageError(f"{broken[0]}; {how}")
    return UsageError(f"{len(broken):,} of {count:,} images cannot be decoded: {named(broken)}; {how}")


def named(broken: Sequence[BrokenImageError]) -> str:
    """The first of them with their reasons."""
    first = sorted(broken, key=lambda error: error.path)[:_NAMED]
    more = f", and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    return ", ".join(f"{error.path} ({error.reason})" for error in first) + more


def cached(paths: Sequence[str], cache: Path, shape: tuple[int, ...], decode: Decode) -> Tensor:
    """All images, mapped from a file, which is made where it is missing or of other images.

    Args:
        paths: of the images.
        cache: the file.
        shape: (N, C, H, W).
        decode: decodes one image.

    Raises:
        UsageError: if the file cannot be written or read, or an image cannot be decoded.
    """
    size = torch.Size(shape).numel()
    digest = bytes.fromhex(fingerprint(paths, f"{decode.__name__} {shape}"))
    try:
        if not _is_valid(cache, size, digest):
            with replaced(cache) as file:
                _allocate(file, size + len(digest))
                decode_all(paths, torch.from_file(str(file.name), True, size, dtype=torch.uint8).view(shape), decode)
                file.seek(size)
                file.write(digest)
        # Not shared: a write to the tensor stays in this process and never reaches the file.
        return torch.from_file(str(cache), False, size, dtype=torch.uint8).view(shape)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"cannot use the image cache {cache}: {error}") from error


def size_of(path: str) -> tuple[int, int]:
    """Width and height, from the head of the file alone."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.size
    except Exception as error:
        raise BrokenImageError(path, str(error)) from error


def open_image(file: str | BytesIO, channels: int, name: str | None = None) -> "Image.Image":
    """The decoded image, in colour or grey.

    Args:
        file: its path, or its content.
        channels: 3 for colour, 1 for grey.
        name: in place of a path, for the error.

    Raises:
        BrokenImageError: if it cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return converted(opened, channels)
    # Pillow's decoders raise many kinds of error for a broken file.
    except Exception as error:
        raise BrokenImageError(name or str(file), str(error)) from error


def converted(image: "Image.Image", channels: int) -> "Image.Image":
    """A picture in colour or grey.

    Raises:
        ValueError: if it has more than 8 bits a channel, which Pillow would cut off.
    """
    if (mode := _deep_mode(image)) is not None:
        raise ValueError(f"mode {mode} has more than 8 bits a channel")
    # Pillow warns of a palette with transparency, though it gives the same colours by this detour.
    whole = image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
    return whole.convert("L" if channels == 1 else "RGB")


def _deep_mode(image: "Image.Image") -> str | None:
    """The mode of a picture of more than 8 bits a channel; None where it has 8, or is no longer known to have more.

    Pillow has no mode for colours of 16 bits: it names their layout until it decodes them, and keeps the high bytes.
    """
    if image.mode not in EIGHT_BIT_MODES:
        return image.mode
    tiles = getattr(image, "tile", ())
    for codec, _, _, given in tiles:
        layout, *more = given if isinstance(given, tuple) and given else (given,)
        if _DEEP.search(str(layout)):
            return str(layout)
        if codec in ("ppm", "ppm_plain") and more and more[0] > 255:
            return f"{layout} up to {more[0]}"
    return None if tiles or _file_bits(image) <= 8 else f"{image.mode};16"


def _file_bits(image: "Image.Image") -> int:
    """Bits a channel in the file of a picture that is decoded already; 8 where they cannot be known."""
    if image.format == "TIFF":
        return int(max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))))
    if image.format != "PNG":
        return 8
    try:
        head = _head(image)
    except (AttributeError, OSError, ValueError):  # the file is gone
        return 8
    return head[_PNG_BITS] if head.startswith(_PNG) and len(head) > _PNG_BITS else 8


def _head(image: "Image.Image") -> bytes:
    """The first bytes of a PNG file, which may be open still, as one in memory is."""
    kept: Any = getattr(image, "_fp", None)
    if kept is None or kept.closed:
        with open(image.filename, "rb") as file:  # type: ignore[attr-defined]
            return bytes(file.read(_PNG_BITS + 1))
    place = kept.tell()
    try:
        kept.seek(0)
        return bytes(kept.read(_PNG_BITS + 1))
    finally:
        kept.seek(place)


def pixels(image: "Image.Image", channels: int) -> Tensor:
    """A picture as uint8 (C, H, W)."""
    import numpy as np

    return torch.from_numpy(np.array(image)).view(image.height, image.width, channels).permute(2, 0, 1)


def _in_threads(attempt: Callable[..., Result], *given: Sequence[object] | Tensor) -> list[Result]:
    """What an attempt returns for the values at each place; a thread takes many places at once, to queue few tasks."""
    count = len(given[0])

    def several(start: int) -> list[Result]:
        places = range(start, min(start + _AT_ONCE, count))
        return [attempt(*(values[place] for values in given)) for place in places]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [result for found in pool.map(several, range(0, count, _AT_ONCE)) for result in found]


def _allocate(file: IO[bytes], size: int) -> None:
    """Takes the room on the disk now: a write to a mapped file for which there is none ends the process.

    Raises:
        OSError: if there is not so much room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot reserve room
                raise


def _is_valid(cache: Path, size: int, digest: bytes) -> bool:
    if not cache.is_file():
        return False
    with cache.open("rb") as file:
        file.seek(size)
        return file.read(len(digest) + 1) == digest
