"""One line for each user error, made of what Lightning's parser and others report at length."""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, callbacks, loggers

from lit_unlearn import attacks, backbones, data, methods
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError, nearest, unknown
from lit_unlearn.files import DISK_FULL
from lit_unlearn.methods import UnlearnModule

_ROOMS = {
    "model": ((methods,), UnlearnModule),
    "backbone": ((backbones,), backbones.Backbone),
    "data": ((data,), UnlearnDataModule),
    "source": ((data,), data.Source),
    "callbacks": ((attacks, callbacks), Callback),
    "logger": ((loggers,), loggers.Logger),
}
_SECTIONS = {
    "trainer": "lightning.pytorch.Trainer",
    "evaluation": "lit_unlearn.attacks.Evaluation",
    "report": "lit_unlearn.reports.report.Report",
}


def explain(error: BaseException) -> str | None:
    """One line for a user error; None for an error of the package."""
    for kind in (UsageError, argparse.ArgumentError, ModuleNotFoundError):
        for link in _chain(error):
            if isinstance(link, kind):
                return _explain_parsing(str(link)) if kind is argparse.ArgumentError else str(link)
    if isinstance(error, OSError):
        full = [link for link in _chain(error) if isinstance(link, OSError) and link.errno in DISK_FULL]
        # The first file that a disk has no room for says most: more may fail when the run is being ended.
        named = [link for link in (*reversed(full), error) if link.filename is not None]
        return f"{named[0].filename}: {named[0].strerror}" if named else None
    if match := re.match(r"Early stopping conditioned on metric `(.*?)`.*of the following: (.*)", str(error)):
        return f"EarlyStopping: monitor {match[1]!r} is not logged (allowed: {match[2].replace('`', '')})"
    return " ".join(str(error).split()) if isinstance(error, MisconfigurationException) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain_parsing(message: str) -> str:
    key = ".".join(dict.fromkeys(re.findall(r'[Kk]ey "([\w.]+)"', message)))
    if match := re.search(r"arguments are required: (?:(?:fit|validate|test)\.)?([\w, ]+)", message):
        missing = f"{key}.{match[1]}".lstrip(".")
        return f"{missing} is missing: give --{missing}{_allowed(missing)}"
    if match := re.search(r"- Expected an? <class '(\w+)'>\s+- Expected a dot import path string: (\S+)", message):
        return f"{key}: {match[2]!r} is not accepted; expected {match[1]}"
    if match := re.search(r"Expected a dot import path string: (\S+)", message):
        names = _class_names(key)
        return f"{key}: {unknown('class', match[1], names or ['an import path, such as package.module.Class'])}"
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'\. Got value: Namespace\(class_path=", message):
        return f"{key}: {match[1]} has no class {match[2]!r}{nearest(match[2], dir(sys.modules.get(match[1])))}"
    if match := re.search(r"does not accept option '(trainer|evaluation|report)\.([\w.]+)'", message):
        return f"{match[1]}: {_no_option(_SECTIONS[match[1]], match[2])}"
    if match := re.search(r"Option '([\w.]+)' is not accepted(?:\. Got value: \w+\(class_path='([\w.]+)')?", message):
        above = re.findall(r"class_path '([\w.]+)':", message[: match.start()])
        if class_path := match[2] or "".join(above[-1:]):
            return f"{key}: {_no_option(class_path, match[1].partition('.')[0])}"
    value = re.search(r"Got value: (.*)|Given value: (?:NestedArg\(.*?, val='(.*)'\)|(.*))", message)
    if value is None:
        return " ".join(message.split())
    given = next(group for group in value.groups() if group is not None)
    if match := re.search(r"No module named '.+'|module '\S+' has no attribute '\w+'", message):
        reason = "no such file" if given.endswith((".yaml", ".yml")) else match[0]
        return f"{key}: {given!r} is not accepted: {reason}{_allowed(key)}"
    wanted = r"Expected an? (?:<class '([^']+)'>|(?:typing\.)?(\w+\[.*?\]))|to a (subclass of \w+)"
    expected = dict.fromkeys(name for groups in re.findall(wanted, message[: value.end()]) for name in groups if name)
    allowed = " or ".join("null" if name == "NoneType" else name for name in expected)
    return f"{key}: {given!r} is not accepted; expected {allowed or 'another value'}"


def _no_option(class_path: str, option: str) -> str:
    """That a class, which the parser has imported, does not take an option: the nearest that it takes, or else all."""
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    bases = found.__mro__[:-1] if isinstance(found, type) else ()
    makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    names = {parameter for maker in makers for parameter in inspect.signature(maker).parameters}
    options = sorted(names - {"self", "args", "kwargs"})
    hint = nearest(option, options) or (f" (allowed: {', '.join(options)})" if options else "")
    return f"{name} has no option {option!r}{hint}"


def _allowed(key: str) -> str:
    names = _class_names(key)
    return f" (allowed: {', '.join(sorted(names))})" if names else ""


def _class_names(key: str) -> list[str]:
    """The short class names that may stand at a key of the configuration."""
    rooms, base = _ROOMS.get(key.rpartition(".")[2], ((), object))
    classes = [getattr(room, name) for room in rooms for name in room.__all__]
    own = [c for c in classes if isinstance(c, type) and issubclass(c, base) and c not in (base, attacks.Evaluation)]
    return [c.__name__ for c in own if not inspect.isabstract(c)]
