"""The command line: Lightning's, with unlearning methods as models and attacks as callbacks.

``lit-unlearn fit`` unlearns, attacks and reports; ``validate`` attacks and reports; ``test`` scores the four splits.
``benchmark``, ``tune``, ``report`` and ``export``, which need no model, have parsers of their own.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from lit_unlearn import __version__, methods
from lit_unlearn.attacks import Evaluation
from lit_unlearn.backbones.weights import check_checkpoint
from lit_unlearn.benchmark.command import benchmark, report, tune
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError, printable, unknown
from lit_unlearn.explain import explain
from lit_unlearn.exporting import export
from lit_unlearn.files import DISK_FULL, of_file
from lit_unlearn.forget_rule import with_whole_rules
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.quiet import leave_out_known_lines
from lit_unlearn.reports.report import CHECKPOINT, Report, report_of
from lit_unlearn.reports.run_directory import free_root
from lit_unlearn.resuming import HARMLESS, SaveSettings, check_allowed, check_resumed, seed_of, settings_by_kind
from lit_unlearn.retraining import retrained
from lit_unlearn.shipped import is_config, with_configs

_NAMED_LOGGERS = (".CSVLogger", ".TensorBoardLogger")
_LIGHTNINGS_WORDS = ("best", "hpc", "registry")
_TRAINER_DEFAULTS = {
    "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": None}},
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}


class UnlearnCLI(LightningCLI):
    """LightningCLI with the evaluation and the report in every run, and run directories named after the method."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--evaluation.…``, ``--report.…``, ``--compile`` and ``--resume.allow``."""
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Report, "report")
        parser.add_argument(
            "--compile",
            type=bool | str,
            default=False,
            help="whether training passes of fit run compiled: true, or the name of a backend of torch.compile",
        )
        parser.add_argument(
            "--resume.allow",
            type=list[str] | str,
            default=[],
            help=f"kinds of settings that fit --ckpt_path may change: {', '.join(HARMLESS)}",
        )
        parser.set_defaults({"data": {"class_path": "lit_unlearn.data.UnlearnDataModule"}})

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without ``predict``: there is nothing to predict with."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, finds the checkpoint that ``last`` means, and checks a checkpoint before anything is read from it.

        Raises:
            UsageError: if ``ckpt_path`` is no file, is corrupt, holds more than plain values, or not enough of them, or
                is of a run with other settings.
        """
        words = sys.argv[1:] if args is None else args
        if isinstance(words, list):
            self.config = parser.parse_args(with_whole_rules(with_configs(words)))
        else:
            super().parse_arguments(parser, words)
        settings, subcommand = self._settings(), self.config["subcommand"]
        self._weights = settings.model.get("init_args", {}).get("weights")
        if settings.get("ckpt_path") == "last":
            settings.ckpt_path = _last_checkpoint(settings, subcommand)
        allowed = check_allowed(settings.resume.allow)
        self._given = settings_by_kind(self._parser(subcommand), settings)
        _check_values(self._given["run"])
        path = settings.get("ckpt_path")
        if path and str(path).partition(":")[0] not in _LIGHTNINGS_WORDS:
            held = check_checkpoint(path)
            _check_purpose(path, held, subcommand)
            if subcommand == "fit":
                self._resume(path, held, allowed)

    def _resume(self, path: str | Path, held: dict[str, Any], allowed: list[str]) -> None:
        """Checks that a run goes on with its own settings; a seed that it has drawn is its own."""
        settings, seed = self._settings(), seed_of(held)
        if settings.seed_everything is True and seed is not None:
            settings.seed_everything = self._given["run"]["seed_everything"] = seed
        check_resumed(path, held, self._given, allowed)

    def before_instantiate_classes(self) -> None:
        """Names the run directory after the method, and finds or trains the Retrain that a config was given for.

        The original lies where the user says: the place that a checkpoint names may be of another machine.

        Raises:
            UsageError: if a Retrain must be trained by a subcommand that trains nothing.
        """
        settings = self._settings()
        self._given["run"]["seed_everything"] = settings.seed_everything
        self.save_config_kwargs = {"settings": self._given}
        if settings.get("ckpt_path") and self._weights is not None:
            settings.model.init_args.weights = self._weights
        if "verbose" in settings:
            settings.verbose = False  # the report prints the table; Lightning's has a column a loader
        if _is_unnamed(settings.trainer.logger):
            settings.trainer.logger.init_args.name = _method(settings)
        retrain = settings.evaluation.retrain
        if not isinstance(retrain, str | Path) or not is_config(retrain):
            return
        if settings.trainer.fast_dev_run:
            settings.evaluation.retrain = None  # a dry run trains and writes nothing
        elif self.subcommand != "fit":
            raise UsageError(
                f"evaluation.retrain: {retrain} is a config, which fit trains; {self.subcommand} needs weights"
            )
        else:
            folder = _root(settings.trainer) / "retrain"
            settings.evaluation.retrain = str(retrained(str(retrain), settings.as_dict(), folder))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer; without a logger, which would count versions, a second run gets a root of its own."""
        settings = self._settings().trainer
        if not settings.logger and not settings.fast_dev_run:
            kwargs["default_root_dir"] = str(free_root(_root(settings)))
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs; of a full disk that another library found, it names the run's directory."""
        try:
            super()._run_subcommand(subcommand)
        except OSError as error:
            place = report_of(self.trainer).directory
            if error.errno in DISK_FULL and error.filename is None and place is not None:
                raise of_file(error, place) from error
            raise

    def before_validate(self) -> None:
        """Refuses a model that was never trained."""
        self._refuse_random_weights()

    def before_test(self) -> None:
        """Refuses a model that was never trained."""
        self._refuse_random_weights()

    def before_fit(self) -> None:
        """Compiles the network where it was asked for.

        Raises:
            UsageError: for a backend that is not there, or a monitor that will not be.
        """
        self._refuse_random_weights()
        self._check_monitors()
        backend = self._settings().compile
        if backend is not False:
            backend = "inductor" if backend is True else backend
            backends = ["eager", "aot_eager", *torch.compiler.list_backends()]
            if backend not in backends:
                raise unknown("backend to compile with", backend, ["true", "false", *backends])
            self.model.backbone.compile(backend=backend)

    def after_fit(self) -> None:
        """Attacks a model whose training a resumed run found finished: Lightning then calls no hook of training."""
        report = report_of(self.trainer)
        path, dry = self._settings().ckpt_path, self._settings().trainer.fast_dev_run
        if report.rows or dry:
            return
        if path is None:
            raise UsageError("nothing was trained, so nothing was measured: trainer.max_time was over before it began")
        self.trainer.validate(self.model, datamodule=self.datamodule, ckpt_path=path, verbose=False)
        if report.checkpoint and report.directory is not None and report.rows[-1].status == "ok":
            report.save_model(self.trainer, self.model)
            report.write_files()

    def _refuse_random_weights(self) -> None:
        given = self._settings().model.get("init_args", {})
        pretrained = (given.get("backbone") or {}).get("init_args", {}).get("pretrained", False)
        if self.model.loaded is None and not self.model.from_scratch and not pretrained and not given.get("weights"):
            raise UsageError(
                "model.weights is missing: give the trained network's weights, or 'fresh' for the backbone as it is "
                "constructed, which nothing has trained"
            )

    def _check_monitors(self) -> None:
        """Refuses what EarlyStopping cannot find, as far as it is known: the package's methods log accuracies alone."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        monitors = [str(callback.monitor) for callback in callbacks if isinstance(callback, EarlyStopping)]
        asked = [name for name in monitors if name.startswith("val/")]
        if asked and type(self.model).__module__.startswith("lit_unlearn."):
            logged = [f"val/{split}_acc" for split in self.datamodule.split_names]
            for monitor in set(asked) - set(logged):
                raise unknown("monitor of EarlyStopping:", monitor, logged)

    def _settings(self) -> Any:
        return self.config[self.config["subcommand"]]


class _Parser(UnlearnCLI):
    """The parser of the command line alone: it parses nothing by itself and makes nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Leaves out the command line."""
        self.config = {"subcommand": None, "seed_everything": False}

    def before_instantiate_classes(self) -> None:
        """Leaves out the run."""

    def instantiate_classes(self) -> None:
        """Leaves out the run."""


class Checker:
    """Says whether the command line accepts the settings of a run. Its parser is built once, when it is first asked."""

    def __init__(self) -> None:
        self._parser: LightningArgumentParser | None = None

    def __call__(self, subcommand: str, settings: Mapping[str, Any]) -> str | None:
        """One line on the first thing that is wrong, or None; nothing is made and no weights are looked for."""
        if self._parser is None:
            self._parser = _command_line(_Parser, load_from_checkpoint_support=False).parser
        try:
            self._parser.parse_args([subcommand, "--config", json.dumps(settings, default=str)])
        except (argparse.ArgumentError, ValueError, TypeError) as error:
            return explain(error) or " ".join(str(error).split())
        return None


def run(args: ArgsType = None) -> UnlearnCLI:
    """Runs one subcommand, as :func:`main` does, but lets errors through.

    The user's own classes are found by class path in the folder that the command is run from.
    """
    return _command_line(UnlearnCLI, args=args)


def _command_line(kind: type[UnlearnCLI], **options: Any) -> UnlearnCLI:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    set_parsing_settings(add_print_completion_argument=True, instantiate_subclass_spec_in_any=False)
    leave_out_known_lines()
    parser = {"exit_on_error": False}
    return kind(
        UnlearnModule,
        UnlearnDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_defaults=_TRAINER_DEFAULTS,
        save_config_callback=SaveSettings,
        parser_kwargs={
            "prog": "lit-unlearn",
            "description": "Make a trained image classifier forget, attack the result, and say whether it forgot. "
            "Many runs: lit-unlearn benchmark, tune and report. Weights and evidence: lit-unlearn export. "
            "Each has its own --help.",
            "version": __version__,
            **parser,
            **{name: dict(parser) for name in UnlearnCLI.subcommands()},
        },
        **options,
    )


def run_one(args: list[str]) -> None:
    """Runs one subcommand in a worker process of a benchmark."""
    run(args)


def only_whole_classes(class_path: str) -> bool:
    """Whether the method of a class path, or of a name in the package, can only forget whole classes."""
    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(import_module(module) if module else methods, name, None)
    except ImportError:
        kind = None  # the parser says what is wrong
    return bool(getattr(kind, "needs_classes", False))


def main(args: ArgsType = None) -> None:
    """The console script: a user error is one line on stderr and status 2, and a diverged run one and status 1."""
    words = sys.argv[1:] if args is None else args
    ours = not _process_group_is_open()
    try:
        match words:
            case ["benchmark", *rest]:
                benchmark(rest, run_one, Checker(), only_whole_classes)
            case ["tune", *rest]:
                tune(rest, run_one, Checker(), {name: getattr(methods, name).search for name in methods.__all__})
            case ["report", *rest]:
                report(rest)
            case ["export", *rest]:
                export(rest)
            case _:
                _exit_if_diverged(run(args))
    except SIGTERMException:
        sys.exit(143)
    except (argparse.ArgumentError, RuntimeError, MisconfigurationException, ValueError, TypeError, OSError) as error:
        line = explain(error)
        if line is None:
            raise
        print(f"lit-unlearn: error: {printable(line)}", file=sys.stderr)
        sys.exit(2)
    finally:
        # Lightning leaves gloo's groups open, whose threads may then abort the process while it ends.
        if ours and _process_group_is_open():
            distributed.destroy_process_group()


def _exit_if_diverged(cli: UnlearnCLI) -> None:
    """Exits with status 1 on the first process: Lightning ends the others when one that it started fails."""
    report = report_of(cli.trainer)
    if report.rows and report.rows[-1].status == "diverged" and cli.trainer.is_global_zero:
        where = f" (see {report.directory})" if report.directory is not None else ""
        print(f"lit-unlearn: error: the run diverged: {report.rows[-1].reason}{where}", file=sys.stderr)
        sys.exit(1)


def _process_group_is_open() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _check_values(given: dict[str, Any]) -> None:
    """Refuses values that Lightning or torch would take, or refuse at length.

    Raises:
        UsageError: naming option and value.
    """
    for option, value in given.items():
        if isinstance(value, float) and (math.isnan(value) or (option.endswith(".lr") and math.isinf(value))):
            raise UsageError(f"{option} is {value}, but must be finite")
    seed = given.get("seed_everything")
    if not isinstance(seed, bool | None) and not 0 <= seed < 2**32:
        raise UsageError(f"seed_everything is {seed}, but must lie in 0 to {2**32 - 1}")
    if given.get("trainer.barebones"):
        raise UsageError("trainer.barebones is true, but a run needs the logger and the callbacks that it switches off")


def _method(settings: Any) -> str:
    return str(settings.model.class_path).rpartition(".")[2]


def _root(trainer: Any) -> Path:
    """The folder of all runs."""
    logger = trainer.logger
    options = logger.get("init_args", {}) if hasattr(logger, "get") else {}
    return Path(options.get("save_dir") or trainer.default_root_dir or ".")


def _is_unnamed(logger: Any) -> bool:
    class_path = str(logger.get("class_path", "")) if hasattr(logger, "get") else ""
    return class_path.endswith(_NAMED_LOGGERS) and not logger.init_args.name


def _directory_of(callback: Any) -> str | None:
    """The directory that the settings of a ModelCheckpoint name."""
    return callback.get("init_args", {}).get("dirpath") if hasattr(callback, "get") else None


def _last_checkpoint(settings: Any, subcommand: str) -> str | None:
    """The newest checkpoint that runs of this method left: to resume from for ``fit``, else of a finished one.

    Raises:
        UsageError: if there is none to score; ``fit`` starts from the beginning, so that one command serves each start.
    """
    place = f"checkpoints/*{ModelCheckpoint.FILE_EXTENSION}" if subcommand == "fit" else CHECKPOINT
    logger = settings.trainer.logger
    chosen = [directory for callback in settings.trainer.callbacks or () if (directory := _directory_of(callback))]
    places = [place]
    if subcommand == "fit" and chosen:
        folder, places = Path(chosen[-1]), [Path(place).name]
    elif hasattr(logger, "get") and "save_dir" in logger.get("init_args", {}):
        folder = Path(logger.init_args.save_dir) / (_method(settings) if _is_unnamed(logger) else logger.init_args.name)
        places = [f"*/{place}"]
    else:
        folder = Path(settings.trainer.default_root_dir or ".")
        places = [place, f"version_*/{place}"]
    files = (file for pattern in places for file in folder.glob(pattern))
    found = sorted(files, key=lambda file: file.stat().st_mtime_ns)
    if found:
        rank_zero_info(f"ckpt_path last: {found[-1]}")
        return str(found[-1])
    if subcommand != "fit":
        raise UsageError(f"ckpt_path is 'last', but there is no {folder / places[0]}")
    rank_zero_warn(f"ckpt_path is 'last', but there is no {folder / places[0]}: the run starts from the beginning")
    return None


def _check_purpose(path: str | Path, held: dict[str, Any], subcommand: str) -> None:
    """Raises a UsageError unless a checkpoint holds what the subcommand takes from it."""
    if "pytorch-lightning_version" not in held:
        raise UsageError(f"ckpt_path: {path} holds weights and no run: give them as --model.weights")
    if subcommand == "fit" and "optimizer_states" not in held:
        raise UsageError(
            f"ckpt_path: {path} holds a finished model, from which no run can resume: give it as --model.weights"
        )
