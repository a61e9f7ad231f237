"""The callback that turns the results of a run into rows, and writes results.json, report.html and the terminal table.

It knows no method and no attack: the module describes itself, and the evaluation hands over the results.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lit_unlearn.artifacts import Artifact
from lit_unlearn.errors import UsageError
from lit_unlearn.options import TypedOptions
from lit_unlearn.reports.comparisons import MARGINS, Margins
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, in_order, write_rows
from lit_unlearn.reports.run_directory import make_directory, remove_empty, run_directory
from lit_unlearn.reports.run_metadata import run_metadata
from lit_unlearn.reports.verdict import judge
from lit_unlearn.reports.whole_checkpoints import write_whole_checkpoints
from lit_unlearn.reports.wording import as_json
from lit_unlearn.results import Driver, Measurement, Results, Subject
from lit_unlearn.run_files import ARTIFACTS, CHECKPOINT, PAGE, RESULTS, WEIGHTS

__all__ = ["Report"]

_REFERENCES: dict[Subject, str] = {"original": ORIGINAL, "retrain": RETRAIN}


class Report(TypedOptions, Callback):
    """Writes the result row of a run, and those of the reference models beside it, as a file, a page and a table.

    Pictures and maps that attacks return go to ``artifacts.npz`` and onto the page. It needs an Evaluation, or an
    attack, among the callbacks; their order does not matter. A ``fast_dev_run`` prints the table and writes nothing.

    Args:
        page: write ``report.html``.
        margins: what counts as a difference from Retrain in the verdict.
        checkpoint: write the unlearned model after ``fit``: ``unlearned.ckpt`` for this package, and its weights under
            the names of the user's own network as ``unlearned.safetensors``.
        write: write files and print the table; False only keeps rows and artifacts, and touches no file.

    Attributes:
        rows: the rows of the last run.
        artifacts: for each row that has some, by its ``method``, the artifacts by name.
        directory: where they are written, or None.
        model: the checkpoint of the unlearned model, once it is saved.
    """

    def __init__(
        self, page: bool = True, checkpoint: bool = True, write: bool = True, margins: Margins = MARGINS
    ) -> None:
        self.page, self.checkpoint, self.write, self.margins = page, checkpoint, write, margins
        self.rows: list[Row] = []
        self.artifacts: dict[str, dict[str, Artifact]] = {}
        self.directory: Path | None = None
        self._curves: dict[str, dict[int, float]] = {}
        self._started = ""
        self.model: Path | None = None
        self._result: dict[str, str] = {}
        self._made: list[Path] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the run directory, and fails now if nothing can be written there.

        Raises:
            UsageError: naming the directory.
        """
        del pl_module, stage
        self.rows, self.artifacts, self._curves, self._made = [], {}, {}, []
        self.model, self._result = None, {}
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        write_whole_checkpoints(trainer)
        if self.write:
            self.directory = run_directory(trainer)
            if self._writes(trainer) and trainer.is_global_zero:
                self._made = make_directory(self.directory)
                rank_zero_info(f"Run directory: {self.directory}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses a run without an Evaluation, which would leave no row.

        Raises:
            UsageError: if there is none among the callbacks.
        """
        del pl_module
        if _driver(trainer) is None:
            raise UsageError("Report needs Evaluation, or an attack, among the Trainer's callbacks")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for ``validate``."""
        self.on_fit_start(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for ``test``."""
        self.on_fit_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps what other callbacks logged at the end of the last epoch."""
        del pl_module
        if trainer.current_epoch > 0:
            self._keep_curves(trainer, trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps what was logged, a point an epoch."""
        del pl_module
        self._keep_curves(trainer, trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """What was logged so far, for a run that is resumed."""
        return {"curves": {name: dict(points) for name, points in self._curves.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what was logged before."""
        self._curves = state_dict["curves"]

    def on_attacks_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Saves the model that the run has made, so that it is there if an attack is interrupted or breaks."""
        if self.checkpoint and self._writes(trainer) and pl_module.is_trained_here:
            self._save_model(trainer, pl_module)

    def on_attacks_end(self, trainer: Trainer, pl_module: Any, results: Results) -> None:
        """Keeps the rows, prints the table and writes the files."""
        if trainer.state.fn == "fit" and results.status != "interrupted" and trainer.current_epoch > 0:
            self._keep_curves(trainer, trainer.current_epoch - 1)
        found = list(self._rows(trainer, pl_module, results))
        own = found[-1][1]
        if trainer.is_global_zero:
            own.weights["result"] = self._result or pl_module.network_hash()
        self.rows = in_order([row for _, row in found])
        if own.method not in _REFERENCES.values():
            own.verdict = as_json(own, judge(own, self.rows, self.margins))
        self.artifacts = {}
        for measured, row in found:
            if measured.artifacts:
                self.artifacts.setdefault(row.method, measured.artifacts)
        if self.write:
            self._print()
        if self._writes(trainer):
            if self.checkpoint and self.model is None and pl_module.is_trained_here:
                self._remove_model()
            self._write_files()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves no empty directory behind a run that never began."""
        del pl_module, exception
        driver = _driver(trainer)
        if self._writes(trainer) and trainer.is_global_zero and (driver is None or not driver.began) and not self.rows:
            remove_empty(trainer, self._made)

    def _save_model(self, trainer: Trainer, module: Any) -> None:
        """Saves the model: its checkpoint, and its weights as they go home, which its row then names."""
        assert self.directory is not None
        trainer.save_checkpoint(self.directory / CHECKPOINT, weights_only=True)
        self.model = self.directory / CHECKPOINT
        if not trainer.is_global_zero:
            return
        self._result = {"file": WEIGHTS, **module.save_network(self.directory / WEIGHTS)}
        change = f", but {self._result['change']}" if "change" in self._result else ""
        network = module.backbone.network_class()
        rank_zero_info(f"Weights under the names of {network}{change}: {self.directory / WEIGHTS}")

    @rank_zero_only
    def _remove_model(self) -> None:
        """Removes the model that an earlier run has left: a run that made none must not seem to have made it."""
        assert self.directory is not None
        for name in (CHECKPOINT, WEIGHTS):
            (self.directory / name).unlink(missing_ok=True)

    @rank_zero_only
    def _print(self) -> None:
        from rich.console import Console

        from lit_unlearn.reports.table import results_table, verdict_lines

        Console().print(results_table(self.rows))
        print(*verdict_lines(self.rows, self.margins), sep="\n")

    @rank_zero_only
    def _write_files(self) -> None:
        """Writes the rows, and the page where it is asked for."""
        assert self.directory is not None
        write_rows(self.directory / RESULTS, self.rows)
        if self.artifacts:
            from lit_unlearn.reports.gallery import write_artifacts

            write_artifacts(self.directory / ARTIFACTS, self.artifacts)
        else:
            (self.directory / ARTIFACTS).unlink(missing_ok=True)
        if self.page:
            from lit_unlearn.reports.page import write_page

            write_page(self.directory / PAGE, self.rows, self.artifacts, self.margins)
        names = (RESULTS, ARTIFACTS, PAGE, CHECKPOINT, WEIGHTS)
        written = [name for name in names if (self.directory / name).exists()]
        rank_zero_info(f"Written to {self.directory}: {', '.join(written)}")

    def _writes(self, trainer: Any) -> bool:
        return self.write and not trainer.fast_dev_run

    def _keep_curves(self, trainer: Trainer, epoch: int) -> None:
        stale = () if (epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0 else ("val/",)
        for name, value in trainer.callback_metrics.items():
            if name.startswith(stale):
                continue
            if not name.endswith(("_step", "_epoch")) and value.numel() == 1 and bool(value.isfinite()):
                self._curves.setdefault(name, {})[epoch] = float(value)

    def _rows(self, trainer: Trainer, module: Any, results: Results) -> Iterator[tuple[Measurement, Row]]:
        """A row for each model that was measured."""
        common = run_metadata(trainer, self._started, results.suite)
        described = module.describe()
        own_weights = described.pop("weights")
        common["devices"]["memory_format"] = described.pop("memory_format")
        for subject, method in _REFERENCES.items():
            more = results.more_retrains if subject == "retrain" else ()
            for found in (*([results.models[subject]] if subject in results.models else ()), *more):
                yield found, Row(method, "ok", backbone=described["backbone"], **common, **_fields(found))
        own = results.models["unlearned"]
        fields = _fields(own)
        if module.seconds > 0:
            fields["seconds"] = {"unlearn": module.seconds, **own.seconds}
        fields["images_seen"] = module.images_seen or None
        if not module.is_trained_here and module.is_original():
            described["method"] = ORIGINAL
        yield (
            own,
            Row(
                status=results.status,
                reason=results.reason,
                curves={
                    name: [[epoch, points[epoch]] for epoch in sorted(points)] for name, points in self._curves.items()
                },
                epochs=trainer.current_epoch if module.is_trained_here else None,
                **described,
                **common,
                warnings=results.warnings,
                flags={flag.name: flag.text for flag in results.flags},
                **{**fields, "weights": own_weights},
            ),
        )


def report_of(trainer: Trainer) -> Report:
    """The report among a Trainer's callbacks."""
    return next(callback for callback in _callbacks(trainer) if isinstance(callback, Report))


def _driver(trainer: Trainer) -> Driver | None:
    return next((callback for callback in _callbacks(trainer) if isinstance(callback, Driver)), None)


def _callbacks(trainer: Trainer) -> list[Any]:
    return cast(Any, trainer).callbacks  # type: ignore[no-any-return]


def _fields(found: Measurement) -> dict[str, Any]:
    """The fields of a row that a measurement fills."""
    names = ("metrics", "attacks", "skipped", "seconds", "kept", "images_seen", "weights")
    return {name: getattr(found, name) for name in names}
