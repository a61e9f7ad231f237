"""One line for each user error, made of what Lightning's parser and others report at length."""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, callbacks, loggers

from lit_unlearn import attacks, backbones, data, methods
from lit_unlearn.class_paths import find_class
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError, first_line, nearest, unknown
from lit_unlearn.files import DISK_FULL
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.parsing import lacking
from lit_unlearn.shipped import CONFIG_ENDINGS

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
    "grid": "lit_unlearn.benchmark.Grid",
    "grid.seeds": "lit_unlearn.benchmark.Seeds",
    "launcher": "lit_unlearn.benchmark.Launcher",
    "tuning": "lit_unlearn.benchmark.Tuning",
    "margins": "lit_unlearn.reports.comparisons.Margins",
}

_RULES = ("forget", "forgotten_before")
_A_RULE = "expected what is to be forgotten, such as {classes: [cat]}, {fraction: 0.1} or {index_file: forget.txt}"


def explain(error: BaseException) -> str | None:
    """One line for a user error; None for an error of the package."""
    for kind in (UsageError, argparse.ArgumentError, ModuleNotFoundError):
        for link in _chain(error):
            if isinstance(link, kind):
                return _explain_parsing(str(link)) if kind is argparse.ArgumentError else str(link)
    for link in reversed([*_chain(error)]):
        match = re.search(
            r"(?:Problem with given class_path |Given value: Namespace\(class_path=)'([\w.]+)'", str(link)
        )
        cause = link.__cause__ or link.__context__
        if match and cause is not None and not match[1].startswith("lit_unlearn."):
            return f"{match[1]} cannot be made: {type(cause).__name__}: {first_line(cause)}"
    if isinstance(error, OSError):
        full = [link for link in _chain(error) if isinstance(link, OSError) and link.errno in DISK_FULL]
        # The first file that a disk has no room for says most: more may fail when the run is being ended.
        named = [link for link in (*reversed(full), error) if link.filename is not None]
        return f"{named[0].filename}: {named[0].strerror}" if named else None
    if match := re.match(r"Early stopping conditioned on metric `(.*?)`.*of the following: (.*)", str(error)):
        return f"EarlyStopping: monitor {match[1]!r} is not logged (allowed: {match[2].replace('`', '')})"
    if match := re.match(r"\s*`val_check_interval` \((\d+)\) must be .*training batches \((\d+)\)", str(error)):
        return f"trainer.val_check_interval is {match[1]}, but an epoch has {match[2]} batches: give at most these"
    if str(error).startswith("Training with multiple optimizers"):
        return (
            "the method's configure_optimizers returned several optimizers, but the Trainer steps one: return one, or "
            "set automatic_optimization = False in __init__ and step them in training_step"
        )
    return " ".join(str(error).split()) if isinstance(error, MisconfigurationException) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain_parsing(message: str) -> str:
    key = ".".join(dict.fromkeys(re.findall(r'[Kk]ey "([\w.]+)"', message)))
    if match := re.search(r"arguments are required: (?:(?:fit|validate|test)\.)?([\w., ]+)", message):
        missing = [f"{key}.{name}".lstrip(".") for name in match[1].strip(".").split(", ")]
        return lacking(missing) + (_allowed(missing[0]) if len(missing) == 1 else "")
    if match := re.search(r"Unable to load config ['\"](.*?)['\"]", message):
        return f"{key}: {match[1]!r} is neither settings by name nor a config"
    if match := re.search(r"- Expected an? <class '(\w+)'>\s+- Expected a dot import path string: (\S+)", message):
        return f"{key}: {match[2]!r} is not accepted; expected {match[1]}"
    if match := re.search(r"Expected a dot import path string: (\S+)", message):
        names = _class_names(key)
        if not names and key.rpartition(".")[2] in _RULES:
            return f"{key}: {match[1]!r} is not accepted; {_A_RULE}"
        return f"{key}: {unknown('class', match[1], names or ['an import path, such as package.module.Class'])}"
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'\. Got value: Namespace\(class_path=", message):
        return f"{key}: {match[1]} has no class {match[2]!r}{nearest(match[2], dir(sys.modules.get(match[1])))}"
    sections = "|".join(map(re.escape, sorted(_SECTIONS, reverse=True)))
    if match := re.search(rf"(?:does not accept option '|^unrecognized arguments: --)({sections})\.(\w+)", message):
        return f"{match[1]}: {_no_option(_SECTIONS[match[1]], match[2])}"
    if match := re.search(r"class_path '([\w.]+)':\s+unrecognized arguments: --(\w+)", message):
        return f"{key}: {_no_option(match[1], match[2])}"
    if match := re.search(r"Option '([\w.]+)' is not accepted(?:\. Got value: \w+\(class_path='([\w.]+)')?", message):
        above = re.findall(r"class_path '([\w.]+)':", message[: match.start()])
        if class_path := match[2] or "".join(above[-1:]):
            return f"{key}: {_no_option(class_path, match[1].partition('.')[0])}"
    value = re.search(r"Got value: (.*)|Given value: (?:NestedArg\(.*?, val='(.*)'\)|(.*))", message)
    if value is None:
        return " ".join(message.split())
    given = next(group for group in value.groups() if group is not None)
    if reason := _trouble_of_own(key, given):
        return f"{key}: {reason}"
    if match := re.search(r"No module named '.+'|module '\S+' has no attribute '\w+'", message):
        reason = "no such file" if given.endswith(CONFIG_ENDINGS) else match[0]
        return f"{key}: {given!r} is not accepted: {reason}{_allowed(key)}"
    wanted = r"Expected an? (?:<class '([^']+)'>|(?:typing\.)?(\w+\[.*?\]))|to a (subclass of \w+)"
    if key.rpartition(".")[2] in _RULES:
        return f"{key}: {given!r} is not accepted; {_A_RULE}"
    expected = dict.fromkeys(name for groups in re.findall(wanted, message[: value.end()]) for name in groups if name)
    allowed = " or ".join("null" if name == "NoneType" else name for name in expected)
    a_list = any(name.lower().startswith(("list", "sequence", "tuple")) for name in expected)
    hint = f"; write a list as '[{given}]'" if a_list and re.fullmatch(r"[^\[\](){}:=]+", given) else ""
    if given in ("True", "False") and "str" in expected:
        hint = "; put names such as yes, no, on, off and true in quotes"
    if not allowed and (path := re.search(r"class_path='([\w.]+)'", given)):
        return f"{key}: {path[1]!r} is not accepted: it is no class of the kind that is needed here"
    return f"{key}: {given!r} is not accepted; expected {allowed or 'another value'}{hint}"


def _trouble_of_own(key: str, given: str) -> str | None:
    """Why a class of the user's own, whose import path a value names, cannot be used; the parser has tried before."""
    paths = re.findall(r"(?<![\w./])[A-Za-z_]\w*(?:\.\w+)+(?![\w/])", given)
    room = key.rpartition(".")[2]
    if not paths or paths[0].split(".")[0] == "lit_unlearn":
        return None
    if room not in _ROOMS and not paths[0].rpartition(".")[2][:1].isupper():
        return None  # it may be the name of a file
    try:
        find_class(paths[0], _ROOMS[room][1] if room in _ROOMS else object)
    except UsageError as error:
        return str(error)
    except ModuleNotFoundError:
        pass
    return None


def _no_option(class_path: str, option: str) -> str:
    """That a class, which the parser has imported, does not take an option: the nearest that it takes, or else all."""
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    names = set[str]()
    for base in found.__mro__[:-1] if isinstance(found, type) else ():
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            names |= parameters.keys()
            if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
                break  # nothing is handed on to the bases
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
