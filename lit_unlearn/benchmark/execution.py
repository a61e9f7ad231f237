"""Runs the cells of a grid: those that are ready, so many at once, each once.

What is finished is what has a whole results file of its own key. A process that dies takes its half-written folder
with it when the cell is next begun; the machine may stop at any moment and the same command goes on from there.
"""

import fcntl
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import yaml

from lit_unlearn.benchmark.grid import Cell
from lit_unlearn.benchmark.slurm import Slurm, SlurmPool
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, read_rows, write_atomically, write_rows

RESULTS, ROWS, LOG, CONFIG = "results.json", "rows.json", "log.txt", "cell.yaml"
_TRIES = 2  # a worker may be killed for what another process did; a cell that kills two is at fault

RunCell = Callable[[list[str]], None]
"""Runs one command line in this process; raises where it fails. It is pickled by name."""


@dataclass(frozen=True)
class Launcher:
    """Where cells run: in this machine's processes, or as jobs of a cluster.

    Args:
        workers: how many at once; of jobs, how many of one array.
        threads: of each. More threads than cores, over all workers, slow everything down many times.
        slurm: what each job asks for; None runs the cells here.
    """

    workers: int = 1
    threads: int | None = None
    slurm: Slurm | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"launcher.{name} is {value}, but must be at least 1")


@dataclass
class Progress:
    """How far a grid is: what is done, what runs, what is left, and what failed, by key, with its reason."""

    done: int
    total: int
    running: list[str]
    failed: dict[str, str]


def execute(
    cells: Sequence[Cell], root: Path, run: RunCell, launcher: Launcher, tell: Callable[[Progress], None]
) -> dict[str, str]:
    """Runs every cell that is not finished and writes all rows to ``rows.json``.

    Args:
        cells: the grid, with what each cell needs before it.
        root: the benchmark's own folder. Rows that its ``rows.json`` holds already are finished.
        run: what runs one command line.
        launcher: where.
        tell: called whenever something has changed.

    Returns:
        The key of each cell that has no result → why.

    Raises:
        UsageError: if the folder cannot be written or another benchmark is at work in it.
    """
    with _locked(root):
        known = {row.benchmark["key"]: row for row in _kept(root)}
        open_cells = {cell.key: cell for cell in cells if not _finished(cell, root, known)}
        # What only serves finished cells need not be made again.
        wanted = {key for key, cell in open_cells.items() if cell.reports}
        for cell in reversed(cells):
            if cell.key in wanted:
                wanted |= {need.key for need in cell.needs.values()}
        open_cells = {key: cell for key, cell in open_cells.items() if key in wanted}
        failed: dict[str, str] = {}
        with _pool(run, root, launcher) as pool:
            while open_cells or pool.running:
                for key, cell in list(open_cells.items()):
                    needed = {need.key for need in cell.needs.values()}
                    if not needed & open_cells.keys() and _finished(cell, root, known):
                        del open_cells[key]  # what it was to measure has ended badly
                    elif lost := needed & failed.keys():
                        failed[key] = f"what it needs has failed: {', '.join(sorted(lost))}"
                        del open_cells[key]
                    elif pool.has_room and not needed & (open_cells.keys() | pool.running.keys()):
                        pool.submit(open_cells.pop(key))
                tell(Progress(len(cells) - len(open_cells) - len(pool.running), len(cells), pool.labels, failed))
                for cell, error in pool.wait():
                    if error is not None:
                        failed[cell.key] = error
                    collect(cells, root)
        collect(cells, root)
        tell(Progress(len(cells), len(cells), [], failed))
    return failed


def collect(cells: Sequence[Cell], root: Path) -> list[Row]:
    """Gathers the rows of finished cells into ``rows.json``, beside those that it holds already, and returns them.

    Of two rows of one experiment, scenario and seeds, the one with today's settings stays.
    """
    rows = {_identity(row): row for row in _kept(root)}
    for cell in cells:
        for row in _rows_of(cell, root) if cell.reports and _finished(cell, root, {}) else ():
            row.benchmark = {
                "key": cell.key,
                "scenario": cell.scenario,
                "experiment": cell.name,
                "seeds": dict(cell.seeds),
                "variant": dict(cell.variant),
            }
            row.curves = {}
            rows[_identity(row)] = row
    place = {cell.key: index for index, cell in enumerate(cells)}
    ordered = sorted(rows.values(), key=lambda row: place.get(row.benchmark["key"], len(place)))
    if ordered:
        write_rows(root / ROWS, ordered)
    return ordered


def _rows_of(cell: Cell, root: Path) -> list[Row]:
    """What a cell measured, each row with how its model was made; a model that was not made well is not measured."""
    makers = {ORIGINAL: "model.init_args.weights", RETRAIN: "evaluation.retrain"}
    unlearned = cell.needs.get("ckpt_path")
    if unlearned is not None and (failed := _ended_badly(unlearned, root)):
        return [failed]
    rows = _results(cell, root)
    for row in rows if cell.subcommand == "validate" else ():
        maker = cell.needs[makers[row.method]] if unlearned is None else unlearned
        for made in _results(maker, root)[-1:]:
            row.seconds = {**made.seconds, **row.seconds}
            row.optimizer, row.epochs, row.batch_size = made.optimizer, made.epochs, made.batch_size
            if unlearned is not None:
                row.hyperparameters, row.seed, row.weights = made.hyperparameters, made.seed, made.weights
    return rows


def _ended_badly(cell: Cell, root: Path) -> Row | None:
    """The row of a run that diverged; one that was interrupted has not ended."""
    rows = _results(cell, root)
    return rows[-1] if rows and rows[-1].status == "diverged" else None


def _results(cell: Cell, root: Path) -> list[Row]:
    path = root / cell.folder / RESULTS
    return read_rows(path) if path.exists() else []


def _identity(row: Row) -> tuple[str, ...]:
    told = row.benchmark
    varied = [sorted(told.get(name, {}).items()) for name in ("seeds", "variant")]
    return told["scenario"], told["experiment"], str(varied), row.method


def _kept(root: Path) -> list[Row]:
    return read_rows(root / ROWS) if (root / ROWS).exists() else []


def _finished(cell: Cell, root: Path, known: Mapping[str, Row]) -> bool:
    if cell.reports and cell.key in known:
        return True
    if "ckpt_path" in cell.needs and _ended_badly(cell.needs["ckpt_path"], root):
        return True
    rows = _results(cell, root)
    whole = bool(rows) and all(row.status != "interrupted" for row in rows)
    return whole and (cell.reports or cell.weights(root).exists())


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / ".lock").open("a")
    except OSError as error:
        raise UsageError(f"cannot write to {root}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another benchmark is at work in {root}: wait for it, or give another output") from error
        yield


def _pool(run: RunCell, root: Path, launcher: Launcher) -> "_Pool | SlurmPool":
    if launcher.slurm is None:
        return _Pool(run, root, launcher)
    job = partial(_run_unfinished, run, root)
    return SlurmPool(job, root, launcher.slurm, launcher.workers, launcher.threads, _TRIES)


class _Pool:
    """Worker processes that outlive a cell, and are replaced when one dies."""

    def __init__(self, run: RunCell, root: Path, launcher: Launcher) -> None:
        self.run, self.root, self.launcher = run, root, launcher
        self.running: dict[str, tuple[Cell, Future[str | None]]] = {}
        self._tries: dict[str, int] = {}
        self._executor = self._start()

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            for process in list(self._executor._processes.values()):
                process.kill()  # Lightning catches the milder signal
        self._executor.shutdown(cancel_futures=True)

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.launcher.workers

    @property
    def labels(self) -> list[str]:
        return [cell.label for cell, _ in self.running.values()]

    def submit(self, cell: Cell) -> None:
        self._tries[cell.key] = self._tries.get(cell.key, 0) + 1
        self.running[cell.key] = cell, self._executor.submit(_run_cell, self.run, cell, self.root)

    def wait(self) -> list[tuple[Cell, str | None]]:
        """Waits for at least one cell; a cell whose worker was killed is tried once more."""
        if not self.running:
            return []
        wait([future for _, future in self.running.values()], return_when=FIRST_COMPLETED)
        ended = [(cell, future) for cell, future in self.running.values() if future.done()]
        results: list[tuple[Cell, str | None]] = []
        killed = []
        for cell, future in ended:
            del self.running[cell.key]
            try:
                results.append((cell, future.result()))
            except BrokenProcessPool:
                killed.append(cell)
        if killed:
            killed += [cell for cell, _ in self.running.values()]
            self.running.clear()
            self._executor.shutdown(cancel_futures=True)
            self._executor = self._start()
        for cell in killed:
            if self._tries[cell.key] < _TRIES:
                self.submit(cell)
            else:
                results.append((cell, "its process was killed"))
        return results

    def _start(self) -> ProcessPoolExecutor:
        threads = self.launcher.threads
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when a worker starts
        return ProcessPoolExecutor(self.launcher.workers, get_context("spawn"), initializer=_die_with_parent)


def _die_with_parent() -> None:
    """Ends this worker when the benchmark is killed, so that nobody writes where the next one writes."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_unfinished(run: RunCell, root: Path, cell: Cell) -> str | None:
    """Runs one cell in a job, unless the job has run before and had finished it."""
    return None if _finished(cell, root, {}) else _run_cell(run, cell, root)


def _run_cell(run: RunCell, cell: Cell, root: Path) -> str | None:
    """Runs one cell in a worker; returns why it failed."""
    folder = root / cell.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_atomically(folder / CONFIG, yaml.safe_dump(cell.config(root), sort_keys=False))
    with (folder / LOG).open("w", buffering=1) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)  # what C++ and handlers made at import write goes there too
        try:
            run([cell.subcommand, "--config", str(folder / CONFIG)])
        except Exception as error:  # whatever a method does, the other cells go on
            traceback.print_exc(file=log)
            return f"{' '.join(str(error).split()) or type(error).__name__} (see {folder / LOG})"
    rows = _results(cell, root)
    if any(row.status == "interrupted" for row in rows):
        return f"it was interrupted (see {folder / LOG})"
    return None if rows else f"it left no results (see {folder / LOG})"
