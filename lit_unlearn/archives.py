"""Zip files with a manifest that names the sha256 of everything in them: written whole, and read without unpacking."""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lit_unlearn.errors import UsageError
from lit_unlearn.files import file_sha256, replaced

MOST_BYTES = 2**30
"""Of all files together, which a reader holds in memory; a zip that would have, tells or holds more is refused."""


def write_archive(to: Path, name: str, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes]) -> None:
    """Writes a zip, or nothing.

    Args:
        to: the zip file; one that is there is replaced.
        name: of the manifest in it.
        manifest: what it says; ``files``, the sha256 of each file by name, is added.
        files: name in the zip → file, or its content.

    Raises:
        UsageError: if it cannot be written, or its files are more than can be read again.
    """
    sizes = {each: len(given) if isinstance(given, bytes) else given.stat().st_size for each, given in files.items()}
    told = {**manifest, "files": {each: _sha256(given) for each, given in files.items()}}
    said = (json.dumps(told, indent=1) + "\n").encode()
    if (size := len(said) + sum(sizes.values())) > MOST_BYTES:
        large = max(sizes, key=lambda each: sizes[each])
        raise UsageError(
            f"{to} is not written: its {len(sizes) + 1} files have {size / 2**20:,.0f} MiB together, allowed: "
            f"{MOST_BYTES >> 20:,} (the largest is {large}, {sizes[large] / 2**20:,.0f} MiB)"
        )
    try:
        with replaced(to) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, said)
            for each, given in files.items():
                if isinstance(given, bytes):
                    archive.writestr(each, given)
                else:
                    archive.write(given, each)
    except OSError as error:
        raise UsageError(f"cannot write {to}: {error.strerror or error}") from error


def read_archive(
    path: Path, name: str, form: str, kind: str, needed: Iterable[str]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of a zip without ``files``, and the content of every other file, each as its sha256 there says.

    Args:
        path: the zip file. Nothing is unpacked.
        name: of the manifest in it.
        form: what its ``format`` must be.
        kind: what the zip should be, for errors, such as ``evidence``.
        needed: files that it must hold.

    Raises:
        UsageError: naming what is missing or was changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names) or not {name, *needed} <= set(names):
                must = " and ".join([name, *needed])
                raise UsageError(f"{path}: no {kind}: it must hold {must}, and each file once")
            if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
                raise UsageError(f"{path}: its files are larger than {MOST_BYTES >> 20} MiB together")
            contents = {each: _member(archive, each) for each in names}
        manifest = json.loads(contents.pop(name))
        listed = dict(manifest.pop("files")) if manifest["format"] == form else None
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: no {kind} ({' '.join(str(error).split()) or type(error).__name__})") from error
    if listed is None or listed.keys() != contents.keys():
        raise UsageError(f"{path}: {name} does not list exactly the files that are there")
    for each, content in contents.items():
        if hashlib.sha256(content).hexdigest() != listed[each]:
            raise UsageError(f"{path}: {each} was changed: its sha256 is not the one in {name}")
    return manifest, contents


def _sha256(given: Path | bytes) -> str:
    return hashlib.sha256(given).hexdigest() if isinstance(given, bytes) else file_sha256(given)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a zip, and no more bytes of it than it declares."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as file:
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{name} is not as long as it says")
    return content
