"""A later forget rule replaces an earlier one whole, and a text as the rule is an index file.

The parser would merge them: a share that comes after classes would mean a share of these classes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from jsonargparse import get_loader

from lit_unlearn.shipped import CONFIG_OPTIONS, read_config

_RULE = "data.forget"
_SUBCOMMANDS = ("fit", "validate", "test")


def with_whole_rules(args: Sequence[str]) -> list[str]:
    """The words of a command line, with a word that clears the rule before each rule but the first.

    Rules are values of ``--data.forget`` and of ``data.forget`` in configs, in every form that the parser takes.
    Single options, such as ``--data.forget.fraction``, add to the rule before them.

    Args:
        args: words with the paths or the texts of configs.

    Raises:
        UsageError: for a config that cannot be read, or is no mapping.
    """
    words: list[str] = []
    given = False
    for option, value, as_given in _options(args):
        subcommand, name = _plain_name(option)
        if value is None or not (option in CONFIG_OPTIONS or name in ("data", _RULE) or name.startswith(f"{_RULE}.")):
            words += as_given
            continue
        if name.startswith(f"{_RULE}."):
            words += _nulled(subcommand, name, value) or as_given
            given = True
            continue
        settings = _config(value) if option in CONFIG_OPTIONS else _nested(name, _loaded(value))
        rules = [(place, holder) for place, holder in _holders(settings) if holder["forget"] is not None]
        if given:
            words += [f"--{subcommand}{place}{_RULE}=null" for place, _ in rules]
        given = given or bool(rules)
        texts = [holder for _, holder in rules if isinstance(holder["forget"], str)]
        for holder in texts:
            holder["forget"] = {"index_file": holder["forget"]}
        content = settings if option in CONFIG_OPTIONS else _inner(name, settings)
        words += [option, json.dumps(content)] if texts else as_given
    return words


def _options(args: Sequence[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Each option with its value and the words that it was given by; a word without a value alone."""
    rest = list(args)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if equals:
            yield option, value, [word]
        elif word.startswith("-") and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
            yield word, value, [word, value]
        else:
            yield word, None, [word]


def _plain_name(option: str) -> tuple[str, str]:
    """The subcommand before an option's name, with its dot, and the name without it and without ``init_args``."""
    name = option.removeprefix("--").replace(".init_args", "")
    first, _, rest = name.partition(".")
    return (f"{first}.", rest) if first in _SUBCOMMANDS else ("", name)


def _config(value: str) -> Any:
    """The settings in a config, which is a path or a text."""
    return _loaded(value) if value.lstrip().startswith("{") else read_config(value)


def _loaded(value: str) -> Any:
    """A value as the parser reads it; one that is no YAML is a text."""
    try:
        return get_loader("yaml")(value)
    except yaml.YAMLError:
        return value


def _nulled(subcommand: str, name: str, value: str) -> list[str] | None:
    """One option of a rule set to null, as the part of a rule: alone the parser takes it for a text."""
    if _loaded(value) is not None:
        return None
    return [f"--{subcommand}{_RULE}", json.dumps({name.removeprefix(f"{_RULE}."): None})]


def _nested(name: str, value: Any) -> dict[str, Any]:
    """The value of ``data`` or ``data.forget`` as a config would have it."""
    return {"data": value if name == "data" else {"forget": value}}


def _inner(name: str, settings: dict[str, Any]) -> Any:
    """The inverse of :func:`_nested`."""
    return settings["data"] if name == "data" else settings["data"]["forget"]


def _holders(settings: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The mappings in settings that hold a rule, each with the subcommand, and its dot, that they stand below."""
    if not isinstance(settings, dict):
        return
    if not place:
        for subcommand in _SUBCOMMANDS:
            yield from _holders(settings.get(subcommand), f"{subcommand}.")
    data = settings.get("data")
    if isinstance(data, dict):
        for holder in (data, data.get("init_args")):
            if isinstance(holder, dict) and "forget" in holder:
                yield place, holder
