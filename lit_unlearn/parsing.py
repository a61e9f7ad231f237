"""The parsers of commands that are not Lightning's, and what any parser says of an option that it does not know."""

import argparse
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentParser

from lit_unlearn.errors import UsageError, unknown


def as_list(given: Any) -> list[Any]:
    """An option such as ``trainer.callbacks``, which takes one object or several, as a list; null is none."""
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


class Parser(ArgumentParser):
    """The parser of a command: options go by their full names, and an error is raised.

    Args:
        command: its words after ``lit-unlearn``; none for a parser within another.
        description: what the command does.
        **options: of any parser; jsonargparse makes parsers of the same class for the values of options.
    """

    def __init__(self, command: str = "", description: str | None = None, **options: Any) -> None:
        named = {"prog": f"lit-unlearn {command}"} if command else {}
        ours = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(**{"description": description, **named, **ours, **options})
        self._is_outermost = bool(command)

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """Parses as usual.

        Raises:
            UsageError: for an option that there is not, with those that there are; and where a word is missing.
        """
        if not self._is_outermost:
            return super().parse_args(*args, **options)
        words = {action.dest for action in self._actions if not action.option_strings}
        try:
            with known_options(self):
                return super().parse_args(*args, **options)
        except argparse.ArgumentError as error:
            match = re.fullmatch(r"the following arguments are required: ([\w., ]+)", str(error))
            missing = match[1].split(", ") if match else []
            if words.isdisjoint(missing):
                raise
            raise UsageError(lacking(missing, words)) from error


def lacking(names: Sequence[str], words: Collection[str] = ()) -> str:
    """What is missing on a command line, and how each is given.

    Args:
        names: of what is missing.
        words: of what is given as a word, without the name of an option.
    """
    given = [name.upper() if name in words else f"--{name}" for name in names]
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing: give {' '.join(given)}"


@contextmanager
def known_options(parser: ArgumentParser) -> Iterator[None]:
    """Names the options that a parser or its subcommands take, where the block meets one that none of them takes.

    Raises:
        UsageError: for an option that is none of theirs and not below one of theirs.
    """
    try:
        yield
    except argparse.ArgumentError as error:
        names = {name for name in _option_strings(parser) if not {".", "+"} & set(name)}
        match = re.match(r"unrecognized arguments: (--[\w-]+)(.?)", str(error))
        if match is None or match[1] in names:
            raise
        raise unknown("option", match[1], names) from error


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                yield from _option_strings(own)
        yield from (name for name in action.option_strings if name.startswith("--"))
