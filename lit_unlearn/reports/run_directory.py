"""Where a run writes, and that nothing is left of a run that never began."""

from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_unlearn.errors import UsageError
from lit_unlearn.run_files import CONFIG, RESULTS


def run_directory(trainer: Trainer) -> Path:
    """Where a run writes: the first logger's own version directory, or the Trainer's root where there is none."""
    return Path(trainer.strategy.broadcast(_directory(trainer)))


def claim_directory(trainer: Trainer, numbered: bool = False) -> Path | None:
    """Makes the version directory of a run before it begins, so that no other run has the same.

    Runs that begin together find the same number free. One that is taken meanwhile gives way to the next. A directory
    that the user names is taken as it is; so is that of other loggers.

    Args:
        trainer: of the run.
        numbered: whether the root of a run without a logger is a version directory that was free.

    Returns:
        The directory, where it was made; None where the user or another logger names one.

    Raises:
        UsageError: naming the directory, if it cannot be made.
    """
    logger: Any = trainer.logger
    if logger is None and numbered and trainer.world_size == 1:
        return _claimed_root(trainer)
    numbers = isinstance(logger, CSVLogger | TensorBoardLogger) and logger._version is None
    if not numbers or not trainer.is_global_zero or "://" in str(logger.save_dir):
        return None
    try:
        Path(logger.log_dir).parent.mkdir(parents=True, exist_ok=True)
        while not _made(Path(logger.log_dir)):
            logger._version += 1
    except OSError as error:
        raise UsageError(f"cannot write to {logger.log_dir}: {error.strerror}") from error
    return Path(logger.log_dir)


def _claimed_root(trainer: Trainer) -> Path:
    root = Path(trainer.default_root_dir)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        while not _made(root):
            root = free_version(root.parent)
    except OSError as error:
        raise UsageError(f"cannot write to {root}: {error.strerror}") from error
    vars(trainer)["_default_root_dir"] = str(root)
    return root


def release_directory(directory: Path) -> None:
    """Removes a directory that was claimed for a run which was refused before it began: it holds settings at most."""
    with suppress(OSError):
        if [path.name for path in directory.iterdir()] == [CONFIG]:
            (directory / CONFIG).unlink()
        directory.rmdir()
        directory.parent.rmdir()


def free_root(root: Path) -> Path:
    """Where a run without a logger writes: the root itself, or ``version_1``, … below it if it holds results."""
    if not (root / RESULTS).exists():
        return root
    return free_version(root, 1)


def free_version(root: Path, first: int = 0) -> Path:
    """The first version directory below a folder that is not there yet."""
    return next(folder for number in count(first) if not (folder := root / f"version_{number}").exists())


def make_directory(directory: Path) -> list[Path]:
    """Makes a directory, and fails now if nothing can be written there.

    Returns:
        The directories that were made, from the inside out.

    Raises:
        UsageError: naming the directory.
    """
    try:
        made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UsageError(f"cannot write to {directory}: {error.strerror}") from error
    return made


def remove_empty(trainer: Trainer, made: list[Path]) -> None:
    """Removes the directories that were made for a run, and its logger's, where they are empty."""
    for folder in [*_folders_of_logger(trainer), *made]:
        with suppress(OSError):
            folder.rmdir()


def _made(directory: Path) -> bool:
    """Makes a directory, unless it is there."""
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True


def _directory(trainer: Trainer) -> Path:
    logger = trainer.logger
    if logger is None:
        return Path(trainer.default_root_dir)
    if isinstance(logger, CSVLogger | TensorBoardLogger):
        return Path(logger.log_dir)
    name = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / name


def _folders_of_logger(trainer: Trainer) -> list[Path]:
    """What a logger, which Lightning asks before any callback, may have made for this run, from the inside out."""
    directory = _directory(trainer)
    folders = [directory, directory.parent, directory.parent.parent] if trainer.loggers else []
    kept = (Path.cwd(), Path(trainer.default_root_dir).absolute())
    return [folder for folder in folders if folder.absolute() not in kept]
