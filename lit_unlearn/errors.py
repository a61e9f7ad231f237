"""What goes wrong because of what the user asked for, said in one line."""

import difflib
import math
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from textwrap import shorten

ROUNDED = 1e-6
"""How far above 1 a sum may leave an accuracy or an AUC, in an attack of a user's own and in its row."""

_SHOWN = 200

RAISED = "it raised "
"""How the reason begins of an attack that has no numbers because it raised an error."""


class UsageError(ValueError):
    """A mistake in what the user asked for: the command line prints its one line and exits with status 2."""


def printable(text: str) -> str:
    """Text whose control characters, but for line breaks, are spelled out, since a terminal would obey them."""
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """A value as Python writes it, in one line that is cut: a network or a tensor would fill the screen."""
    return shorten(repr(value), _SHOWN, placeholder=" …")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the kind of error if it has no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(value: object, names: Iterable[object]) -> str:
    """A question that offers the names nearest to a wrong one, or an empty text where none is near."""
    folded: dict[str, list[str]] = {}
    for name in dict.fromkeys(map(str, names)):
        folded.setdefault(name.lower(), []).append(name)
    matches = difflib.get_close_matches(str(value).lower(), list(folded), n=3, cutoff=0.5)
    near = [name for match in matches for name in folded[match]]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def unknown(what: str, value: object, allowed: Iterable[object]) -> UsageError:
    """An error for a name that is not among the allowed ones, with near matches.

    Args:
        what: the kind of thing that was asked for, such as ``"class"``.
        value: what was given.
        allowed: what would have been accepted; long lists are cut.
    """
    names = sorted({str(name) for name in allowed})
    shown = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    return UsageError(f"unknown {what} {str(value)!r}{nearest(value, names)} (allowed: {shown or 'none'})")


def check_no_folder(option: str, given: object) -> None:
    """Refuses a folder where a file must be named.

    Args:
        option: as the user knows it.
        given: what was given.

    Raises:
        UsageError: naming the option and the folder.
    """
    if isinstance(given, str | Path) and Path(given).expanduser().is_dir():
        raise UsageError(f"{option}: {given} is a folder: name a file")


def check_at_least(name: str, value: float, low: float, strict: bool = False) -> None:
    """Refuses a number that is below its range, infinite or NaN.

    Args:
        name: of the option, as the user knows it.
        value: what was given.
        low: the bound.
        strict: whether the bound itself is too low.

    Raises:
        UsageError: naming the option, the value and the bound.
    """
    if not (value > low if strict else value >= low) or math.isinf(value):
        finite = "finite and " if math.isinf(value) else ""
        raise UsageError(f"{name} is {value}, but must be {finite}{'above' if strict else 'at least'} {low:g}")


def check_fraction(name: str, value: float, zero: bool = False, one: bool = False) -> None:
    """Refuses a number outside (0, 1), or NaN.

    Args:
        name: of the option, as the user knows it.
        value: what was given.
        zero: whether 0 is allowed.
        one: whether 1 is allowed.

    Raises:
        UsageError: naming the option, the value and the bounds.
    """
    if not (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
        raise UsageError(f"{name} is {value}, but must lie in {'[' if zero else '('}0, 1{']' if one else ')'}")


def check_whole(name: str, value: object) -> int:
    """Refuses what is no whole number.

    Args:
        name: of the option, as the user knows it.
        value: what was given.

    Returns:
        The number as Python's own.

    Raises:
        UsageError: naming the option and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name} is {shown(value)}, but must be a whole number")
    return int(value)


def check_seed(name: str, value: object) -> None:
    """Refuses a seed that one of the sources of chance cannot take.

    Args:
        name: of the option, as the user knows it.
        value: what was given.

    Raises:
        UsageError: naming the option, the value and the bounds.
    """
    if not 0 <= check_whole(name, value) < 2**32:
        raise UsageError(f"{name} is {value}, but must lie in 0 to {2**32 - 1}")
