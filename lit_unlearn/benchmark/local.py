"""Executes runs in processes of this machine, each with a log of its own."""

import contextlib
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
import yaml

from lit_unlearn.benchmark.gathering import results_of
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.files import write_atomically
from lit_unlearn.own_code import own_code

LOG, CONFIG = "log.txt", "run.yaml"
TRIES = 2  # a worker may be killed for what another process did; a run that kills two is at fault

RunCommand = Callable[[list[str]], None]
"""Runs one command line in this process; raises where it fails. It is pickled by name."""


class LocalPool:
    """Worker processes that execute run after run, and are replaced when one dies.

    A worker that dies takes the others with it. What was executed then is tried once more, one run at a time, so that
    only a run that kills the worker that it has alone is called failed.
    """

    def __init__(self, command: RunCommand, root: Path, workers: int, threads: int | None) -> None:
        self.command, self.root, self.workers, self.threads = command, root, workers, threads
        self.running: dict[str, Run] = {}
        self._futures: dict[str, Future[str | None]] = {}
        self._suspects: list[str] = []
        self._executor, self._lifeline = self._start()

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with _interrupt_held_back():  # a second one would leave semaphores behind
            if kind is not None:
                self._lifeline.close()
            self._executor.shutdown(cancel_futures=True)
            self._lifeline.close()

    @property
    def has_room(self) -> bool:
        """Whether a process is free, and no run must be executed alone."""
        return not self._suspects and len(self.running) < self.workers

    @property
    def labels(self) -> list[str]:
        """What is executed now, for the progress bar."""
        return [self.running[key].label for key in self._futures]

    def submit(self, run: Run) -> None:
        """Gives a run to a free process."""
        self.running[run.key] = run
        self._give(run)

    def wait(self) -> list[tuple[Run, str | None]]:
        """Waits for at least one run to end; returns none if a worker was killed and all is to be tried once more."""
        if not self.running:
            return []
        wait(self._futures.values(), return_when=FIRST_COMPLETED)
        results: list[tuple[Run, str | None]] = []
        broken = False
        for key, future in list(self._futures.items()):
            if future.done():
                try:
                    results.append((self.running[key], future.result()))
                except BrokenProcessPool:
                    broken = True
                    continue
                except Exception as error:  # its folder cannot be written, or what it left cannot be read
                    results.append((self.running[key], " ".join(str(error).split()) or type(error).__name__))
                del self._futures[key]
        if broken:
            results += [(self.running[key], "its process was killed") for key in self._suspects if key in self._futures]
            self._replace_workers()
        for run, _ in results:
            del self.running[run.key]
        self._suspects = [key for key in self._suspects if key in self.running]
        if self._suspects and not self._futures:
            self._give(self.running[self._suspects[0]])
        return results

    def _give(self, run: Run) -> None:
        try:
            self._futures[run.key] = self._given(run)
        except BrokenProcessPool:  # a worker died since the last wait
            self._replace_workers()
            self._futures[run.key] = self._given(run)

    def _given(self, run: Run) -> "Future[str | None]":
        with _interrupt_held_back():  # a worker that it starts is deaf to Ctrl-C, and ends with the benchmark
            return self._executor.submit(_run_without_exit, self.command, run, self.root)

    def _replace_workers(self) -> None:
        """Starts new workers after one has died; what the old ones executed is to be tried once more."""
        ended = {key: future for key, future in self._futures.items() if future.done() and not future.exception()}
        self._suspects += [key for key in self._futures if key not in (*ended, *self._suspects)]
        self._futures = ended
        self._lifeline.close()  # before it is waited for their end: Lightning catches the SIGTERM that they get
        self._executor.shutdown(cancel_futures=True)
        self._executor, self._lifeline = self._start()

    def _start(self) -> tuple[ProcessPoolExecutor, Connection]:
        """New workers, and the end of a pipe: they exit when it is closed, or when this process is killed."""
        if self.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)  # read when a worker starts
        reader, writer = get_context("spawn").Pipe(duplex=False)
        begun = get_context("spawn").Value("i", 0)
        executor = ProcessPoolExecutor(
            self.workers, get_context("spawn"), initializer=_begin_worker, initargs=(reader, begun, visible_gpus())
        )
        return executor, writer


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Lets Ctrl-C wait until the block has ended; processes that are started in it never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` gives them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


def _begin_worker(reader: Connection, begun: "Synchronized[int]", gpus: Sequence[str]) -> None:
    """Gives this worker one of the GPUs, in turn, and ends it with the benchmark."""
    with begun.get_lock():
        number = begun.value
        begun.value += 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    _exit_with_benchmark(reader)


def _exit_with_benchmark(reader: Connection) -> None:
    """Ends this worker when the benchmark ends or is killed, so that it does not write where the next one writes.

    The exit is immediate: Lightning catches SIGTERM.
    """

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            reader.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_without_exit(command: RunCommand, run: Run, root: Path) -> str | None:
    """Executes one run in a worker; a run that would end its process has failed, and the worker stays.

    A job of a cluster does end then, so that the cluster can start it again.
    """
    try:
        return run_in_worker(command, run, root)
    except SystemExit as error:  # Lightning's answer to SIGTERM is one, too
        path = root / run.folder / LOG
        with path.open("a") as log:
            traceback.print_exc(file=log)
        return f"it ended with {' '.join([type(error).__name__, *str(error).split()])} (see {path})"


def run_in_worker(command: RunCommand, run: Run, root: Path) -> str | None:
    """Executes one run in a worker; returns why it failed."""
    code = own_code(run.settings)
    if changed := sorted(each for each in code.keys() | run.code.keys() if code.get(each) != run.code.get(each)):
        return f"the code of {', '.join(changed)} has changed since the benchmark began: start it again"
    folder = root / run.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_atomically(folder / CONFIG, yaml.safe_dump(run.config(root), sort_keys=False))
    with (folder / LOG).open("w", buffering=1) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)  # what C++ and handlers made at import write goes there too
        try:
            command([run.subcommand, "--config", str(folder / CONFIG)])
        except Exception as error:  # whatever a method does, the other runs go on
            traceback.print_exc(file=log)
            return f"{' '.join(str(error).split()) or type(error).__name__} (see {folder / LOG})"
    rows = results_of(run, root)
    if any(row.status == "interrupted" for row in rows):
        return f"it was interrupted (see {folder / LOG})"
    return None if rows else f"it left no results (see {folder / LOG})"
