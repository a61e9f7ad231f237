"""What the arguments ``method`` and ``attacks`` of a call from Python stand for: a name, an import path, a class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lit_unlearn import methods
from lit_unlearn.attacks import Attack
from lit_unlearn.attacks import __all__ as attack_classes
from lit_unlearn.backbones import Backbone
from lit_unlearn.class_paths import find_class
from lit_unlearn.errors import UsageError, shown, unknown
from lit_unlearn.method_config import is_method_config, method_configs, method_of_config
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.options import check_names
from lit_unlearn.parsing import as_list
from lit_unlearn.shipped import CONFIG_ENDINGS
from lit_unlearn.suites import attacks_of_config

Method = str | Callable[..., UnlearnModule]
Own = TypeVar("Own")


def made_method(
    method: Method, backbone: Backbone, options: Mapping[str, Any], epochs: int | None
) -> tuple[UnlearnModule, dict[str, Any]]:
    """A method around a backbone, and what its config gives the Trainer, if it has one.

    Args:
        method: the name of a config or of a class, the import path of a class of the user's own, or a class.
        backbone: the trained network.
        options: arguments of the method, in place of its defaults or of the config's.
        epochs: in place of the config's.

    Raises:
        UsageError: for an unknown method, or an option or value that it does not take.
    """
    if is_method_config(method):
        return method_of_config(method, backbone, options, epochs)
    make = _class_of(method) if isinstance(method, str) else method
    if isinstance(make, type) and not issubclass(make, UnlearnModule):
        raise UsageError(f"method: {make.__name__} is no subclass of UnlearnModule")
    check_names(make, options)
    made = make(backbone, **options)
    if not isinstance(made, UnlearnModule):
        raise UsageError(f"method: {shown(make)} made {shown(made)}, which is no UnlearnModule")
    return made, {}


def listed_attacks(attacks: str | Sequence[Attack | str] | None) -> tuple[Sequence[Attack], str | None]:
    """The attacks that are asked for, and the name and version of their suite, where they are one.

    Args:
        attacks: a config such as ``quick``, by name or path; or attacks, of which each may be the import path of
            a class of the user's own.

    Raises:
        UsageError: for an unknown config, or what is no attack.
    """
    if isinstance(attacks, str) and not _is_class_path(attacks):
        return _suite(attacks)
    every = as_list(attacks)
    found = [_own_attack(each) if isinstance(each, str) and _is_class_path(each) else each for each in every]
    for each in found:
        if not isinstance(each, Attack):
            name = each if isinstance(each, str) else getattr(each, "__name__", type(each).__name__)
            raise UsageError(f"attacks: {name!r} is no attack: give objects, such as attacks=[lu.HeadRecovery()]")
    return found, None


def _suite(name: str) -> tuple[list[Attack], str | None]:
    if name in attack_classes:
        raise UsageError(f"attacks: {name!r} is the name of a class: give objects, such as attacks=[lu.{name}()]")
    is_path = "/" in name or name.endswith(CONFIG_ENDINGS)
    return attacks_of_config(name if is_path else f"attack/{name}")


def _class_of(name: str) -> type[UnlearnModule]:
    if _is_class_path(name):
        return _own_class("method", name, UnlearnModule)
    if name not in methods.__all__ or name == UnlearnModule.__name__:
        classes = [each for each in methods.__all__ if each != UnlearnModule.__name__]
        raise unknown("method", name, [*classes, *method_configs()])
    found: type[UnlearnModule] = getattr(methods, name)
    return found


def _is_class_path(name: str) -> bool:
    """Whether a name is an import path, such as ``smoothnoise.SmoothNoise``, and no file."""
    return "." in name and all(part.isidentifier() for part in name.split(".")) and not name.endswith(CONFIG_ENDINGS)


def _own_class(what: str, path: str, base: type[Own]) -> type[Own]:
    """A class of the user's own.

    Raises:
        UsageError: if it cannot be imported, or is of another kind.
    """
    try:
        found = find_class(path, base)
    except ModuleNotFoundError as error:
        raise UsageError(f"{what}: there is no module {error.name!r} (of {path})") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UsageError(f"{what}: {path} is no subclass of {base.__name__}")
    return found


def _own_attack(path: str) -> Attack:
    """An attack of the user's own, with its defaults."""
    kind: Callable[..., Attack] = _own_class("attacks", path, Attack)  # type: ignore[type-abstract]
    try:
        return kind()
    except TypeError as error:
        raise UsageError(f"attacks: {path} cannot be made without arguments ({error}): give an object") from error
