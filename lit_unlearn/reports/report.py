"""The callback that gathers what a run measured and writes it: results.json, report.html and the terminal table.

It knows no method and no attack: it asks the module to describe itself, and takes the findings of every callback that
has some.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_unlearn.errors import UsageError
from lit_unlearn.exhibits import Exhibit
from lit_unlearn.reports.circumstances import circumstances
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, in_order, labels, write_rows

RESULTS, EXHIBITS, PAGE, CHECKPOINT = "results.json", "exhibits.npz", "report.html", "unlearned.ckpt"
_METHODS = {"original": ORIGINAL, "retrain": RETRAIN}
_SUBJECTS = ("original", "retrain", "unlearned")

Status = Literal["ok", "diverged", "interrupted"]


class Report(Callback):
    """Writes the result row of a run, and those of the yardsticks measured beside it, as a file, a page and a table.

    What attacks show beside their numbers goes to ``exhibits.npz`` and onto the page.

    It must come after the attacks among the Trainer's callbacks, as it does on the command line. A ``fast_dev_run``
    prints the table and writes nothing.

    Args:
        page: write ``report.html``.
        checkpoint: write ``unlearned.ckpt`` after ``fit``.

    Attributes:
        rows: the rows that were written last.
        shown: for each of them that has some, by its label on the page, what attacks show beside its numbers.
        directory: where they were written.
    """

    def __init__(self, page: bool = True, checkpoint: bool = True) -> None:
        self.page, self.checkpoint = page, checkpoint
        self.rows: list[Row] = []
        self.shown: dict[str, dict[str, Exhibit]] = {}
        self.directory: Path | None = None
        self._curves: dict[str, list[list[float]]] = {}
        self._started = ""
        self._running = False
        self._made: list[Path] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the run directory, and fails now if nothing can be written there.

        Raises:
            UsageError: naming the directory.
        """
        del pl_module, stage
        self.rows, self.shown, self._curves, self._made, self._running = [], {}, {}, [], False
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self.directory = run_directory(trainer)
        if trainer.is_global_zero and not _is_dry(trainer):
            try:
                self._made = [folder for folder in (self.directory, *self.directory.parents) if not folder.exists()]
                self.directory.mkdir(parents=True, exist_ok=True)
                (self.directory / f".{os.getpid()}.probe").touch()
                (self.directory / f".{os.getpid()}.probe").unlink()
            except OSError as error:
                raise UsageError(f"cannot write to {self.directory}: {error.strerror}") from error
            rank_zero_info(f"Run directory: {self.directory}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to keep."""
        del trainer, pl_module
        self._running = True

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for ``validate``."""
        del pl_module
        self._running = self._running or trainer.state.fn == "validate"

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for ``test``."""
        del trainer, pl_module
        self._running = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps what was logged, a point an epoch."""
        del pl_module
        stale = () if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0 else ("val/",)
        for name, value in trainer.callback_metrics.items():
            if name.startswith(stale):
                continue
            if not name.endswith(("_step", "_epoch")) and value.numel() == 1 and bool(value.isfinite()):
                self._curves.setdefault(name, []).append([trainer.current_epoch, float(value)])

    def state_dict(self) -> dict[str, Any]:
        """What was logged so far, for a run that is resumed."""
        return {"curves": {name: [list(point) for point in points] for name, points in self._curves.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what was logged before."""
        self._curves = state_dict["curves"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the unlearned model and writes the results."""
        assert self.directory is not None
        if self.checkpoint and not _is_dry(trainer):
            trainer.save_checkpoint(self.directory / CHECKPOINT, weights_only=True)
        self._write_measured(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the results of ``validate``."""
        if trainer.state.fn == "validate":
            self._write_measured(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the results of ``test``."""
        self._write_measured(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keeps and marks what an interrupted run measured; leaves no empty directory behind one that never began."""
        if self._running:
            said = f"{type(exception).__name__}: {exception}".removesuffix(": ").splitlines()[0]
            self._write(trainer, pl_module, "interrupted", f"{said}, in epoch {trainer.current_epoch}")
        elif trainer.is_global_zero and not _is_dry(trainer):
            _remove_if_empty([*_folders_of_logger(trainer), *self._made])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing more to keep."""
        del trainer, pl_module, stage
        self._running = False

    def _write_measured(self, trainer: Trainer, module: LightningModule) -> None:
        diverged = cast(Any, module).diverged
        self._write(trainer, module, "diverged" if diverged else "ok", diverged or "")

    def _write(self, trainer: Trainer, module: LightningModule, status: Status, reason: str) -> None:
        self._running = False
        found = list(self._rows(trainer, module, status, reason))
        subjects = {id(row): subject for subject, row in found}
        self.rows = in_order([row for _, row in found])
        shown = _exhibits(trainer)
        named = {label: shown[subjects[id(row)]] for row, label in zip(self.rows, labels(self.rows), strict=True)}
        self.shown = {label: exhibits for label, exhibits in named.items() if exhibits}
        self._write_files(dry=_is_dry(trainer))

    @rank_zero_only
    def _write_files(self, dry: bool) -> None:
        from rich.console import Console

        from lit_unlearn.reports.table import results_table

        Console().print(results_table(self.rows))
        if self.directory is None or dry:
            return
        write_rows(self.directory / RESULTS, self.rows)
        if self.shown:
            from lit_unlearn.reports.gallery import write_exhibits

            write_exhibits(self.directory / EXHIBITS, self.shown)
        else:
            (self.directory / EXHIBITS).unlink(missing_ok=True)
        if self.page:
            from lit_unlearn.reports.page import write_page

            write_page(self.directory / PAGE, self.rows, self.shown)
        written = [name for name in (RESULTS, EXHIBITS, PAGE, CHECKPOINT) if (self.directory / name).exists()]
        rank_zero_info(f"Written to {self.directory}: {', '.join(written)}")

    def _rows(self, trainer: Trainer, module: Any, status: Status, reason: str) -> Iterator[tuple[str, Row]]:
        """Each subject's row."""
        common = circumstances(trainer, self._started)
        described = module.describe()
        found = _findings(trainer)
        for subject, method in _METHODS.items():
            if found[subject]["metrics"]:
                row = Row(method=method, status="ok", backbone=described["backbone"], **common, **found[subject])
                yield subject, row
        own = found["unlearned"]
        if module.seconds > 0:
            own["seconds"] = {"unlearn": module.seconds, **own["seconds"]}
        own["weights"] = own["weights"] or described.pop("weights")
        described.pop("weights", None)
        if trainer.state.fn != "fit" and module.is_original():
            described["method"] = ORIGINAL
        own_row = Row(
            status=status,
            reason=reason,
            curves=self._curves,
            epochs=trainer.current_epoch if trainer.state.fn == "fit" else None,
            **described,
            **common,
            **own,
        )
        yield "unlearned", own_row


def report_of(trainer: Trainer) -> Report:
    """The report among a Trainer's callbacks."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, Report))


def run_directory(trainer: Trainer) -> Path:
    """Where a run writes: the first logger's own version directory, or the Trainer's root where there is none."""
    return Path(trainer.strategy.broadcast(_directory(trainer)))


def _directory(trainer: Trainer) -> Path:
    logger = trainer.logger
    if logger is None:
        return Path(trainer.default_root_dir)
    if isinstance(logger, CSVLogger | TensorBoardLogger):
        return Path(logger.log_dir)
    name = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / name


def _is_dry(trainer: Any) -> bool:
    return bool(trainer.fast_dev_run)


def _findings(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """For each subject, the fields of a row that callbacks filled."""
    found: dict[str, dict[str, Any]] = {
        subject: {"metrics": {}, "attacks": {}, "skipped": {}, "seconds": {}, "weights": {}} for subject in _SUBJECTS
    }
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if not isinstance(getattr(callback, "findings", None), Mapping):
            continue
        for subject, fields in found.items():
            for name, value in callback.findings.get(subject, {}).items():
                fields["attacks" if "/" in name else "metrics"][name] = value
            if subject in callback.skipped:
                fields["skipped"][callback.title] = callback.skipped[subject]
            if subject in callback.seconds:
                fields["seconds"][callback.title] = callback.seconds[subject]
            fields["weights"] = getattr(callback, "weights", {}).get(subject, fields["weights"])
    return found


def _exhibits(trainer: Trainer) -> dict[str, dict[str, Exhibit]]:
    """For each subject, what callbacks show of it."""
    found: dict[str, dict[str, Exhibit]] = {subject: {} for subject in _SUBJECTS}
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        for subject, shown in getattr(callback, "exhibits", {}).items():
            found[subject].update(shown)
    return found


def _folders_of_logger(trainer: Trainer) -> list[Path]:
    """What a logger, which Lightning asks before any callback, may have made for this run, from the inside out."""
    directory = _directory(trainer)
    folders = [directory, directory.parent, directory.parent.parent] if trainer.loggers else []
    kept = (Path.cwd(), Path(trainer.default_root_dir).absolute())
    return [folder for folder in folders if folder.absolute() not in kept]


def _remove_if_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
