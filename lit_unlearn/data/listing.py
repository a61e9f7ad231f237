"""Lists the images in folders, and keeps in a file what was found as long as nothing changes."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMAT = 2
_OF_DESKTOPS = {"thumbs.db", "desktop.ini"}
"""Files that Windows makes in folders of images."""
_RECENT = 2_000_000_000
"""Nanoseconds. What changed within them may change again without a new time of the folder."""

Broken = list[tuple[str, str]]
"""Path and reason of each image that cannot be decoded."""


class Entries(NamedTuple):
    """What a folder holds: the names of its folders and of its images, and how many other files, and one of them."""

    folders: list[str]
    images: list[str]
    others: int = 0
    other: str = ""


class Listing:
    """What folders hold, each listed once.

    Args:
        kept: file of what was found earlier: a folder is taken from it whose time of change is the same. None keeps
            nothing.
    """

    def __init__(self, kept: str | Path | None = None) -> None:
        self._kept = None if kept is None else Path(kept)
        self._before, self._broken_before = self._read()
        self._now: dict[str, tuple[int, Entries]] = {}
        self._others: dict[str, Entries] = {}
        self._broken_now = self._broken_before

    def images(self, folder: str | Path) -> list[str]:
        """The paths of all images below a folder, without hidden ones, sorted by their parts.

        Raises:
            UsageError: if there are none.
        """
        found = list(self._below(os.path.abspath(folder), str(folder)))
        if not found:
            raise UsageError(f"{folder} has no images (looked for {', '.join(SUFFIXES)})")
        return found

    def warnings(self) -> list[str]:
        """Says how many files were left out for their endings, if any, and names one of them."""
        if not self._others:
            return []
        count = sum(entries.others for entries in self._others.values())
        shown, first = next(iter(self._others.items()))
        left_out = "1 file in class folders is" if count == 1 else f"{count:,} files in class folders are"
        return [f"{left_out} left out, such as {shown}{os.sep}{first.other}: images end in {', '.join(SUFFIXES)}"]

    def broken(self, paths: Sequence[str], find: Callable[[], Broken]) -> Broken:
        """Which of the images cannot be decoded, from the file while all of them are the same.

        Args:
            paths: of all images.
            find: decodes all of them, and returns path and reason of each that cannot be decoded.
        """
        digest = fingerprint(paths)
        if self._broken_before is None or self._broken_before[0] != digest:
            self._broken_now = digest, find()
        assert self._broken_now is not None
        return self._broken_now[1]

    def save(self) -> None:
        """Writes the file anew, if one was given and anything has changed.

        Raises:
            UsageError: if it cannot be written.
        """
        if self._kept is None:
            return
        old = time.time_ns() - _RECENT
        settled = {folder: (changed, entries) for folder, (changed, entries) in self._now.items() if changed < old}
        if (settled, self._broken_now) == (self._before, self._broken_before):
            return
        try:
            held = {"format": _FORMAT, "folders": settled, "broken": self._broken_now}
            write_atomically(self._kept, json.dumps(held))
        except OSError as error:
            raise UsageError(f"cannot write the listing {self._kept}: {error.strerror or error}") from error

    def _below(self, folder: str, shown: str) -> Iterator[str]:
        entries = self._entries(folder)
        if entries.others:
            self._others[shown] = entries
        folders, images = entries.folders, entries.images
        for name in sorted([*folders, *images]) if folders else images:
            if name in folders:
                yield from self._below(f"{folder}{os.sep}{name}", f"{shown}{os.sep}{name}")
            else:
                yield f"{shown}{os.sep}{name}"

    def _entries(self, folder: str) -> Entries:
        if folder not in self._now:
            changed = os.stat(folder).st_mtime_ns
            before = self._before.get(folder)
            same = before is not None and before[0] == changed
            self._now[folder] = before if before is not None and same else (changed, _scanned(folder))
        return self._now[folder][1]

    def _read(self) -> tuple[dict[str, tuple[int, Entries]], tuple[str, Broken] | None]:
        """What the file holds; nothing where it is missing, broken, or of another version."""
        if self._kept is None:
            return {}, None
        try:
            held = json.loads(self._kept.read_text())
            if held["format"] != _FORMAT:
                return {}, None
            folders = {name: (int(changed), _entries_of(*kept)) for name, (changed, kept) in held["folders"].items()}
            if held["broken"] is None:
                return folders, None
            digest, broken = held["broken"]
            return folders, (str(digest), [(str(path), str(reason)) for path, reason in broken])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, None


def fingerprint(paths: Iterable[str], settings: str = "") -> str:
    """Names files as they are now, by path, size and time of change, and settings: hexadecimal digits."""
    digest = hashlib.sha256(settings.encode())
    for path in paths:
        state = os.stat(path)
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _entries_of(folders: list[str], images: list[str], others: int, other: str) -> Entries:
    return Entries(list(folders), list(images), int(others), str(other))


def _scanned(folder: str) -> Entries:
    """Folders that are links are left out, since they may lead in a circle. Hidden files do not count."""
    folders, images, others = list[str](), list[str](), list[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif not entry.name.startswith(".") and entry.name.lower() not in _OF_DESKTOPS and entry.is_file():
                (images if entry.name.lower().endswith(SUFFIXES) else others).append(entry.name)
    return Entries(sorted(folders), sorted(images), len(others), min(others, default=""))
