"""Data sets in the format of Hugging Face, from a folder or from its hub."""

from pathlib import Path
from typing import Any

from lit_unlearn.data.map_style import MapStyle
from lit_unlearn.data.sources import Dataset, Source
from lit_unlearn.errors import UsageError, first_line, unknown


class HuggingFace(Source):
    """A data set of Hugging Face's ``datasets`` with a column of images and one of labels. Images are streamed.

    Needs ``pip install 'lit_unlearn[datasets]'``.

    Args:
        path: a folder that ``save_to_disk`` has written; a folder of pictures, ``train/<class>/`` and
            ``test/<class>/``; or a name on the hub, such as ``uoft-cs/cifar10``, which is downloaded.
        name: which configuration of a data set of the hub; None is its own choice.
        train: the split to train on.
        test: the split to test on.
        image: the column of the images.
        label: the column of the labels, whole numbers.
        channels: 3 for colour, 1 for grey.

    Raises:
        UsageError: while loading, without ``datasets``, if the data set cannot be read, for an unknown split or column,
            or another channel count than 1 or 3.
    """

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        train: str = "train",
        test: str = "test",
        image: str = "image",
        label: str = "label",
        channels: int = 3,
    ) -> None:
        self.path = str(path)
        self.name = name
        self.train = train
        self.test = test
        self.image = image
        self.label = label
        self.channels = channels

    def load(self) -> Dataset:
        """Open it and read the labels."""
        return self._opened().load()

    def load_raw(self) -> Dataset:
        """The same, with images in sizes of their own."""
        return self._opened().load_raw()

    def _opened(self) -> MapStyle:
        found = self._read()
        for split in (self.train, self.test):
            if split not in found:
                raise unknown("split", split, list(found))
        train, test = found[self.train], found[self.test]
        for column in (self.image, self.label):
            if column not in train.features:
                raise unknown("column", column, list(train.features))
        names = getattr(train.features[self.label], "names", None)
        parts = [_Part(split, self.image, self.label) for split in (train, test)]
        return MapStyle(parts[0], parts[1], self.channels, self.image, self.label, names)

    def _read(self) -> Any:
        """A mapping from split to data set."""
        try:
            import datasets
        except ImportError as error:
            raise UsageError("datasets is not installed: pip install 'lit_unlearn[datasets]'") from error
        folder = Path(self.path)
        try:
            if (folder / "dataset_dict.json").is_file():
                return datasets.load_from_disk(self.path)
            if folder.is_dir():
                return datasets.load_dataset("imagefolder", data_dir=self.path)
            return datasets.load_dataset(self.path, self.name)
        # A missing name, a broken file and a hub out of reach raise errors of many kinds.
        except Exception as error:
            raise UsageError(f"HuggingFace cannot read {self.path!r}: {first_line(error)}") from error


class _Part:
    """A split whose labels are read as one column.

    Args:
        samples: the split.
        image: its column of images, the only one that samples are read from.
        label: its column of labels.
    """

    def __init__(self, samples: Any, image: str, label: str) -> None:
        self.targets = list(samples[label])
        self._images = samples.select_columns([image])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return self._images[index]
