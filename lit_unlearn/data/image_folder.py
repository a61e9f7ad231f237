"""Your own images, one folder per class."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_unlearn.data.decoding import (
    BrokenImageError,
    Decode,
    Files,
    broken_among,
    cached,
    check_sizes,
    decode,
    decode_all,
    decode_and_cut,
    named,
    refusal,
    size_of,
)
from lit_unlearn.data.listing import Listing
from lit_unlearn.data.memory import free_memory, local_processes
from lit_unlearn.data.reading import Images, Streamed
from lit_unlearn.data.sources import Dataset, Source
from lit_unlearn.errors import UsageError, check_at_least, check_fraction

_SIZES_READ = 20
_FAR_LARGER = 4

ImagesOf = Callable[[Sequence[str]], Images]


class ImageFolder(Source):
    """Images under ``<root>/train/<class>/``, and ``<root>/test/<class>/`` or ``<root>/val/<class>/``.

    Every image is decoded once. Where the decoded images need too much memory, or transforms are given, an image is
    decoded each time that a batch has it. A list of images to forget may name them by their path below ``train``, as in
    ``cat/001.png``, or by their whole path.

    Args:
        root: folder that holds ``train``.
        image_size: height and width in pixels: the shorter side is resized to it and the centre cut out. None takes
            the images as they are, which must all have one size.
        channels: 3 for colour, 1 for grey.
        test_fraction: share of every class of ``train`` to hold out as the test set, where there is none.
        test_seed: decides which images are held out.
        cache: file to keep the decoded images in; it is mapped into memory, shared by the processes of a run, and
            made again when an image or a setting has changed. None decodes into memory, in every process again.
        memory: share of the free memory that decoded images may take, in all processes of a run on a machine together;
            where they need more, they are streamed. 0 streams them always. A ``cache`` takes no memory.
        check: whether images that are streamed are all decoded once before the run, so that a broken file, or without
            ``image_size`` one of another size, stops it then and not when it is met.
        listing: file to keep the names of all images in, and which of them are broken, so that they need not be listed
            or checked again while nothing has changed. None does it each time.
        leave_out_broken: leave out files that cannot be decoded, and say how many and which, for which all are decoded
            once. Otherwise they stop the run.

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
        memory: float = 0.5,
        check: bool = False,
        leave_out_broken: bool = False,
        listing: str | Path | None = None,
    ) -> None:
        if image_size is not None:
            check_at_least("image_size", image_size, 1)
        if channels not in (1, 3):
            raise UsageError(f"channels is {channels}, allowed: 1 (grey) or 3 (colour)")
        if test_fraction is not None:
            check_fraction("test_fraction", test_fraction)
        check_fraction("memory", memory, zero=True, one=True)
        self.root = root
        self.image_size = image_size
        self.channels = channels
        self.test_fraction = test_fraction
        self.test_seed = test_seed
        self.cache = cache
        self.memory = memory
        self.check = check
        self.leave_out_broken = leave_out_broken
        self.listing = listing

    def load(self) -> Dataset:
        """List and label all images, and decode them, map the cache, or leave them to be streamed."""
        return self._listed(self._images)

    def load_raw(self) -> Dataset:
        """The same with all images to be streamed, in sizes of their own if ``image_size`` is None."""
        return self._listed(self._raw)

    def _listed(self, images_of: ImagesOf) -> Dataset:
        folder, listing = Path(self.root) / "train", Listing(self.listing)
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}; images belong into {folder}/<class>/")
        class_names = _class_folders(folder)
        if not class_names:
            raise UsageError(f"{folder} has no class folders; images belong into {folder}/<class>/")
        train = [listing.images(folder / name) for name in class_names]
        test, warnings = self._list_test(class_names, listing), list[str]()
        if self.leave_out_broken:
            train, test = self._without_broken(train, test, listing, warnings)
        listing.save()
        if test is None:
            train, test = self._hold_out(train)
        paths = [path for part in (train, test) for of_class in part for path in of_class]
        count = sum(map(len, train))
        images = images_of(paths)
        below = len(str(folder)) + 1
        names = [path[below:].replace(os.sep, "/") for path in paths[:count]]
        warnings += [*listing.warnings(), *self._warnings(paths)]
        parts = images[:count], _labels(train), images[count:], _labels(test)
        return Dataset(*parts, class_names, names, warnings, str(folder), sampled=True)

    def _without_broken(
        self, train: list[list[str]], test: list[list[str]] | None, listing: Listing, warnings: list[str]
    ) -> tuple[list[list[str]], list[list[str]] | None]:
        """Both parts without files that cannot be decoded, which a warning names."""
        paths = [path for part in (train, test or []) for of_class in part for path in of_class]
        broken = listing.broken(
            paths, lambda: [(error.path, error.reason) for error in broken_among(paths, self.channels)]
        )
        if not broken:
            return train, test
        told = named([BrokenImageError(*each) for each in broken])
        warnings.append(f"{len(broken):,} of {len(paths):,} images cannot be decoded and are left out: {told}")
        gone = {path for path, _ in broken}
        kept = [[[path for path in of_class if path not in gone] for of_class in part] for part in (train, test or [])]
        return kept[0], None if test is None else kept[1]

    def _warnings(self, paths: Sequence[str]) -> Iterator[str]:
        """Says that the images are far larger than what is kept of them, by a few of the files."""
        if self.image_size is None:
            return
        sides = []
        for path in paths[:: max(1, len(paths) // _SIZES_READ)]:
            with suppress(BrokenImageError):  # told when it is decoded
                sides.append(min(size_of(path)))
        median = sorted(sides)[len(sides) // 2] if sides else 0
        if median >= _FAR_LARGER * self.image_size:
            yield (
                f"image_size is {self.image_size}, but the files have {median} pixels on the shorter side (median): "
                "the network must have been trained at that image_size"
            )

    def _list_test(self, class_names: Sequence[str], listing: Listing) -> list[list[str]] | None:
        folders = [Path(self.root) / name for name in ("test", "val")]
        folder = next((path for path in folders if path.is_dir()), None)
        if (folder is None) == (self.test_fraction is None):
            problem = f"there is no {folders[0]} or {folders[1]}" if folder is None else f"there is {folder} already"
            raise UsageError(f"test_fraction is {self.test_fraction} and {problem}: give the one or the other")
        if folder is None:
            return None
        strange = set(_class_folders(folder)) - set(class_names)
        if strange:
            raise UsageError(f"{folder} has classes that train has not: {', '.join(sorted(strange)[:5])}")
        return [listing.images(folder / name) if (folder / name).is_dir() else [] for name in class_names]

    def _hold_out(self, train: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
        generator = torch.Generator().manual_seed(self.test_seed)
        kept: list[list[str]] = []
        held: list[list[str]] = []
        for paths in train:
            order = torch.randperm(len(paths), generator=generator).tolist()
            out = set(order[: round((self.test_fraction or 0.0) * len(paths))])
            kept.append([path for index, path in enumerate(paths) if index not in out])
            held.append([path for index, path in enumerate(paths) if index in out])
        return kept, held

    def _images(self, paths: Sequence[str]) -> Images:
        shape = self._shape(paths)
        whole = (len(paths), *shape)
        if self.cache is not None:
            return cached(paths, Path(self.cache), whole, self._decode())
        needed, free, processes = torch.Size(whole).numel(), free_memory(), local_processes()
        if self.memory == 0:
            return self._streamed(paths, shape)
        if processes * needed > self.memory * free:
            gib = f"{needed / 2**30:.2f} GiB", f"{free / 2**30:.2f} GiB"
            each = f" in each of {processes} processes" if processes > 1 else ""
            rank_zero_info(
                f"{len(paths):,} decoded images take {gib[0]}{each}, more than a share of {self.memory:g} (memory) of "
                f"the {gib[1]} that are free: each is decoded when it is needed"
            )
            return self._streamed(paths, shape)
        images = torch.empty(whole, dtype=torch.uint8)
        decode_all(paths, images, self._decode())
        return images

    def _raw(self, paths: Sequence[str]) -> Images:
        return self._streamed(paths, None if self.image_size is None else self._shape(paths))

    def _streamed(self, paths: Sequence[str], shape: tuple[int, int, int] | None) -> Streamed:
        if self.check and not self.leave_out_broken and (broken := broken_among(paths, self.channels)):
            raise refusal(broken, len(paths))
        if self.check and self.image_size is None and shape is not None:
            check_sizes(paths, shape)
        return Streamed(Files(paths, self.channels, self._decode(), shape), shape)

    def _shape(self, paths: Sequence[str]) -> tuple[int, int, int]:
        """(C, H, W) of every image: that of the first, unless all are brought to one size."""
        try:
            width, height = size_of(paths[0]) if self.image_size is None else (self.image_size, self.image_size)
        except BrokenImageError as error:
            raise refusal([error], len(paths)) from error
        return self.channels, height, width

    def _decode(self) -> Decode:
        return decode if self.image_size is None else decode_and_cut


def _class_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _labels(part: Sequence[Sequence[str]]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(part)), torch.tensor([len(paths) for paths in part]))
