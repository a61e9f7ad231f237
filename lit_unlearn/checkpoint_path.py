"""The checkpoint that ``--ckpt_path`` means, and whether a subcommand can use it."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_unlearn.errors import UsageError
from lit_unlearn.parsing import as_list
from lit_unlearn.reports.run_directory import free_root, free_version
from lit_unlearn.run_files import CHECKPOINT, RUNS

_NAMED_LOGGERS = (".CSVLogger", ".TensorBoardLogger")


def method_name(settings: Any) -> str:
    """The method's class name."""
    return str(settings.model.class_path).rpartition(".")[2]


def root_of(trainer: Any) -> Path:
    """The folder of all runs."""
    logger = trainer.logger
    options = logger.get("init_args", {}) if hasattr(logger, "get") else {}
    return Path(options.get("save_dir") or trainer.default_root_dir or RUNS)


def root_without_logger(settings: Any) -> Path:
    """Where a run without a logger writes: the root that the user gave, or else where runs of the method lie."""
    given = settings.trainer.default_root_dir
    return free_root(Path(given)) if given else free_version(Path(RUNS) / method_name(settings))


def use_given_root(trainer: Any) -> None:
    """Has the logger of every run write below the root that the user gave; a folder of the logger's own goes first."""
    logger = trainer.logger
    if trainer.default_root_dir and is_unnamed(logger) and logger.init_args.save_dir == RUNS:
        logger.init_args.save_dir = str(trainer.default_root_dir)


def is_unnamed(logger: Any) -> bool:
    """Whether a logger of the settings names no run directory of its own."""
    class_path = str(logger.get("class_path", "")) if hasattr(logger, "get") else ""
    return class_path.endswith(_NAMED_LOGGERS) and not logger.init_args.name


def last_checkpoint(settings: Any, subcommand: str) -> str | None:
    """The newest checkpoint that runs of this method left: to resume from for ``fit``, else of a finished one.

    Raises:
        UsageError: if there is none to score; ``fit`` starts from the beginning, so that one command serves each start.
    """
    place = f"checkpoints/*{ModelCheckpoint.FILE_EXTENSION}" if subcommand == "fit" else CHECKPOINT
    logger = settings.trainer.logger
    callbacks = as_list(settings.trainer.callbacks)
    chosen = [directory for callback in callbacks if (directory := _directory_of(callback))]
    places = [place]
    if subcommand == "fit" and chosen:
        folder, places = Path(chosen[-1]), [Path(place).name]
    elif hasattr(logger, "get") and "save_dir" in logger.get("init_args", {}):
        name = method_name(settings) if is_unnamed(logger) else logger.init_args.name
        folder = Path(logger.init_args.save_dir) / name
        places = [f"*/{place}"]
    else:
        folder = Path(settings.trainer.default_root_dir or Path(RUNS) / method_name(settings))
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


def interrupted(trainer: Any, model: Path | None) -> str:
    """What is said of a run that Ctrl-C or SIGTERM has ended: where its model is, and how it goes on.

    Args:
        trainer: of the run.
        model: the checkpoint of the unlearned model, where it is saved already.
    """
    line = "lit-unlearn: interrupted"
    last = str(getattr(trainer.checkpoint_callback, "best_model_path", ""))
    kept = Path(last).is_file()
    if model is None:
        return f"{line}; the same command with --ckpt_path {last} goes on" if kept else line
    same = (
        f"the same command with --ckpt_path {last}"
        if kept
        else f"validate, with these settings and --ckpt_path {model},"
    )
    return f"{line}: the unlearned model is {model}; {same} attacks it"


def check_purpose(path: str | Path, held: dict[str, Any], subcommand: str) -> None:
    """Raises a UsageError unless a checkpoint holds what the subcommand takes from it."""
    if "pytorch-lightning_version" not in held:
        raise UsageError(f"ckpt_path: {path} holds weights and no run: give them as --model.weights")
    if subcommand == "fit":
        _check_converged(path, held)
    if subcommand == "fit" and "optimizer_states" not in held:
        raise UsageError(
            f"ckpt_path: {path} holds a finished model, from which no run can resume: give it as --model.weights"
        )


def _check_converged(path: str | Path, held: dict[str, Any]) -> None:
    """Raises a UsageError for a checkpoint of a run that diverged: to go on from it is to diverge again."""
    if reason := held.get("lit_unlearn", {}).get("diverged"):
        raise UsageError(
            f"ckpt_path: the run of {path} diverged ({reason}), so there is nothing to go on from: start again, with a "
            "smaller learning rate"
        )


def _directory_of(callback: Any) -> str | None:
    """The directory that the settings of a ModelCheckpoint name."""
    return callback.get("init_args", {}).get("dirpath") if hasattr(callback, "get") else None
