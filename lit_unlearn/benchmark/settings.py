"""Settings as nested dictionaries: merged on top of each other, looked up and put by dotted names.

OmegaConf would save the two last functions, about fifteen lines, and cost a dependency, conversions from and to its
own containers, and ``${…}`` read inside values; the rule for classes would still be ours.
"""

import copy
from collections.abc import Mapping
from typing import Any

_KEPT = ("backbone", "weights")
"""What a method takes over from the model of a base; of another class below it, nothing else."""


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested settings in one: the upper values count, lists are replaced, and so are options of another class."""
    result = copy.deepcopy(dict(below))
    if "class_path" in above and below.get("class_path", above["class_path"]) != above["class_path"]:
        options = result.get("init_args") or {}
        result["init_args"] = {name: options[name] for name in _KEPT if name in options}
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else copy.deepcopy(value)
    return result


def look_up(settings: Mapping[str, Any], place: str) -> Any:
    """One value of nested settings, by its dotted name; None where there is none."""
    value: Any = settings
    for name in place.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def put(settings: dict[str, Any], place: str, value: Any) -> None:
    """Sets one value of nested settings, by its dotted name."""
    *parents, last = place.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
    settings[last] = value
