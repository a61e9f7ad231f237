"""What names the code of classes of the user's own that settings mention, so that a changed one is run again."""

import hashlib
import importlib.util
import io
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_PLACES = ("class_path", "network")
"""Settings that may hold the import path of a class."""
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_PACKAGE = Path(__file__).parents[1]
_UNSEEN = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING)


def own_code(settings: Mapping[str, Any]) -> dict[str, str]:
    """Module of each class of the user's own in the settings → what names the code in its file.

    Comments and empty lines do not count. Neither do modules that the file imports, nor installed packages.
    """
    modules = {path.rpartition(".")[0] for path in _class_paths(settings)} - {""}
    files = {module: file for module in sorted(modules) if (file := _file_of(module)) is not None}
    return {module: _key_of(file, (stat := file.stat()).st_size, stat.st_mtime_ns) for module, file in files.items()}


def _class_paths(settings: Any) -> Iterator[str]:
    """All import paths in the settings, at any depth."""
    items = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
    for name, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _class_paths(value)
        elif name in _PLACES and isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
            yield value


def _file_of(module: str) -> Path | None:
    """The file of a module that is neither this package's nor installed; None where there is none."""
    if module.partition(".")[0] == _PACKAGE.name:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # a package of the user's own that cannot be imported: the parser says so
        return None
    origin = None if spec is None or spec.origin is None else Path(spec.origin)
    if origin is None or origin.suffix != ".py" or any(origin.is_relative_to(place) for place in _INSTALLED):
        return None
    return origin


@cache  # hundreds of runs name the same class
def _key_of(file: Path, size: int, changed: int) -> str:
    """What names the code of a file as it was at that time."""
    del size, changed
    content = file.read_bytes()
    try:
        found = tokenize.tokenize(io.BytesIO(content).readline)
        content = "\0".join(token.string for token in found if token.type not in _UNSEEN).encode()
    except (SyntaxError, tokenize.TokenError):  # the parser says so
        pass
    return hashlib.sha256(content).hexdigest()
