"""Runs the cells of a grid: those that are ready, so many at once, each once.

What is finished is what has a whole results file of its own key. A process that dies takes its half-written folder
with it when the cell is next begun; the machine may stop at any moment and the same command goes on from there.
"""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lit_unlearn.benchmark.cells import Cell
from lit_unlearn.benchmark.gathering import collect, finished, kept_rows
from lit_unlearn.benchmark.local import TRIES, LocalPool, RunCell, run_cell
from lit_unlearn.benchmark.slurm import Slurm, SlurmPool
from lit_unlearn.errors import UsageError, check_at_least


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
            if value is not None:
                check_at_least(f"launcher.{name}", value, 1)


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
        known = {row.benchmark["key"]: row for row in kept_rows(root)}
        open_cells = {cell.key: cell for cell in cells if not finished(cell, root, known)}
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
                    if not needed & open_cells.keys() and finished(cell, root, known):
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


def _pool(run: RunCell, root: Path, launcher: Launcher) -> LocalPool | SlurmPool:
    if launcher.slurm is None:
        return LocalPool(run, root, launcher.workers, launcher.threads)
    job = partial(_run_unfinished, run, root)
    return SlurmPool(job, root, launcher.slurm, launcher.workers, launcher.threads, TRIES)


def _run_unfinished(run: RunCell, root: Path, cell: Cell) -> str | None:
    """Runs one cell in a job, unless the job has run before and had finished it."""
    return None if finished(cell, root, {}) else run_cell(run, cell, root)
