"""What goes wrong because of what the user asked for, said in one line."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake in what the user asked for: the command line prints its one line and exits with status 2."""


def printable(text: str) -> str:
    """Text whose control characters, but for line breaks, are spelled out, since a terminal would obey them."""
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


def unknown(what: str, value: object, allowed: Iterable[object]) -> UsageError:
    """An error for a name that is not among the allowed ones, with near matches.

    Args:
        what: the kind of thing that was asked for, such as ``"class"``.
        value: what was given.
        allowed: what would have been accepted; long lists are cut.
    """
    names = sorted({str(name) for name in allowed})
    folded = {name.lower(): name for name in names}
    near = [folded[match] for match in difflib.get_close_matches(str(value).lower(), list(folded), n=3, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    shown = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    return UsageError(f"unknown {what} {str(value)!r}{hint} (allowed: {shown or 'none'})")
