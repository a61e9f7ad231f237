"""A class of the user's own, by its import path ``module.Class``."""

from importlib import import_module
from pathlib import Path
from typing import TypeVar

from lit_unlearn.errors import UsageError, first_line, nearest

T = TypeVar("T")


def find_class(path: str, base: type[T]) -> type[T]:
    """The class of an import path.

    Args:
        path: module and class, with a dot between them.
        base: what near names are looked for among the subclasses of.

    Raises:
        UsageError: if the module has a mistake, or no such class: naming the nearest that it has.
        ModuleNotFoundError: if there is no such module.
    """
    module, _, name = path.rpartition(".")
    try:
        room = import_module(module)
    except SyntaxError as error:
        raise UsageError(f"{Path(error.filename or module).name}, line {error.lineno}: {error.msg}") from error
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"{module} cannot be imported: {error}") from error
    except Exception as error:
        raise UsageError(f"{module} cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    found = getattr(room, name, None)
    if found is None:
        known = [each for each, kind in vars(room).items() if isinstance(kind, type) and issubclass(kind, base)]
        own = [each for each in known if vars(room)[each].__module__ == room.__name__]
        hint = nearest(name, own) or nearest(name, known) or f" (allowed: {', '.join(own) or 'none'})"
        raise UsageError(f"{module} has no class {name!r}{hint}")
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise UsageError(f"{path} has no {' and no '.join(lacking)}")
    return found  # type: ignore[no-any-return]
