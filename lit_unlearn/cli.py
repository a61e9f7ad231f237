"""The command line: Lightning's, with unlearning methods as models and attacks as callbacks.

``lit-unlearn fit`` unlearns, attacks and reports; ``validate`` attacks and reports; ``test`` scores the four splits alone.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import set_parsing_settings
from lightning.pytorch import seed_everything
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_unlearn import __version__, attacks, backbones, data, methods
from lit_unlearn.attacks import Evaluation
from lit_unlearn.backbones.weights import check_checkpoint
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.reports.report import CHECKPOINT, Report

_ROOMS = {
    "model": (methods, UnlearnModule),
    "backbone": (backbones, backbones.Backbone),
    "data": (data, UnlearnDataModule),
    "source": (data, data.Source),
    "callbacks": (attacks, attacks.Attack),
}
_RESUME_WORDS = ("last", "best", "hpc", "registry")
_TRAINER_DEFAULTS = {
    "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": None}},
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}


class UnlearnCLI(LightningCLI):
    """LightningCLI with the evaluation and the report in every run, and run directories named after the method."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--evaluation.…`` and ``--report.…``."""
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Report, "report")
        parser.set_defaults({"data": {"class_path": "lit_unlearn.data.UnlearnDataModule"}})

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without ``predict``: there is nothing to predict with."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, and looks at the checkpoint before anything is read from it.

        Raises:
            UsageError: if ``ckpt_path`` is no file, is corrupt, or holds more than plain weights.
        """
        super().parse_arguments(parser, args)
        path = self._settings().get("ckpt_path")
        if path and str(path) not in _RESUME_WORDS and "://" not in str(path):
            check_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Names the run directory after the method, and trains the Retrain yardstick if a config was given for it."""
        settings = self._settings()
        logger = settings.trainer.logger
        if hasattr(logger, "get") and str(logger.get("class_path", "")).endswith(".CSVLogger") and not logger.init_args.name:
            logger.init_args.name = settings.model.class_path.rpartition(".")[2]
        retrain = settings.evaluation.retrain
        if self.subcommand == "fit" and str(retrain).endswith((".yaml", ".yml")):
            settings.evaluation.retrain = str(train_yardstick(str(retrain), settings.data.as_dict()))
            seed_everything(int(os.environ["PL_GLOBAL_SEED"]))

    def _settings(self):  # type: ignore[no-untyped-def]
        return self.config[self.config["subcommand"]]


def run(args: ArgsType = None) -> UnlearnCLI:
    """Runs one subcommand, as :func:`main` does, but lets errors through."""
    set_parsing_settings(add_print_completion_argument=True)
    parser = {"exit_on_error": False}
    return UnlearnCLI(
        UnlearnModule,
        UnlearnDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_defaults=_TRAINER_DEFAULTS,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "prog": "lit-unlearn",
            "description": "Make a trained image classifier forget, attack the result, and say whether it forgot.",
            "version": __version__,
            **parser,
            **{name: dict(parser) for name in UnlearnCLI.subcommands()},
        },
        args=args,
    )


def train_yardstick(config: str, data_settings: dict[str, object]) -> Path:
    """Trains a Retrain for exactly this data and split, by a config of its own.

    Args:
        config: an experiment file of :class:`~lit_unlearn.methods.Retrain`; its data is replaced.
        data_settings: class path and arguments of the data module.

    Returns:
        The checkpoint.

    Raises:
        UsageError: if the config is not there, or trains something else than Retrain.
    """
    if not Path(config).is_file():
        raise UsageError(f"evaluation.retrain names the config {config!r}, but there is no such file")
    cli = run(["fit", "--config", config, f"--data={json.dumps(data_settings, default=str)}"])
    report = next(callback for callback in cli.trainer.callbacks if isinstance(callback, Report))  # type: ignore[attr-defined]
    if type(cli.model) is not methods.Retrain or report.directory is None:
        raise UsageError(f"evaluation.retrain: {config} trains {type(cli.model).__name__}, but must train Retrain")
    return report.directory / CHECKPOINT


def main(args: ArgsType = None) -> None:
    """The console script: one clear line and a non-zero status for whatever the user got wrong."""
    try:
        run(args)
    except SIGTERMException:
        sys.exit(143)
    except (UsageError, argparse.ArgumentError, ValueError, TypeError, OSError) as error:
        line = explain(error)
        if line is None:
            raise
        print(f"lit-unlearn: error: {line}", file=sys.stderr)
        sys.exit(2)


def explain(error: BaseException) -> str | None:
    """One line for an error that the user can mend; None for one that is ours."""
    for link in _chain(error):
        if isinstance(link, UsageError):
            return str(link)
    if isinstance(error, argparse.ArgumentError):
        return _explain_parsing(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain_parsing(message: str) -> str:
    keys = re.findall(r'[Kk]ey "([\w.]+)"', message)
    key = ".".join(dict.fromkeys(keys))
    if match := re.search(r"Expected a dot import path string: (\S+)", message):
        return f"{key}: {unknown('class', match[1], _class_names(key.rpartition('.')[2]))}"
    if match := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        return f"{key}: {match[1].rpartition('.')[2]} has no option {match[2]!r}"
    if match := re.search(r"Given value: (?:NestedArg\(.*?, val='(.*)'\)|(.*))", message):
        expected = dict.fromkeys(re.findall(r"Expected an? (?:<class '([^']+)'>|(?:typing\.)?(\w+\[.*?\]))", message))
        allowed = " or ".join("null" if name == "NoneType" else name for pair in expected for name in pair if name)
        return f"{key}: {match[1] or match[2]!r} is not accepted; expected {allowed or 'another value'}"
    return " ".join(message.split())


def _class_names(key: str) -> list[str]:
    """The classes of ours that may stand at a key of the configuration."""
    if key not in _ROOMS:
        return []
    room, base = _ROOMS[key]
    classes = [getattr(room, name) for name in room.__all__]
    return [c.__name__ for c in classes if isinstance(c, type) and issubclass(c, base) and c is not UnlearnModule]
