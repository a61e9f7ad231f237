"""Executes the runs of a grid: those that are ready, so many at once, each once.

A run is finished when its folder holds a complete results file. The half-written folder of a process that died is
removed when the run starts again; the machine may stop at any moment, and the same command continues.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lit_unlearn.benchmark.gathering import Gathered, finished
from lit_unlearn.benchmark.local import TRIES, LocalPool, RunCommand, run_in_worker
from lit_unlearn.benchmark.runs import POOL, Run
from lit_unlearn.benchmark.slurm import Slurm, SlurmPool
from lit_unlearn.errors import check_at_least
from lit_unlearn.files import locked
from lit_unlearn.reports.rows import Row

More = Callable[[Sequence[Row], Mapping[str, str]], Sequence[Run]]
"""All runs of a grid that grows, as far as the rows so far and the runs that failed say."""


_LEAST_SECONDS = 10.0
"""Between two times that the rows are written while runs are executed."""


@dataclass(frozen=True)
class Launcher:
    """Where runs are executed: in processes of this machine, or as jobs of a cluster.

    Args:
        workers: how many at once; with Slurm, how many jobs of one array.
        threads: of each worker; None leaves it to PyTorch, with Slurm to the cluster. More threads than cores, over all
            workers, slow everything down many times.
        slurm: what each job asks for; None executes the runs here.

    Raises:
        UsageError: for a number out of range.
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
    runs: Sequence[Run],
    root: Path,
    command: RunCommand,
    launcher: Launcher,
    notify: Callable[[Progress], None],
    more: More | None = None,
) -> dict[str, str]:
    """Executes every run that is not finished and writes all rows to ``rows.json``.

    Args:
        runs: the grid, with what each run needs before it.
        root: the output directory. Rows that its ``rows.json`` holds already are finished.
        command: runs one command line, given as a list of words, and raises an error where it fails; it is pickled by
            name.
        launcher: where.
        notify: called whenever something has changed.
        more: asked, whenever a run has ended, for all runs as they are then.

    Returns:
        The key of each run that has no result → why.

    Raises:
        UsageError: if the directory cannot be written or is locked by another process, or Slurm or submitit is not
            there or refuses the jobs.
    """
    refusal = f"output directory {root} is locked by another process: wait for it, or give another --output"
    with locked(root, refusal):
        for half_written in root.glob(".*.part"):  # by a process that was killed
            half_written.unlink()
        gathered = Gathered(root)
        known = {row.benchmark["key"]: row for row in gathered.ordered()}
        open_runs = _unfinished(runs, root, known)
        opened, failed = set(open_runs), dict[str, str]()
        gathered.add(runs)
        write = _Writer(gathered)
        with _pool(command, root, launcher) as pool:
            while open_runs or pool.running:
                _start_ready(open_runs, failed, pool, root, known)
                notify(Progress(len(runs) - len(open_runs) - len(pool.running), len(runs), pool.labels, failed))
                write.if_due(runs)  # while the runs that were just started are executed
                ended = pool.wait()
                failed |= {run.key: error for run, error in ended if error is not None}
                gathered.add(run for run, _ in ended)
                if more is not None and ended:
                    runs = more(gathered.ordered(runs), failed)
                    added = _unfinished(runs, root, known)  # a new run may need one that nothing needed before
                    open_runs |= {key: run for key, run in added.items() if key not in opened}
                    opened |= added.keys()
        gathered.add(runs)
        gathered.write(runs)
        notify(Progress(len(runs), len(runs), [], failed))
    return failed


class _Writer:
    """Writes the rows of a grid every now and then: to judge hundreds of rows takes seconds."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered
        self._due = time.monotonic()

    def if_due(self, runs: Sequence[Run]) -> None:
        """Writes them, unless that was done a moment ago, measured by how long it takes."""
        if (began := time.monotonic()) >= self._due:
            self._gathered.write(runs)
            took = time.monotonic() - began
            self._due = began + took + max(_LEAST_SECONDS, 10 * took)


def _unfinished(runs: Sequence[Run], root: Path, known: Mapping[str, Row]) -> dict[str, Run]:
    """The runs to be executed, by their keys; one that only finished runs need is not executed again."""
    found = {run.key: run for run in runs if not finished(run, root, known)}
    wanted = {key for key, run in found.items() if run.reports}
    for run in reversed(runs):
        if run.key in wanted:
            wanted |= {need.key for need in run.needs.values()}
    return {key: run for key, run in found.items() if key in wanted}


def _start_ready(
    open_runs: dict[str, Run],
    failed: dict[str, str],
    pool: LocalPool | SlurmPool,
    root: Path,
    known: Mapping[str, Row],
) -> None:
    """Gives the runs whose needs are there to the pool, as far as it has room, and takes out those that cannot run."""
    for key, run in list(open_runs.items()):
        needed = {need.key for need in run.needs.values()}
        if not needed & open_runs.keys() and finished(run, root, known):
            del open_runs[key]  # the run that it was to measure has diverged
        elif lost := {need.key for place, need in run.needs.items() if not place.startswith(POOL)} & failed.keys():
            failed[key] = f"what it needs has failed: {', '.join(sorted(lost))}"
            del open_runs[key]
        elif pool.has_room and not needed & (open_runs.keys() | pool.running.keys()):
            pool.submit(open_runs.pop(key))


def _pool(command: RunCommand, root: Path, launcher: Launcher) -> LocalPool | SlurmPool:
    if launcher.slurm is None:
        return LocalPool(command, root, launcher.workers, launcher.threads)
    job = partial(_run_unfinished, command, root)
    return SlurmPool(job, root, launcher.slurm, launcher.workers, launcher.threads, TRIES)


def _run_unfinished(command: RunCommand, root: Path, run: Run) -> str | None:
    """Executes one run in a job, unless the job was put back into the queue after it had finished."""
    return None if finished(run, root, {}) else run_in_worker(command, run, root)
