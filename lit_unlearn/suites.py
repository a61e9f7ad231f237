"""Suites of attacks by name, as the configs of ``attack/`` hold them."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from lit_unlearn.attacks import Attack
from lit_unlearn.errors import UsageError
from lit_unlearn.shipped import read_config


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


def _suite_in(settings: Mapping[str, Any]) -> str | None:
    suite: str | None = (settings.get("evaluation") or {}).get("suite")
    return suite
