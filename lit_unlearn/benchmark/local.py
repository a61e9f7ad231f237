"""Runs cells in processes of this machine, each with a log of its own."""

import os
import shutil
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path

import yaml

from lit_unlearn.benchmark.cells import Cell
from lit_unlearn.benchmark.gathering import results_of
from lit_unlearn.files import write_atomically

LOG, CONFIG = "log.txt", "cell.yaml"
TRIES = 2  # a worker may be killed for what another process did; a cell that kills two is at fault

RunCell = Callable[[list[str]], None]
"""Runs one command line in this process; raises where it fails. It is pickled by name."""


class LocalPool:
    """Worker processes that outlive a cell, and are replaced when one dies."""

    def __init__(self, run: RunCell, root: Path, workers: int, threads: int | None) -> None:
        self.run, self.root, self.workers, self.threads = run, root, workers, threads
        self.running: dict[str, tuple[Cell, Future[str | None]]] = {}
        self._tries: dict[str, int] = {}
        self._executor = self._start()

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            for process in list(self._executor._processes.values()):
                process.kill()  # Lightning catches the milder signal
        self._executor.shutdown(cancel_futures=True)

    @property
    def has_room(self) -> bool:
        """Whether a process is free."""
        return len(self.running) < self.workers

    @property
    def labels(self) -> list[str]:
        """What runs now, for a person to read."""
        return [cell.label for cell, _ in self.running.values()]

    def submit(self, cell: Cell) -> None:
        """Gives a cell to a free process."""
        self._tries[cell.key] = self._tries.get(cell.key, 0) + 1
        self.running[cell.key] = cell, self._executor.submit(run_cell, self.run, cell, self.root)

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
            if self._tries[cell.key] < TRIES:
                self.submit(cell)
            else:
                results.append((cell, "its process was killed"))
        return results

    def _start(self) -> ProcessPoolExecutor:
        if self.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)  # read when a worker starts
        return ProcessPoolExecutor(self.workers, get_context("spawn"), initializer=_die_with_parent)


def _die_with_parent() -> None:
    """Ends this worker when the benchmark is killed, so that nobody writes where the next one writes."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_cell(run: RunCell, cell: Cell, root: Path) -> str | None:
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
    rows = results_of(cell, root)
    if any(row.status == "interrupted" for row in rows):
        return f"it was interrupted (see {folder / LOG})"
    return None if rows else f"it left no results (see {folder / LOG})"
