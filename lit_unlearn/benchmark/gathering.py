"""The results of the runs of a grid: which of them are finished, and their rows as one file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_unlearn.benchmark.failures import Failure, with_failures
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.summary import summarise
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, SPLITS, Row, read_rows, write_rows
from lit_unlearn.reports.wording import as_json
from lit_unlearn.run_files import RESULTS, ROWS

PACKED = f"{ROWS}.xz"


class Gathered:
    """The rows of a grid: those that ``rows.json`` holds already, and those of the runs that are finished.

    Of two rows of one experiment, scenario and seeds, the one with today's settings stays. A row that other settings
    have left in the place of one of today's runs does not count, whether that run is finished or not.

    Args:
        root: the output directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rows = {identity(row): row for row in kept_rows(root)}
        self._read: set[str] = set()

    def add(self, runs: Iterable[Run]) -> None:
        """Reads the rows of those of the runs that are finished and were not read before."""
        for run in runs:
            if run.reports and run.key not in self._read and finished(run, self.root, {}):
                self._read.add(run.key)
                for row in _rows_of(run, self.root):
                    row.benchmark = {
                        "key": run.key,
                        "scenario": run.scenario,
                        "experiment": run.name,
                        "seeds": dict(run.seeds),
                        "variant": dict(run.variant),
                    }
                    self._rows[identity(row)] = compact(row, self.root)

    def ordered(self, runs: Sequence[Run] = ()) -> list[Row]:
        """All rows that count, in the order of the runs that made them."""
        order = {run.key: index for index, run in enumerate(runs)}
        taken = {place_of(run.scenario, run.name, run.seeds, run.variant) for run in runs if run.reports}
        found = ((row.benchmark["key"], place[:-1], row) for place, row in self._rows.items())
        rows = [row for key, place, row in found if key in order or place not in taken]
        return sorted(rows, key=lambda row: order.get(row.benchmark["key"], len(order)))

    def write(self, runs: Sequence[Run], lost: Sequence[Failure] = ()) -> list[Row]:
        """Judges all rows, beside what has failed, writes them to ``rows.json`` and returns them."""
        ordered = self.ordered(runs)
        if self._rows:
            add_verdicts(ordered, lost)
            write_rows(self.root / ROWS, ordered)
        return ordered


def collect(runs: Sequence[Run], root: Path, lost: Sequence[Failure] = ()) -> list[Row]:
    """Gathers the rows of all finished runs in ``rows.json``, and returns them."""
    gathered = Gathered(root)
    gathered.add(runs)
    return gathered.write(runs, lost)


def add_verdicts(rows: Sequence[Row], lost: Sequence[Failure] = ()) -> None:
    """Gives every row of a method the verdict on all its models, as far as they are there, and on runs that failed."""
    for summary in with_failures(summarise(rows), lost, rows):
        for line in summary.lines:
            if line.verdict is not None and line.mean is not None:
                kept = as_json(line.mean, line.verdict)
                for row in line.rows:
                    row.verdict = kept


def place_of(scenario: str, experiment: str, seeds: Mapping[str, int], variant: Mapping[str, Any]) -> tuple[str, ...]:
    """Which run of a grid one is, whatever its settings."""
    return scenario, experiment, str([sorted(seeds.items()), sorted(variant.items())])


def identity(row: Row) -> tuple[str, ...]:
    """What a row is of, whatever its settings: the place of its run in the grid, and the method."""
    run = row.benchmark
    return *place_of(run["scenario"], run["experiment"], run.get("seeds", {}), run.get("variant", {})), row.method


def compact(row: Row, root: Path) -> Row:
    """The row without curves and single readouts, which its run's own folder keeps, and with six digits of a number.

    Weights that lie below the root are named from there: a table names no other folder of the machine.
    """
    metrics, attacks, seconds = (_rounded(numbers) for numbers in (row.metrics, row.attacks, row.seconds))
    weights = dict(row.weights)
    source = weights.get("source")
    if source is not None and Path(source).is_relative_to(root):
        weights["source"] = Path(source).relative_to(root).as_posix()
    return replace(row, curves={}, metrics=metrics, attacks=attacks, seconds=seconds, weights=weights)


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Without those of single members of a suite of readouts, such as ``recovery/worst/forget_acc/hr_raw``."""
    whole = {key: value for key, value in numbers.items() if not any(part in SPLITS for part in key.split("/")[:-1])}
    return {key: float(f"{value:.6g}") for key, value in whole.items()}


def _rows_of(run: Run, root: Path) -> list[Row]:
    """The rows of a run, each with how its model was made; a model that diverged is not measured."""
    makers = {ORIGINAL: "model.init_args.weights", RETRAIN: "evaluation.retrain"}
    unlearned = run.needs.get("ckpt_path")
    if unlearned is not None and (failed := _ended_badly(unlearned, root)):
        return [failed]
    rows = results_of(run, root)
    for row in rows if run.subcommand == "validate" else ():
        maker = run.needs.get(makers[row.method]) if unlearned is None else unlearned
        for made in _readable(maker, root)[-1:] if maker is not None else ():
            row.seconds = {**made.seconds, **row.seconds}
            row.optimizer, row.epochs, row.batch_size = made.optimizer, made.epochs, made.batch_size
            row.images_seen = made.images_seen
            if unlearned is not None:
                row.method = made.method  # validate calls what a method has left as it was the original
                row.hyperparameters, row.seed, row.weights = made.hyperparameters, made.seed, made.weights
                row.warnings = list(dict.fromkeys([*made.warnings, *row.warnings]))
                row.flags = {**made.flags, **row.flags}
    return rows


def _ended_badly(run: Run, root: Path) -> Row | None:
    """The row of a run that diverged; one that was interrupted has not ended."""
    rows = _readable(run, root)
    return rows[-1] if rows and rows[-1].status == "diverged" else None


def _readable(run: Run, root: Path) -> list[Row]:
    """What the run's folder holds; nothing where that cannot be read, so that the run is executed again."""
    try:
        return results_of(run, root)
    except UsageError:
        return []


def results_of(run: Run, root: Path) -> list[Row]:
    """What the run's own folder holds; nothing before it has been run."""
    path = root / run.folder / RESULTS
    return read_rows(path) if path.exists() else []


def kept_rows(root: Path) -> list[Row]:
    """The rows gathered so far in the benchmark's own folder; packed ones count where no others are there.

    Raises:
        UsageError: if they cannot be read, or are of no benchmark.
    """
    for path in (root / name for name in (ROWS, PACKED)):
        if path.exists():
            try:
                rows = read_rows(path)
            except UsageError as error:
                raise UsageError(f"{error}; without this file the same command gathers the rows again") from error
            if any(not isinstance(row.benchmark.get("key"), str) for row in rows):
                raise UsageError(f"{path}: holds rows that are of no benchmark: give another --output")
            return rows
    return []


def finished(run: Run, root: Path, known: Mapping[str, Row]) -> bool:
    """Whether the run need not be executed: its row is known by its key, or its folder holds a complete result."""
    if run.reports and run.key in known:
        return True
    if "ckpt_path" in run.needs and _ended_badly(run.needs["ckpt_path"], root):
        return True
    rows = _readable(run, root)
    complete = bool(rows) and all(row.status != "interrupted" for row in rows)
    return complete and (run.reports or run.weights(root).exists() or _ended_badly(run, root) is not None)
