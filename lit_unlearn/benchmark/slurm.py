"""Executes runs as jobs of Slurm, through submitit: the runs that are ready go into the queue as one job array.

Jobs outlive the command. Which job has which run is written down, so that the same command, called again after it was
stopped, waits for the jobs that are still there and does not send their runs a second time. A job that Slurm puts back
into the queue starts its run again, unless the run was finished. A job that is gone without an answer is found by
asking the queue (``squeue``), so that no accounting data base is needed.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_unlearn.benchmark.runs import Run
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.files import write_atomically

if TYPE_CHECKING:
    import submitit

FOLDER, JOBS = ".slurm", "jobs.json"
_GONE = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
)  # fmt: skip


@dataclass(frozen=True)
class Slurm:
    """What each job asks for; a job is one run, in one process.

    Args:
        partition: None takes the cluster's own choice.
        time: minutes after which a job is ended, and its run has failed.
        cpus: of each job.
        gpus: of each job, none or one.
        extra: further options of ``sbatch`` by their long names, such as ``{account: mine, mem: 8G}``.
        every: seconds between two looks at the queue.

    Raises:
        UsageError: for a number out of range.
    """

    partition: str | None = None
    time: int = 60
    cpus: int = 1
    gpus: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    every: float = 10.0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("time", "cpus"):
            check_at_least(f"launcher.slurm.{name}", getattr(self, name), 1)
        if self.gpus not in (0, 1):
            raise UsageError(f"launcher.slurm.gpus is {self.gpus}, but a run uses none or one")
        check_at_least("launcher.slurm.every", self.every, 0, strict=True)


@dataclass
class _Given:
    """A run that was given to Slurm.

    Attributes:
        run: the run.
        job: None until it is sent.
        state: what the queue last said of the job.
        missed: whether the queue did not know it when it was last asked.
        tries: how often it was sent.
    """

    run: Run
    job: "submitit.Job[str | None] | None" = None
    state: str = "PENDING"
    missed: bool = False
    tries: int = 0

    @property
    def answered(self) -> bool:
        return self.job is not None and self.job.paths.result_pickle.exists()


class SlurmPool:
    """Cells that wait or run in the queue.

    Args:
        run: executes one run in a job and returns why it failed; it is pickled by name.
        root: the benchmark's own folder, which all nodes must see.
        options: what each job asks for.
        workers: how many jobs of one array may run at once.
        threads: of each; None leaves it to the cluster.
        tries: how often a run is sent whose job is lost.

    Attributes:
        running: what was given to Slurm and has not ended, by key.

    Raises:
        UsageError: if submitit or Slurm is not there.
    """

    has_room = True

    def __init__(
        self,
        run: Callable[[Run], str | None],
        root: Path,
        options: Slurm,
        workers: int,
        threads: int | None,
        tries: int,
    ) -> None:
        self.run, self.options, self.tries = run, options, tries
        self.folder = root / FOLDER
        self.executor = _executor(self.folder, options, workers, threads)
        self.running: dict[str, _Given] = {}
        self._seen = _in_queue()
        self._looked = time.monotonic()
        path = self.folder / JOBS
        written: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        self._before = {key: job for key, job in written.items() if job in self._seen}

    def __enter__(self) -> "SlurmPool":
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves the jobs where they are."""

    @property
    def labels(self) -> list[str]:
        """What is executed, and how many runs wait for a node."""
        given = self.running.values()
        running = [one.run.label for one in given if one.state not in ("PENDING", "CONFIGURING")]
        waiting = len(given) - len(running)
        return [*running, *([f"{waiting} in the queue"] if waiting else [])]

    def submit(self, run: Run) -> None:
        """Takes a run into the next array, or finds the job that an earlier call of the command has sent for it."""
        from submitit import SlurmJob

        given = self.running[run.key] = _Given(run)
        if (job := self._before.pop(run.key, None)) is not None:
            given.job, given.state = SlurmJob(self.folder, job, [0]), self._seen[job]

    def wait(self) -> list[tuple[Run, str | None]]:
        """Sends what is ready and waits until something has changed.

        Returns:
            The runs that have ended, each with why it failed; none if only the queue has moved.

        Raises:
            UsageError: if Slurm refuses the jobs.
        """
        self._send()
        while self.running:
            results = [(one.run, _answer(one)) for one in self.running.values() if one.answered]
            moved = False
            if time.monotonic() - self._looked >= self.options.every:
                moved, lost = self._look()
                results += lost
            for run, _ in results:
                del self.running[run.key]
            if results or moved:
                return results
            time.sleep(min(1.0, self.options.every))
        return []

    def _send(self) -> None:
        from submitit.core.utils import FailedJobError
        from submitit.helpers import clean_env

        ready = [one for one in self.running.values() if one.job is None]
        if not ready:
            return
        try:
            with clean_env():  # the command may itself be a job
                jobs = self.executor.map_array(self.run, [one.run for one in ready])
        except (FailedJobError, subprocess.CalledProcessError) as error:
            raise UsageError(f"Slurm refuses the jobs: {_last_line(error)}") from error
        for one, job in zip(ready, jobs, strict=True):
            one.job, one.state, one.missed, one.tries = job, "PENDING", False, one.tries + 1
        ids = {key: one.job.job_id for key, one in self.running.items() if one.job is not None}
        write_atomically(self.folder / JOBS, json.dumps(self._before | ids, indent=1) + "\n")

    def _look(self) -> tuple[bool, list[tuple[Run, str | None]]]:
        """Asks the queue; returns whether it has moved, and the runs that have lost their last job."""
        moved = False
        lost: list[tuple[Run, str | None]] = []
        self._looked = time.monotonic()
        try:
            self._seen = _in_queue()
        except UsageError:
            return moved, lost  # a controller that is down for a while costs no job
        for one in self.running.values():
            if one.job is None or one.answered:
                continue
            state = self._seen.get(one.job.job_id)
            if state is not None:
                moved |= state != one.state
                one.state, one.missed = state, False
            elif not one.missed:
                one.missed = True  # its answer may still be on its way through the file system
            elif one.tries < self.tries:
                one.job, moved = None, True
            else:
                lost.append((one.run, f"its job {one.job.job_id} was lost (see {self.folder})"))
        return moved, lost


def _executor(folder: Path, options: Slurm, workers: int, threads: int | None) -> "submitit.SlurmExecutor":
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UsageError("launcher.slurm needs submitit: pip install 'lit_unlearn[slurm]'") from error
    for command in ("sbatch", "srun", "squeue"):
        if shutil.which(command) is None:
            raise UsageError(f"launcher.slurm: there is no {command} here: run the command where jobs are submitted")
    executor = submitit.SlurmExecutor(folder)
    asked: dict[str, Any] = {
        "job_name": "lit_unlearn",
        "time": options.time,
        "signal_delay_s": min(90, 30 * options.time),  # the signal comes before the time is over, and not at the start
        "ntasks_per_node": 1,
        "cpus_per_task": options.cpus,
        # Since Slurm 22.05 srun no longer takes this over from sbatch.
        "srun_args": [f"--cpus-per-task={options.cpus}"],
        "array_parallelism": workers,
        "setup": [] if threads is None else [f"export OMP_NUM_THREADS={threads}"],
        "additional_parameters": {"requeue": True, **options.extra},
    }
    if options.partition is not None:
        asked["partition"] = options.partition
    if options.gpus:
        asked["gpus_per_node"] = options.gpus
    executor.update_parameters(**asked)
    return executor


def _in_queue() -> dict[str, str]:
    """The state of each of one's own jobs that Slurm still means to run or to end, by its number.

    Raises:
        UsageError: if Slurm does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"Slurm does not answer: {_last_line(error)}") from error
    jobs = (line.split() for line in said.splitlines())
    return {number: state for number, state in jobs if state not in _GONE}


def _answer(given: _Given) -> str | None:
    """Why a job that has answered failed."""
    assert given.job is not None
    error = given.job.exception()
    return given.job.result() if error is None else f"{_last_line(error)} (see {given.job.paths.stderr})"


def _last_line(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    lines: Sequence[str] = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
