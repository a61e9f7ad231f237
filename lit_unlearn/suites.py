"""Suites of attacks by name, as the configs of ``attack/`` hold them."""

from collections.abc import Iterable, Mapping
from typing import Any

from jsonargparse import ArgumentParser

from lit_unlearn.attacks import Attack
from lit_unlearn.errors import UsageError
from lit_unlearn.shipped import read_config

SUITES = ("quick", "suite", "tuning")
"""Configs of ``attack/`` that name a suite."""


def attacks_of_config(name: str) -> tuple[list[Attack], str | None]:
    """The attacks of a config, each newly made, and the suite that they are.

    Args:
        name: a shipped config such as ``attack/quick``, or a file.

    Raises:
        UsageError: if there is no such config, or it names no attack.
    """
    settings = read_config(name)
    listed = (settings.get("trainer") or {}).get("callbacks")
    if not listed:
        raise UsageError(f"{name}: has no trainer.callbacks, so it names no attack")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--attacks", type=list[Attack])
    made: Any = parser.instantiate(parser.parse_object({"attacks": listed}))
    return made.attacks, _suite_in(settings)


def suite_of_config(name: str) -> str | None:
    """The suite that a config's attacks are, by name and version; None where it names none."""
    return _suite_in(read_config(name))


def suites_of_today() -> dict[str, str]:
    """Name and version of each suite that can be run today, such as ``quick 4`` → its shipped config."""
    found = {suite_of_config(f"attack/{name}"): f"attack/{name}" for name in SUITES}
    return {suite: config for suite, config in found.items() if suite is not None}


def config_of_suite(suite: str) -> str | None:
    """The shipped config whose attacks have this name and version; None where there is none of today's."""
    return suites_of_today().get(suite)


def lacks_of_suite(suite: str, callbacks: Iterable[Any]) -> list[str]:
    """The attacks of a suite that the callbacks of a run do not have, or have at other settings but for the seed.

    Args:
        suite: name and version.
        callbacks: as the parser of the command line has read them, each with class path and arguments.

    Returns:
        Their class names; none for a suite that is not one of today's.
    """
    config = config_of_suite(suite)
    if config is None:
        return []
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--attacks", type=list[Attack])
    wanted: Any = parser.parse_object({"attacks": read_config(config)["trainer"]["callbacks"]})
    there = [_setting(each) for each in callbacks if "class_path" in each]
    return [name for name, options in map(_setting, wanted.attacks) if (name, options) not in there]


def _setting(callback: Any) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of a callback in a config, without the seed."""
    options = callback.get("init_args") or {}
    plain = options.as_dict() if hasattr(options, "as_dict") else dict(options)
    return str(callback["class_path"]).rpartition(".")[2], {**plain, "seed": None}


def _suite_in(settings: Mapping[str, Any]) -> str | None:
    suite: str | None = (settings.get("evaluation") or {}).get("suite")
    return suite
