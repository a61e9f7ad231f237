"""The command line: Lightning's, with unlearning methods as models and attacks as callbacks.

``lit-unlearn fit`` unlearns, attacks and reports; ``validate`` attacks and reports; ``test`` scores the splits.
``benchmark``, ``tune``, ``report``, ``export``, ``zoo``, ``submit``, ``verify``, ``board`` and ``break``, which need
no model, have parsers of their own.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from lit_unlearn import __version__, methods
from lit_unlearn.allocation import keep_freed_memory
from lit_unlearn.benchmark.command import benchmark, report, tune
from lit_unlearn.benchmark.search_space import Ranges
from lit_unlearn.board_command import board_command, break_command, submit_command, verify_command
from lit_unlearn.class_paths import find_class
from lit_unlearn.data import UnlearnDataModule
from lit_unlearn.errors import UsageError, printable, unknown
from lit_unlearn.explain import explain
from lit_unlearn.exporting import export
from lit_unlearn.methods import UnlearnModule
from lit_unlearn.quiet import leave_out_known_lines
from lit_unlearn.reports.report import report_of
from lit_unlearn.resuming import SaveSettings
from lit_unlearn.run_command import UnlearnCLI, evaluation_of
from lit_unlearn.run_files import RUNS
from lit_unlearn.usage import COMMANDS
from lit_unlearn.zoo_command import zoo

_TRAINER_DEFAULTS = {
    "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": RUNS, "name": None}},
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}


class _Parser(UnlearnCLI):
    """The parser of the command line alone: it parses nothing by itself and makes nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Leaves out the command line."""
        self.config = {"subcommand": None, "seed_everything": False}

    def before_instantiate_classes(self) -> None:
        """Leaves out the run."""

    def instantiate_classes(self) -> None:
        """Leaves out the run."""


class _WithBrokenAttacks(UnlearnCLI):
    """One run by itself keeps what other attacks measure; a benchmark, which would count it as done, does not."""

    goes_on = True


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


def run(args: ArgsType = None, goes_on: bool = False) -> UnlearnCLI:
    """Runs one subcommand, as :func:`main` does, but lets errors through.

    Args:
        args: the words of the command line.
        goes_on: whether an attack that raises an error is left out, and the others are run.
    """
    keep_freed_memory()
    return _command_line(_WithBrokenAttacks if goes_on else UnlearnCLI, args=args)


def _command_line(kind: type[UnlearnCLI], **options: Any) -> UnlearnCLI:
    _find_own_classes()
    set_parsing_settings(add_print_completion_argument=True, instantiate_subclass_spec_in_any=False)
    leave_out_known_lines()
    parser = {"exit_on_error": False, "allow_abbrev": False}
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
            "version": __version__,
            **parser,
            **{name: dict(parser) for name in UnlearnCLI.subcommands()},
        },
        **options,
    )


def _find_own_classes() -> None:
    """Classes of the user's own are found in the folder that the command is run from."""
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise UsageError(
            "the folder that the command is run from is not there any more: change to another one"
        ) from error
    if here not in sys.path:
        sys.path.append(here)


def run_one(args: list[str]) -> None:
    """Runs one subcommand in a worker process of a benchmark."""
    run(args)


def only_whole_classes(class_path: str) -> bool:
    """Whether the method of a class path, or of a name in the package, can only forget whole classes."""
    try:
        return bool(getattr(_method(class_path), "needs_classes", False))
    except (UsageError, ModuleNotFoundError):
        return False  # the parser says what is wrong


def declared_ranges(class_path: str) -> Ranges:
    """What the method of a class path, or of a name in the package, declares to be searched.

    Raises:
        UsageError: if there is no class at a class path.
    """
    try:
        ranges: Ranges = getattr(_method(class_path), "search", ())
    except ModuleNotFoundError as error:
        raise UsageError(f"unknown method {class_path!r}: there is no module {error.name!r}") from error
    return ranges


def _method(class_path: str) -> object:
    """The class of a class path, or of a name in the package; None for a name that the package has not."""
    if "." not in class_path:
        return getattr(methods, class_path, None)
    _find_own_classes()
    return find_class(class_path, UnlearnModule)


def _benchmark(words: list[str]) -> None:
    _find_own_classes()
    benchmark(words, run_one, Checker(), only_whole_classes)


def _tune(words: list[str]) -> None:
    _find_own_classes()
    tune(words, run_one, Checker(), declared_ranges)


def _break(words: list[str]) -> int:
    _find_own_classes()
    return break_command(words)


_COMMANDS: Mapping[str, Callable[[list[str]], int | None]] = {
    "benchmark": _benchmark,
    "tune": _tune,
    "report": report,
    "export": export,
    "submit": submit_command,
    "verify": verify_command,
    "board": board_command,
    "break": _break,
    "zoo": zoo,
}
"""Commands that need no model: each takes its words and may return an exit status."""


def main(args: ArgsType = None) -> None:
    """The console script: a user error is one line on stderr and status 2; status 1: it diverged, an attack raised."""
    words = sys.argv[1:] if args is None else args
    ours = not _process_group_is_open()
    try:
        match words:
            case [word, *rest] if word in _COMMANDS:
                if status := _COMMANDS[word](rest):
                    sys.exit(status)
            case [word, *_] if not word.startswith("-") and word not in UnlearnCLI.subcommands():
                raise unknown("command", word, COMMANDS)
            case _:
                _exit_unless_whole(run(args, goes_on=True))
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


def _exit_unless_whole(cli: UnlearnCLI) -> None:
    """Exits with status 1 on the first process: Lightning ends the others when one that it started fails."""
    report, raised = report_of(cli.trainer), evaluation_of(cli.trainer).raised
    if not cli.trainer.is_global_zero:
        return
    where = f" (see {report.directory})" if report.directory is not None else ""
    if report.rows and report.rows[-1].status == "diverged":
        print(f"lit-unlearn: error: the run diverged: {report.rows[-1].reason}{where}", file=sys.stderr)
        sys.exit(1)
    if raised:
        said = "; ".join(f"{title} was left out: {reason}" for title, reason in raised.items())
        print(f"lit-unlearn: error: {printable(said)}{where}", file=sys.stderr)
        sys.exit(1)


def _process_group_is_open() -> bool:
    return distributed.is_available() and distributed.is_initialized()
