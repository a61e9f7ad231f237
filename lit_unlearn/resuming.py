"""A run goes on with the settings that it began with: each checkpoint to resume from holds them.

Otherwise Lightning would restore the old ones from the checkpoint, while config and row would name the new ones.
"""

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer, callbacks
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lit_unlearn.attacks import Attack
from lit_unlearn.data.sources import without_options
from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.files import write_atomically
from lit_unlearn.parsing import as_list

Settings = dict[str, dict[str, Any]]
"""Kind → option → value, in JSON's own types; what is null is left out."""

KEY = "lit_unlearn_settings"
"""Where a checkpoint holds them."""

_RUN, _COSMETIC = "run", "cosmetic"
_OPTIONS = {
    "epochs": tuple(f"trainer.{name}" for name in ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")),
    "devices": tuple(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy")),
    "loggers": tuple(f"trainer.{name}" for name in ("logger", "default_root_dir", "log_every_n_steps")),
    "attacks": ("evaluation", "report"),
    _COSMETIC: (
        *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler"),
        *("config", "ckpt_path", "resume", "verbose", "weights_only"),
    ),
}
_CALLBACKS: dict[str, tuple[type, ...]] = {
    "loggers": (
        *(callbacks.Checkpoint, callbacks.LearningRateMonitor, callbacks.DeviceStatsMonitor),
        callbacks.ThroughputMonitor,
    ),
    "attacks": (Attack,),
    _COSMETIC: (callbacks.ProgressBar, callbacks.ModelSummary),
}
HARMLESS = tuple(kind for kind in _OPTIONS if kind != _COSMETIC)
"""The kinds of settings that a resumed run may change, if it is asked to."""

_SHOWN = 3


class SaveSettings(SaveConfigCallback):
    """Writes ``config.yaml``, whole or not at all, and puts the settings into each checkpoint to resume from.

    Args:
        parser: of the subcommand.
        config: what was parsed.
        settings: of :func:`settings_by_kind`.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, settings: Settings) -> None:
        super().__init__(parser, config)
        self.settings = settings

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the config, once."""
        del pl_module, stage
        folder = trainer.log_dir  # asks rank 0
        assert folder is not None
        if trainer.is_global_zero and not self.already_saved:
            write_atomically(Path(folder) / self.config_filename, self.parser.dump(self.config, skip_unset=False))
        self.already_saved = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the settings."""
        del trainer, pl_module
        checkpoint[KEY] = self.settings


def settings_by_kind(parser: LightningArgumentParser, config: Namespace) -> Settings:
    """The settings of a run as they were given, each under the kind that ``--resume.allow`` names, or under ``run``.

    Names are those of the command line: ``model.optimizer.lr``, and ``trainer.callbacks.HeadRecovery.ridge``. The
    options of the source are left out: they may hold keys, and others may read the same images.
    """
    settings = without_options(json.loads(parser.dump(config, format="json")))
    given = (settings.get("trainer") or {}).pop("callbacks", None)
    found: Settings = {_RUN: {}, **{kind: {} for kind in _OPTIONS}}
    for option, value in _flat(settings, ""):
        found[_kind(option)][option] = value
    seen: Counter[str] = Counter()
    for callback in as_list(given):
        name = str(callback["class_path"]).rpartition(".")[2]
        seen[name] += 1
        place = f"trainer.callbacks.{name}" + (f"#{seen[name]}" if seen[name] > 1 else "")
        found[_kind_of_callback(callback["class_path"])].update(_flat(callback, place))
    del found[_COSMETIC]
    return found


def check_allowed(names: str | Sequence[str]) -> list[str]:
    """The kinds that ``--resume.allow`` names, one or several.

    Raises:
        UsageError: for an unknown one.
    """
    kinds = [names] if isinstance(names, str) else list(names)
    for kind in kinds:
        if kind not in HARMLESS:
            raise unknown("kind of settings in resume.allow:", kind, HARMLESS)
    return kinds


def check_resumed(path: str | Path, held: Mapping[str, Any], settings: Settings, allowed: Collection[str]) -> None:
    """Refuses to resume with other settings than those of the run that made the checkpoint.

    A checkpoint that a run from Python made holds none, and resumes.

    Args:
        path: of the checkpoint.
        held: what it holds.
        settings: of the run that is to resume.
        allowed: kinds that may differ.

    Raises:
        UsageError: naming the options, each with both values.
    """
    if not isinstance(made := held.get(KEY), Mapping):
        return
    found = []
    for kind in (_RUN, *HARMLESS):
        was, now = made.get(kind, {}), settings[kind]
        options = sorted(option for option in {*was, *now} if was.get(option) != now.get(option))
        found += [(kind, f"{name}: was {_text(was.get(name))}, now {_text(now.get(name))}") for name in options]
    refused = [line for kind, line in found if kind not in allowed]
    if refused:
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in found))
        harmless = (
            "" if any(kind == _RUN for kind, _ in found) else f", or allow the new ones: --resume.allow '[{kinds}]'"
        )
        raise UsageError(
            f"ckpt_path: {path} is of a run with other settings: {'; '.join(refused[:_SHOWN])}{more} "
            f"(resume with the old ones{harmless})"
        )


def seed_of(held: Mapping[str, Any]) -> int | None:
    """The seed that the run of a checkpoint had drawn or was given."""
    seed = held.get(KEY, {}).get(_RUN, {}).get("seed_everything")
    return seed if isinstance(seed, int) else None


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values in nested settings by option; a class is the value of the option that names it."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        if key == "class_path":
            yield name, _class_name(item)
        else:
            yield from _flat(item, name if key in ("init_args", "dict_kwargs") else f"{name}.{key}".lstrip("."))


def _kind(option: str) -> str:
    matches = (kind for kind, names in _OPTIONS.items() if f"{option}.".startswith(tuple(f"{n}." for n in names)))
    return next(matches, _RUN)


def _kind_of_callback(class_path: str) -> str:
    found = _class(class_path)
    kinds = (kind for kind, classes in _CALLBACKS.items() if found is not None and issubclass(found, classes))
    return next(kinds, _RUN)


def _class(class_path: str) -> type | None:
    """The class of that path, which the parser has imported."""
    module, _, name = str(class_path).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _class_name(class_path: str) -> str:
    """The one name of a class that may be imported from several places."""
    found = _class(class_path)
    return class_path if found is None else f"{found.__module__}.{found.__qualname__}"


def _text(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
