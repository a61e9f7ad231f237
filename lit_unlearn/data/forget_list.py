"""A list of images to forget: indices, paths or a mask from Python, or a file with one index or name per line."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_unlearn.data.reading import plain
from lit_unlearn.errors import UsageError, shown, unknown

ImageList = Any
"""A list, tuple, range, array or tensor of indices, of paths, or of booleans. Not written as such, since a config is
read by it, and the command line would list every subclass of a tensor."""

_ALLOWED = "a list, range, array or tensor of indices, a list of paths, or a mask of booleans"


def is_list(given: object) -> bool:
    """Whether something may be an :data:`ImageList`."""
    return isinstance(given, list | tuple | range) or hasattr(given, "tolist")


def checked_list(given: ImageList) -> list[int | str] | list[bool]:
    """The same in plain types: whole numbers and names, or booleans alone.

    Raises:
        UsageError: for anything else.
    """
    values = plain(given) if hasattr(given, "tolist") else given
    if not isinstance(values, list | tuple | range):
        raise UsageError(f"forget: images is {shown(values)}, but must be {_ALLOWED}")
    found = [os.fspath(each) if isinstance(each, os.PathLike) else plain(each) for each in values]
    kinds = {type(each) for each in found}
    if not found:
        raise UsageError(f"forget: images is empty, but must be {_ALLOWED}")
    if kinds != {bool} and not kinds <= {int, str}:
        wrong = next(each for each in found if type(each) not in (int, str))
        raise UsageError(f"forget: images has {str(wrong)[:80]} (a {type(wrong).__name__}), but must be {_ALLOWED}")
    if len(found) > 2 and set(found) == {0, 1} and kinds == {int}:
        raise UsageError(
            f"forget: images has {len(found)} numbers, all 0 or 1: a mask must be of booleans, so make it one with "
            ".bool() of torch or .astype(bool) of numpy"
        )
    return found


def size_of_list(images: Sequence[int | str | bool]) -> int:
    """How many images a list of :func:`checked_list` names."""
    return sum(images) if _is_mask(images) else len(images)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingImages:
    """What a list may name.

    Args:
        count: how many training images there are.
        names: one for each of them, or None.
        folder: that the names are paths in, or None.
    """

    count: int
    names: Sequence[str] | None
    folder: str | None = None

    def of_list(self, images: Sequence[int | str | bool]) -> Tensor:
        """The indices that a list of :func:`checked_list` names, sorted, int64.

        Raises:
            UsageError: for an unknown or repeated image, or a mask of another length.
        """
        if _is_mask(images):
            if len(images) != self.count:
                raise UsageError(
                    f"forget: images is a mask of {len(images)} values, but there are {self.count} training images"
                )
            return torch.tensor(images).nonzero().flatten()
        positions, seen = self._positions(), dict[int, str]()
        for each in images:
            index = self._index(str(each), "forget: images", positions)
            if index in seen:
                raise UsageError(f"forget: images names {str(each)!r} twice (index {index})")
            seen[index] = str(each)
        return torch.tensor(sorted(seen), dtype=torch.int64)

    def of_file(self, path: Path) -> Tensor:
        """The indices that a file names, one a line, sorted, int64.

        Raises:
            UsageError: for an unreadable file, or an unknown or repeated image.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"forget: cannot read index_file {str(path)!r}: {error}") from error
        positions, seen = self._positions(), dict[int, int]()
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if self._named(text, positions) is None:  # a name may have a # in it
                text = re.sub(r"(^|\s)#.*", "", line).strip()
            if not text:
                continue
            index = self._index(text, f"line {number} of {path}", positions)
            if index in seen:
                raise UsageError(f"line {number} of {path}: {text!r} was already named in line {seen[index]}")
            seen[index] = number
        return torch.tensor(sorted(seen), dtype=torch.int64)

    def _positions(self) -> dict[str, int]:
        """Every name as it is, and in the form that all ways to write it share."""
        names = self.names or []
        exact = {name: index for index, name in enumerate(names)}
        return {composed(name): index for index, name in enumerate(names)} | exact

    def _named(self, text: str, positions: Mapping[str, int]) -> int | None:
        for form, folder in ((text, self.folder), (composed(text), composed(self.folder or ""))):
            below = form.removeprefix("./")
            for name in (form, below, below.removeprefix("train/"), _inside(form, folder)):
                if name in positions:
                    return positions[name]
        return None

    def _index(self, text: str, where: str, positions: Mapping[str, int]) -> int:
        if (named := self._named(text, positions)) is not None:
            return named
        allowed = f"allowed: 0 to {self.count - 1}"
        if re.fullmatch(r"[+-]?\d+", text, flags=re.ASCII):
            if not 0 <= int(text) < self.count:
                raise UsageError(f"{where}: index {text} is out of range ({allowed})")
            return int(text)
        if self.names:
            raise UsageError(f"{where}: {unknown('training image', text, self.names)}")
        raise UsageError(f"{where}: {text!r} is no index of a training image ({allowed}; this data has no image names)")


def composed(text: str) -> str:
    """A text in the one form of Unicode in which ä is one letter: macOS writes names of files as an a and two dots."""
    return unicodedata.normalize("NFC", text)


def _inside(path: str, folder: str | None) -> str:
    """A path as the name of a training image: what follows the folder of training images."""
    if not folder:
        return path
    return os.path.relpath(os.path.abspath(path), os.path.abspath(folder)).replace(os.sep, "/")


def _is_mask(images: Sequence[int | str | bool]) -> bool:
    return isinstance(images[0], bool)
