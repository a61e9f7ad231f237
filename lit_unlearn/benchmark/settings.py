"""Settings as nested dictionaries: read from YAML files, laid over each other, looked up and put by dotted names."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_unlearn.errors import UsageError


def read_experiment(path: Path, data: Sequence[str] | None) -> dict[str, Any]:
    """The settings of an experiment, with the images of a data file in place of its own, where one is given.

    Raises:
        UsageError: if a file is missing, or the data file names no source.
    """
    settings = read_settings(path)
    for file in data or ():
        given = look_up(read_settings(Path(file)), "init_args") or {}
        if "source" not in given:
            raise UsageError(f"{file}: has no init_args.source, so it names no data")
        for name in ("source", "augment"):
            put(settings, f"data.init_args.{name}", given.get(name))
    return settings


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML file; where a value names another YAML file beside it, that file's stand in its place.

    Raises:
        UsageError: if a file is missing or is no mapping.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: must hold settings by name, not {type(settings).__name__}")
    inlined: dict[str, Any] = _inline(settings, path.parent)
    return inlined


def _inline(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {name: _inline(item, folder) for name, item in value.items()}
    if isinstance(value, str) and value.endswith(".yaml") and (folder / value).is_file():
        return read_settings(folder / value)
    # YAML 1.1 reads 1e-3 as text, where the command line reads a number.
    if isinstance(value, str) and "e-" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested settings in one, the second over the first; lists are replaced whole."""
    result = copy.deepcopy(dict(below))
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
