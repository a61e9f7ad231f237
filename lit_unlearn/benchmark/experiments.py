"""Which experiments a grid has, and the settings of each: base, reference and what an experiments file adds.

An experiment is the composition that the command line reads as
``--config <base> --config model/<name> --config <experiments>#<section>``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_unlearn.benchmark.settings import look_up, merged
from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.shipped import is_config, read_config, shipped_names

PRETRAIN, RETRAIN = "pretrain", "retrain"
WEIGHTS_OF = {"model.init_args.weights": "the original", "evaluation.retrain": "Retrain"}
"""Where settings name the weights of a reference model, and of which."""

_REFERENCES = "model/"


class Experiments:
    """The experiments of an experiments file, or without one every reference file.

    Args:
        bases: scenario → base config.
        file: an experiments file; a section ``<scenario>/<name>`` counts before a section ``<name>``.

    Raises:
        UsageError: if the file cannot be read.
    """

    def __init__(self, bases: Mapping[str, str], file: str | None) -> None:
        self._bases = {scenario: read_config(base) for scenario, base in bases.items()}
        self._sections = {} if file is None else read_config(file)
        self._references = {name.removeprefix(_REFERENCES) for name in shipped_names() if name.startswith(_REFERENCES)}
        self._complete = file is not None

    def names(self, scenario: str) -> list[str]:
        """The experiments of a scenario, without the reference models."""
        if not self._complete:
            found = set(self._references)
        else:
            # A section that holds methods is a scenario, perhaps one that this grid has no base for.
            scenarios = {name for name, section in self._sections.items() if section.keys() & self._references}
            found = {*self._sections.get(scenario, {}), *(self._sections.keys() - self._bases.keys() - scenarios)}
        return sorted(found - {PRETRAIN, RETRAIN})

    def base(self, scenario: str) -> dict[str, Any]:
        """The settings of a base, as they stand."""
        return self._bases[scenario]

    def section(self, scenario: str, name: str) -> dict[str, Any]:
        """What the experiments file adds to base and reference."""
        found: dict[str, Any] = self._sections.get(scenario, {}).get(name, self._sections.get(name, {}))
        return found

    def settings(self, scenario: str, name: str, data: Sequence[str] | None = None) -> dict[str, Any]:
        """The settings of an experiment, on other images where a data config is given.

        Of the model of a base its backbone and weights count, where a reference names another. A config that the base
        names for its Retrain takes the place of ``model/retrain``, and of what the experiments file says of it, which
        may be made for other images.

        Raises:
            UsageError: if a config cannot be read, or one for Retrain is of another method.
        """
        settings = self._bases[scenario]
        retrain = look_up(settings, "evaluation.retrain")
        if name == RETRAIN and retrain is not None and is_config(retrain):
            settings = merged(_bare(settings), _recipe(retrain))
        else:
            if name in self._references:
                settings = merged(_bare(settings), read_config(f"{_REFERENCES}{name}"))
            settings = merged(settings, self.section(scenario, name))
        for config in data or ():
            settings = merged(settings, _images(config))
        return settings


def chosen(what: str, wanted: Sequence[str] | None, found: Sequence[str]) -> list[str]:
    """The names that are wanted, all for None.

    Raises:
        UsageError: for a name that is not there.
    """
    for name in wanted or ():
        if name not in found:
            raise unknown(what, name, found)
    return list(found) if wanted is None else list(wanted)


def data_names(data: Sequence[str]) -> list[str]:
    """The name of each data config: that of its file.

    Raises:
        UsageError: if two have one name, or there is none.
    """
    names = [Path(config).stem for config in data]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"grid.data is {list(data)}, but must name at least one config, and each name once")
    return names


def _bare(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without a method: the model's backbone and weights alone."""
    return merged(settings, {"model": {"class_path": ""}}) if "model" in settings else dict(settings)


def _recipe(config: str) -> dict[str, Any]:
    """How Retrain is trained: model and trainer of the config that a base names for it."""
    try:
        own = merged({"model": {"class_path": "Retrain"}}, read_config(config))
    except UsageError as error:
        raise UsageError(f"evaluation.retrain: {error}") from error
    if (method := str(own["model"]["class_path"]).rpartition(".")[2]) != "Retrain":
        raise UsageError(f"evaluation.retrain: {config} is of {method}, but must be of Retrain")
    trainer = {name: value for name, value in own.get("trainer", {}).items() if name != "callbacks"}
    return {"model": own["model"], "trainer": trainer}


def _images(config: str) -> dict[str, Any]:
    """Images and augmentation of a data config; what is forgotten and the batch size stay the base's."""
    given = look_up(read_config(config), "data.init_args") or {}
    if "source" not in given:
        raise UsageError(f"{config}: has no data.init_args.source, so it names no data")
    return {"data": {"init_args": {"source": given["source"], "augment": given.get("augment")}}}
