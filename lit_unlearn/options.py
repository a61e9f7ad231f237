"""Arguments that are given from Python, where no parser has checked them: whether each is taken, and of its type."""

from collections import abc
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, isabstract, isclass, signature
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from lit_unlearn.errors import UsageError, shown, unknown

_WORDS = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    NoneType: "None",
    dict: "a dictionary",
    abc.Callable: "a function, such as lambda parameters: torch.optim.SGD(parameters, lr=0.01)",
}

_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_PLURALS = {float: "numbers", int: "whole numbers", str: "texts"}


def check_names(make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuses an option that the method does not take.

    Args:
        make: the class, or a function that makes the method; one that takes any option gets any.
        options: by name.

    Raises:
        UsageError: naming the option, and the nearest that there is.
    """
    parameters = signature(make).parameters
    known = [each for each in parameters if each != "backbone"]
    takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
    for name in options:
        if name not in known and (name == "backbone" or not takes_any):
            raise unknown(f"option of {getattr(make, '__name__', 'the method')}", name, known)


class TypedOptions:
    """Base of classes that a user makes from Python, too: every argument must be of its type.

    Attributes:
        checks_itself: arguments that a call from Python may give as more than the command line can.

    Raises:
        UsageError: naming option, value and type.
    """

    checks_itself: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *given: Any, **options: Any) -> Self:
        """Checks the arguments of ``__init__``; a copy is made without any."""
        try:
            bound = signature(cls).bind_partial(*given, **options)
        except TypeError:  # an argument that there is not: __init__ says so
            return super().__new__(cls)
        for name, value in bound.arguments.items():
            parameter = bound.signature.parameters[name]
            is_default = parameter.default is value  # a parser gives it, too, whatever its type
            if not is_default and name not in cls.checks_itself and parameter.kind not in _REST:
                _check_type(cls, name, value)
        return super().__new__(cls)


def _check_type(kind: type, name: str, value: object) -> None:
    """Refuses an argument of a class that is of another type than the class says."""
    try:
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    except (NameError, TypeError):  # a class of the user's own, whose types cannot be found
        return
    if name in hints and not _fits(value, hints[name]):
        words = " or ".join(dict.fromkeys(_words(hints[name])))
        raise UsageError(f"option {name} of {kind.__name__} is {shown(value)}, but must be {words}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type; abstract classes and what is neither class nor function are left to the caller."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if kind in (float, int):
        return isinstance(value, Real if kind is float else Integral) and not isinstance(value, bool)
    if kind in (list, abc.Sequence):
        listed = isinstance(value, list | tuple if kind is list else Iterable) and not isinstance(value, str | Mapping)
        return listed and all(
            _fits(each, inner) for inner in get_args(hint)[:1] if isinstance(value, list | tuple) for each in value
        )
    if kind is abc.Callable:
        return callable(value)
    if kind is str:
        return isinstance(value, str | PathLike)  # a folder is given as either
    return isinstance(value, kind) if _is_plain(kind) else True


def _words(hint: Any) -> list[str]:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return [word for each in get_args(hint) for word in _words(each)]
    if kind in (list, abc.Sequence):
        return [f"a list of {_PLURALS[each]}" if (each := (get_args(hint) or (None,))[0]) in _PLURALS else "a list"]
    if kind in _WORDS:
        return [_WORDS[kind]]
    return [f"of class {kind.__name__}"] if _is_plain(kind) else [f"one of {', '.join(map(repr, get_args(hint)))}"]


def _is_plain(kind: Any) -> bool:
    """Whether what fits a type is an instance of it: of abstract classes and protocols others may fit, too."""
    return kind is not Any and isclass(kind) and not isabstract(kind) and not getattr(kind, "_is_protocol", False)
