"""A method with options that are given from Python: those that it takes, and those of a config of ``model/``."""

from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any, TypeGuard

from jsonargparse import ArgumentParser

from lit_unlearn import methods
from lit_unlearn.backbones import Backbone
from lit_unlearn.benchmark.search_space import variant_of
from lit_unlearn.benchmark.settings import put
from lit_unlearn.errors import UsageError
from lit_unlearn.explain import explain
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.options import check_names
from lit_unlearn.shipped import read_config, shipped_names

_FOLDER = "model/"


def method_configs() -> list[str]:
    """The names of the configs, such as ``opc_deep``."""
    return [name.removeprefix(_FOLDER) for name in shipped_names() if name.startswith(_FOLDER)]


def is_method_config(method: object) -> TypeGuard[str]:
    """Whether a method is the name of such a config, which has settings and a number of epochs."""
    return isinstance(method, str) and method in method_configs()


def method_of_config(
    name: str, backbone: Backbone, options: Mapping[str, Any], epochs: int | None
) -> tuple[UnlearnModule, dict[str, Any]]:
    """A method around a backbone, and what its config gives the Trainer.

    Args:
        name: one of :func:`method_configs`.
        backbone: the trained network.
        options: arguments of the method, in place of those of the config.
        epochs: in place of the config's; a schedule over the epochs ends with them. None keeps the config's.

    Raises:
        UsageError: if the method does not take an option, or a value.
    """
    settings = read_config(f"{_FOLDER}{name}")
    for place, value in variant_of(settings, {} if epochs is None else {"epochs": epochs}).items():
        put(settings, place, value)
    model = settings["model"]
    check_names(getattr(methods, model["class_path"]), options)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=UnlearnModule)
    given = {**model, "init_args": {**model.get("init_args", {}), **options, "backbone": backbone}}
    try:
        made: Any = parser.instantiate(parser.parse_object({"model": given}))
    except ArgumentError as error:
        raise UsageError(explain(error) or str(error)) from error
    return made.model, settings.get("trainer", {})
