"""Pictures in an object store, read when a batch has them, all files of a batch side by side, with litdata."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from lit_unlearn.data.decoding import cut, open_image, pixels
from lit_unlearn.data.listing import SUFFIXES
from lit_unlearn.data.reading import Streamed
from lit_unlearn.data.sources import Dataset, Source
from lit_unlearn.errors import UsageError, check_at_least, first_line


class ObjectStore(Source):
    """Images under ``<root>/train/<class>/``, and ``<root>/test/<class>/``, in a bucket or a folder.

    Needs ``pip install 'lit_unlearn[litdata]'``. All names are listed once, and the list is kept in litdata's cache.
    The store is only read. An index file may name training images by their path below ``train``.

    Args:
        root: such as ``s3://bucket/pictures``, ``gs://…``, or a folder.
        image_size: height and width in pixels: the shorter side is resized to it and the centre cut out. None takes
            the images as they are, which must all have one size.
        channels: 3 for colour, 1 for grey.
        test: the folder of the test set beside ``train``.
        cache_dir: folder for litdata's lists and files; None is its own.
        keep_files: whether files stay in the cache once they are downloaded.
        relist: list all names anew, after something in the store has changed.
        options: for the store, such as ``{profile: mine}`` or its keys. Only ``config.yaml`` in the run's folder keeps
            them, with which the run can be repeated: no row, page, checkpoint or evidence does. A profile, or what the
            environment says, keeps them out of that file, too.

    Raises:
        UsageError: for a size or channel count out of range; while loading, without litdata, if the store cannot be
            read, or its folders are not as above.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | None = None,
        channels: int = 3,
        test: str = "test",
        cache_dir: str | None = None,
        keep_files: bool = False,
        relist: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        if image_size is not None:
            check_at_least("image_size", image_size, 1)
        if channels not in (1, 3):
            raise UsageError(f"channels is {channels}, allowed: 1 (grey) or 3 (colour)")
        self.root = str(root)
        self.image_size = image_size
        self.channels = channels
        self.test = test
        self.cache_dir = cache_dir
        self.keep_files = keep_files
        self.relist = relist
        self.options = options

    def load(self) -> Dataset:
        """List and label all images, to be streamed in one size."""
        return self._listed(raw=False)

    def load_raw(self) -> Dataset:
        """The same, in sizes of their own if ``image_size`` is None."""
        return self._listed(raw=self.image_size is None)

    def _listed(self, raw: bool) -> Dataset:
        parts = [_Part(self._opened(name), self.channels, self.image_size) for name in ("train", self.test)]
        class_names = sorted(set(parts[0].classes))
        if strange := sorted(set(parts[1].classes) - set(class_names)):
            raise UsageError(f"{self.root}/{self.test} has classes that train has not: {', '.join(strange[:5])}")
        places = {name: place for place, name in enumerate(class_names)}
        labels = [torch.tensor([places[name] for name in part.classes], dtype=torch.int64) for part in parts]
        first = parts[0][0].shape
        shape = None if raw else (int(first[0]), int(first[1]), int(first[2]))
        images = [Streamed(part, shape) for part in parts]
        return Dataset(images[0], labels[0], images[1], labels[1], class_names, parts[0].names)

    def _opened(self, part: str) -> Any:
        """The bytes of the images of a part, sorted by name, as a data set of litdata."""
        try:
            from litdata import StreamingRawDataset

            from lit_unlearn.data.sorted_index import SortedIndexer
        except ImportError as error:
            raise UsageError("litdata is not installed: pip install 'lit_unlearn[litdata]'") from error
        root = f"{self.root.rstrip('/')}/{part}"
        try:
            return StreamingRawDataset(
                root,
                cache_dir=self.cache_dir and f"{self.cache_dir}/{part}",
                indexer=SortedIndexer(extensions=list(SUFFIXES)),
                storage_options=self.options,
                cache_files=self.keep_files,
                recompute_index=self.relist,
                max_prefetch=0,  # it would load the images that follow in the list, but batches are drawn at random
            )
        # A missing bucket, wrong keys and a net that is down raise errors of many kinds.
        except Exception as error:
            raise UsageError(f"ObjectStore cannot read {root}: {first_line(error)}") from error


class _Part:
    """The images of one part.

    Args:
        files: litdata's data set of their bytes.
        channels: 3 for colour, 1 for grey.
        image_size: to resize and cut them to; None leaves them as they are.

    Raises:
        UsageError: if an image lies in no class folder.
    """

    def __init__(self, files: Any, channels: int, image_size: int | None) -> None:
        self.files = files
        self.channels = channels
        self.image_size = image_size
        root = PurePosixPath(_place(str(files.input_dir.url or files.input_dir.path)))
        below = [PurePosixPath(_place(file.path)).relative_to(root) for file in files.items]
        if stray := [path for path in below if len(path.parts) < 2]:
            raise UsageError(f"{root}/{stray[0]} lies in no class folder; images belong into {root}/<class>/")
        self.names = [str(path) for path in below]
        self.classes = [path.parts[0] for path in below]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Several images, uint8 (C, H, W), downloaded side by side."""
        try:
            contents = self.files.__getitems__(list(indices))
        except Exception as error:
            raise UsageError(f"cannot read {self.names[indices[0]]} and what follows: {first_line(error)}") from error
        return [self._image(content, self.names[index]) for content, index in zip(contents, indices, strict=True)]

    def _image(self, content: bytes, name: str) -> Tensor:
        image = open_image(BytesIO(content), self.channels, name)
        return pixels(image if self.image_size is None else cut(image, self.image_size), self.channels)


def _place(url: str) -> str:
    """Bucket and path, without the kind of store."""
    return url.partition("://")[2] or url
