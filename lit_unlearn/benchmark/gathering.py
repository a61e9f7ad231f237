"""The results of the runs of a grid: which of them are finished, and their rows as one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_unlearn.benchmark.runs import Run
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, read_rows, write_rows

RESULTS, ROWS = "results.json", "rows.json"


def collect(runs: Sequence[Run], root: Path) -> list[Row]:
    """Collects the rows of finished runs into ``rows.json``, beside those that it holds already, and returns them.

    Of two rows of one experiment, scenario and seeds, the one with today's settings stays.
    """
    rows = {_identity(row): row for row in kept_rows(root)}
    for run in runs:
        for row in _rows_of(run, root) if run.reports and finished(run, root, {}) else ():
            row.benchmark = {
                "key": run.key,
                "scenario": run.scenario,
                "experiment": run.name,
                "seeds": dict(run.seeds),
                "variant": dict(run.variant),
            }
            row.curves = {}
            rows[_identity(row)] = row
    place = {run.key: index for index, run in enumerate(runs)}
    ordered = sorted(rows.values(), key=lambda row: place.get(row.benchmark["key"], len(place)))
    if ordered:
        write_rows(root / ROWS, ordered)
    return ordered


def _rows_of(run: Run, root: Path) -> list[Row]:
    """The rows of a run, each with how its model was made; a model that diverged is not measured."""
    makers = {ORIGINAL: "model.init_args.weights", RETRAIN: "evaluation.retrain"}
    unlearned = run.needs.get("ckpt_path")
    if unlearned is not None and (failed := _ended_badly(unlearned, root)):
        return [failed]
    rows = results_of(run, root)
    for row in rows if run.subcommand == "validate" else ():
        maker = run.needs.get(makers[row.method]) if unlearned is None else unlearned
        for made in results_of(maker, root)[-1:] if maker is not None else ():
            row.seconds = {**made.seconds, **row.seconds}
            row.optimizer, row.epochs, row.batch_size = made.optimizer, made.epochs, made.batch_size
            if unlearned is not None:
                row.method = made.method  # validate calls what a method has left as it was the original
                row.hyperparameters, row.seed, row.weights = made.hyperparameters, made.seed, made.weights
                row.warnings = list(dict.fromkeys([*made.warnings, *row.warnings]))
    return rows


def _ended_badly(run: Run, root: Path) -> Row | None:
    """The row of a run that diverged; one that was interrupted has not ended."""
    rows = results_of(run, root)
    return rows[-1] if rows and rows[-1].status == "diverged" else None


def results_of(run: Run, root: Path) -> list[Row]:
    """What the run's own folder holds; nothing before it has been run."""
    path = root / run.folder / RESULTS
    return read_rows(path) if path.exists() else []


def _identity(row: Row) -> tuple[str, ...]:
    run = row.benchmark
    varied = [sorted(run.get(name, {}).items()) for name in ("seeds", "variant")]
    return run["scenario"], run["experiment"], str(varied), row.method


def kept_rows(root: Path) -> list[Row]:
    """The rows gathered so far in the benchmark's own folder."""
    return read_rows(root / ROWS) if (root / ROWS).exists() else []


def finished(run: Run, root: Path, known: Mapping[str, Row]) -> bool:
    """Whether the run need not be executed: its row is known by its key, or its folder holds a complete result."""
    if run.reports and run.key in known:
        return True
    if "ckpt_path" in run.needs and _ended_badly(run.needs["ckpt_path"], root):
        return True
    rows = results_of(run, root)
    complete = bool(rows) and all(row.status != "interrupted" for row in rows)
    return complete and (run.reports or run.weights(root).exists() or _ended_badly(run, root) is not None)
