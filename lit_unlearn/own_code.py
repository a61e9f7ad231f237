"""What names the code that a result depends on, so that what was computed with other code is computed again."""

import ast
import hashlib
import importlib.util
import io
import sys
import sysconfig
import time
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a benchmark reads code without torch
    from torch import nn

_PLACES = ("class_path", "network")
"""Settings that may hold the import path of a class."""
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_PACKAGE = Path(__file__).parent
_BEGUN = time.time()
"""When this process began to import code; a file that was written since may hold other code than what runs."""
_UNSEEN = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING)


def own_code(settings: Mapping[str, Any]) -> dict[str, str]:
    """Module of the user's own → what names the code in its file: of each class in the settings, and of all it imports.

    Comments and empty lines do not count. Neither do installed packages, nor modules that are imported by a computed
    name.
    """
    return code_of(path.rpartition(".")[0] for path in _class_paths(settings))


def code_of(modules: Iterable[str]) -> dict[str, str]:
    """The same of modules by name."""
    waiting = set(modules) - {""}
    found: dict[str, str | None] = {}
    while waiting:
        module = waiting.pop()
        found[module] = None
        if (file := _file_of(module)) is not None:
            above = module.rpartition(".")[0]
            package = module if file.name == "__init__.py" else above
            found[module], imported = _read(file, package, (stat := file.stat()).st_size, stat.st_mtime_ns)
            waiting |= (imported | {above}) - found.keys() - {""}
    return {module: key for module, key in sorted(found.items()) if key is not None}


def imported_code(module: str) -> dict[str, str] | None:
    """As :func:`code_of`, of the code that runs; None where it is in no file, or in one that was written since."""
    if _is_installed(module):
        return {}
    found = code_of([module])
    files = {each: _file_of(each) for each in found}
    if module not in files or any(file is None or file.stat().st_mtime > _BEGUN for file in files.values()):
        return None
    return found


def network_code(network: "nn.Module") -> str:
    """What names a network's layers, and the code of those classes that are the user's own."""
    own = code_of({type(module).__module__ for module in network.modules()})
    return hashlib.sha256("\n".join([repr(network), *own.values()]).encode()).hexdigest()


@cache
def installed_code() -> str:
    """What names the code of this package, and which version each installed package has."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update("\n".join(sorted({path.name for place in _INSTALLED for path in place.glob("*.*-info")})).encode())
    return digest.hexdigest()


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
    spec = _spec(module)
    origin = None if spec is None or spec.origin is None else Path(spec.origin)
    if origin is None or origin.suffix != ".py" or _lies_installed(origin):
        return None
    return origin


def _is_installed(module: str) -> bool:
    """Whether a module is of this package, of Python or of another package that is installed."""
    if module.partition(".")[0] == _PACKAGE.name:
        return True
    origin = None if (spec := _spec(module)) is None else spec.origin
    return origin is not None and (origin in ("built-in", "frozen") or _lies_installed(Path(origin)))


def _lies_installed(file: Path) -> bool:
    return any(file.is_relative_to(place) for place in _INSTALLED)


def _spec(module: str) -> ModuleSpec | None:
    """Where a module is, found without importing its package; None where there is none."""
    package = module.rpartition(".")[0]
    if package:
        above = _spec(package)
        places = None if above is None else above.submodule_search_locations
        return None if places is None else PathFinder.find_spec(module, places)
    try:
        return importlib.util.find_spec(module)
    except ValueError:  # no name, or a module that was made without a file
        return None


@cache  # hundreds of runs name the same class
def _read(file: Path, package: str, size: int, changed: int) -> tuple[str, set[str]]:
    """What names the code of a file as it was at that time, and which modules it may import."""
    del size, changed
    content = file.read_bytes()
    try:
        found = tokenize.tokenize(io.BytesIO(content).readline)
        code = "\0".join(token.string for token in found if token.type not in _UNSEEN).encode()
        imported = set(_imports(ast.parse(content), package))
    except (SyntaxError, ValueError, tokenize.TokenError):  # the parser says so
        code, imported = content, set()
    return hashlib.sha256(code).hexdigest(), imported


def _imports(code: ast.Module, package: str) -> Iterator[str]:
    """The modules that code imports, at any depth; what it imports of a module may be a module, too."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = "." * node.level + (node.module or "")
            try:
                module = importlib.util.resolve_name(whole, package)
            except ImportError:  # more dots than packages: the parser says so
                continue
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)
