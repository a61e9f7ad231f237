"""Files and what goes into them: a file is replaced completely or not at all, and values become JSON's own types."""

import errno
import fcntl
import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from lit_unlearn.errors import UsageError, first_line

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of a share of it, on which there is no more room."""


@contextmanager
def replaced(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends without an error.

    A reader sees the old file or the complete new one, even if the machine stops.

    Args:
        path: file to write; its folder is made when missing. Until it is complete it has a name of its own beside it,
            ``.<name>.<random>.part``, which a process that is killed leaves behind.

    Raises:
        OSError: naming the file, which cannot be written; the old one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Drawn, since processes on several machines or in containers share numbers, and may share this folder.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch.save cannot close an archive that it could not write, and raises that instead.
        first = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(first, OSError):
            raise of_file(first, path) from error
        raise


def of_file(error: OSError, path: Path) -> OSError:
    """The error with the name of the file that could not be written, and of a full disk with what is free there."""
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL:
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
        disk = next(place for place in (folder, *folder.parents) if place.is_mount())
        reason = f"{reason} (disk {disk}: {shutil.disk_usage(folder).free / 1e6:.1f} MB free)"
    return OSError(error.errno, reason, str(path))


@contextmanager
def locked(folder: Path, refusal: str | None = None) -> Iterator[None]:
    """No other process is in the block for this folder, which is made when missing.

    Args:
        folder: holds the lock.
        refusal: what to say where another process is in the block; None waits for it.

    Raises:
        UsageError: with the refusal, or if the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if refusal is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(refusal or f"cannot lock {folder}: {error.strerror}") from error
        yield


def check_folder(option: str, folder: str | Path) -> None:
    """Refuses a folder that cannot be written to, or made; it is made with the first file in it.

    Args:
        option: as the user knows it.
        folder: what was given.

    Raises:
        UsageError: naming both, and why.
    """
    whole = Path(folder).expanduser().absolute()
    place = next(each for each in (whole, *whole.parents) if each.exists())
    number = errno.ENOTDIR if not place.is_dir() else None if os.access(place, os.W_OK | os.X_OK) else errno.EACCES
    if number is not None:
        raise UsageError(f"{option}: cannot write to {folder}: {os.strerror(number)}")


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write bytes, or UTF-8 text, as :func:`replaced` does."""
    with replaced(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file, as hexadecimal digits.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings in a file of YAML, such as the config that a run leaves.

    Raises:
        UsageError: if it cannot be read, or holds no settings by name.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {path}: {first_line(error)}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: must hold settings by name, not {type(settings).__name__}")
    return settings


def part_of_settings(settings: Mapping[str, Any], name: str, where: str | Path) -> dict[str, Any]:
    """The settings below a name.

    Args:
        settings: what :func:`read_settings` returned.
        name: with dots, such as ``model.init_args``.
        where: the file, for the error.

    Raises:
        UsageError: if there are none.
    """
    part: Any = settings
    for each in name.split("."):
        part = part.get(each) if isinstance(part, Mapping) else None
    if not isinstance(part, dict):
        raise UsageError(f"{where}: has no settings {name}")
    return part


def plain(value: Any, strict: bool = False, where: str = "value") -> Any:
    """The value in JSON's own types: arrays, tensors and sets become lists, paths become text.

    Own code, because msgspec's conversion lets NaN through, which its encoder then writes as null.

    Args:
        value: what to convert.
        strict: refuse what has no place in JSON and numbers that are not finite, instead of keeping their text.
        where: name of the value in error messages.

    Raises:
        UsageError: if ``strict``, naming the place and the value.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, strict, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, strict, where) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist") and not isinstance(value, float):
        return plain(value.tolist(), strict, where)
    if strict:
        kind = "not finite" if isinstance(value, float) else f"of type {type(value).__name__}, not of JSON"
        raise UsageError(f"{where} is {str(value)[:60]!r}, which is {kind}; leave out what is unknown")
    return str(value)
