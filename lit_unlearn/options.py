"""Options of a method that are given from Python: whether it takes each, and of that type."""

from collections import abc
from collections.abc import Callable, Mapping
from inspect import Parameter, isclass, signature
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from lit_unlearn.errors import UsageError, unknown

_WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    NoneType: "None",
    list: "a list",
    dict: "a dictionary",
    abc.Callable: "a function, such as lambda parameters: torch.optim.SGD(parameters, lr=0.01)",
}


def check_names(make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuses an option that the method does not take.

    Args:
        make: the class, or a function that makes the method; one that takes any option gets any.
        options: by name.

    Raises:
        UsageError: naming the option, and the nearest that there is.
    """
    parameters = signature(make).parameters
    if any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values()):
        return
    for name in options:
        if name not in parameters:
            known = [each for each in parameters if each != "backbone"]
            raise unknown(f"option of {getattr(make, '__name__', 'the method')}", name, known)


def check_types(make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuses options of another type than the method's arguments have.

    Args:
        make: the class, or a function that makes the method.
        options: by name.

    Raises:
        UsageError: naming option, value and type.
    """
    try:
        hints = get_type_hints(make.__init__ if isclass(make) else make)
    except (NameError, TypeError):  # a method of the user's own, whose types cannot be found
        return
    for name, value in options.items():
        if name in hints and not _fits(value, hints[name]):
            words = " or ".join(dict.fromkeys(_words(hints[name])))
            method = getattr(make, "__name__", "the method")
            raise UsageError(f"option {name} of {method} is {value!r}, but must be {words}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type; what is neither plain nor a function is left to the method."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if kind in (float, int):
        return isinstance(value, Real if kind is float else Integral) and not isinstance(value, bool)
    if kind is list:
        return isinstance(value, list | tuple) and all(_fits(each, get_args(hint)[0]) for each in value)
    if kind is abc.Callable:
        return callable(value)
    return isinstance(value, kind) if kind in _WORDS else True


def _words(hint: Any) -> list[str]:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return [word for each in get_args(hint) for word in _words(each)]
    return [_WORDS[kind]] if kind in _WORDS else [f"one of {', '.join(map(repr, get_args(hint)))}"]
