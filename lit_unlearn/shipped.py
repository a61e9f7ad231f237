"""What comes with the package: its configs and its weights, found by name wherever the package is installed.

In a wheel both folders lie inside the package, in a clone beside it. A config is named by its path below ``configs/``,
with or without ``.yaml``; ``#`` and a path of keys select one section of a file: ``tuned/digits#class/salun``.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from lit_unlearn.errors import UsageError, check_no_folder, unknown

CONFIG_OPTIONS = ("--config", "-c")
"""The options of the command line that take a config."""

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


CONFIGS: Path = _folder("configs")
CONFIG_ENDINGS = (".yaml", ".yml")
"""The folder of the shipped configs."""

CHECKPOINTS: Path = _folder("checkpoints")
"""The folder with ``manifest.json`` and the shipped weights."""


MANIFEST_FORMAT = 1


def manifest() -> dict[str, dict[str, Any]]:
    """The manifest's entries by name; none if there is no manifest."""
    path = CHECKPOINTS / "manifest.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != MANIFEST_FORMAT:
            raise UsageError(f"{path}: format {content['format']}, but this version reads format {MANIFEST_FORMAT}")
        return {str(name): {"file": entry["file"], **entry} for name, entry in content["weights"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: not a manifest of weights ({type(error).__name__}: {error})") from error


def is_own(weights: str | Path) -> bool:
    """Whether weights are the user's own, as opposed to a name in the manifest; a file goes before a name."""
    return Path(weights).expanduser().is_file() or str(weights) not in manifest()


def shipped_names() -> list[str]:
    """The names of all shipped configs."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def shipped_config(name: str | Path) -> Path:
    """The file of a config: an existing file, or else the shipped config of that name.

    Raises:
        UsageError: if it is neither, with the nearest names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    names = shipped_names()
    key = str(name).removesuffix(".yaml")
    if key not in names:
        check_no_folder("config", name)
        raise unknown("config, neither a file nor the name of a shipped config:", name, names)
    return CONFIGS / f"{key}.yaml"


def is_config(name: str | Path) -> bool:
    """Whether a name means a config, as opposed to weights: by its ending, by a section, or as a shipped config."""
    if (path := Path(name)).is_file():
        return path.suffix in CONFIG_ENDINGS
    file, _, section = str(name).partition("#")
    return bool(section) or file.endswith(CONFIG_ENDINGS) or file in shipped_names()


def read_config(name: str | Path) -> dict[str, Any]:
    """The settings of a config, or of the section that the name selects.

    Raises:
        UsageError: if there is no such config or section, or it is empty or no mapping.
    """
    file, section = _split(name)
    path = shipped_config(file)
    settings = _loaded(path)
    for key in section.split("/") if section else ():
        if not isinstance(settings, Mapping) or key not in settings:
            raise unknown(f"section of {path}:", key, settings if isinstance(settings, Mapping) else ())
        settings = settings[key]
    if settings is None:
        raise UsageError(f"{name}: is empty, but must hold settings by name")
    if not isinstance(settings, dict):
        raise UsageError(f"{name}: must hold settings by name, not {type(settings).__name__}")
    return settings


def _loaded(path: Path) -> Any:
    """What a config holds.

    Raises:
        UsageError: if it cannot be read, is no YAML, or names a setting twice, of which YAML would keep the last.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_once(str(path), yaml.compose(text, Loader=yaml.SafeLoader), set())
        return get_loader("yaml")(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error


def _check_once(where: str, node: yaml.Node | None, seen: set[int]) -> None:
    """Looks through a node and those below it, each once: an alias may lead back."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            place, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if place in lines and key.tag != "tag:yaml.org,2002:merge":
                raise UsageError(
                    f"{where}: {key.value!r} is given twice (lines {lines[place]} and {line}): give it once"
                )
            lines[place] = line
            _check_once(where, value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_once(where, value, seen)


def with_configs(args: Sequence[str]) -> list[str]:
    """The words of a command line, with a path, or a section's text, in place of each name after ``--config``.

    Raises:
        UsageError: as :func:`read_config` does.
    """
    words: list[str] = []
    for word in args:
        option, equals, value = word.partition("=")
        if words and words[-1] in CONFIG_OPTIONS:
            words.append(_located(word))
        elif equals and option in CONFIG_OPTIONS:
            words.append(f"{option}={_located(value)}")
        else:
            words.append(word)
    return words


def _located(name: str) -> str:
    if name.lstrip().startswith("{"):  # the text of a config, which the parser takes as well
        with suppress(yaml.YAMLError):  # the parser says what is wrong with it
            _check_once("--config", yaml.compose(name, Loader=yaml.SafeLoader), set())
        return name
    file, section = _split(name)
    if section:
        return json.dumps(read_config(name))
    _loaded(path := shipped_config(file))
    return str(path)


def _split(name: str | Path) -> tuple[str, str]:
    """File and section; a file whose own name has a ``#`` goes first."""
    if Path(name).expanduser().is_file():
        return str(name), ""
    file, _, section = str(name).partition("#")
    return file, section
