"""From the shell to the first training step, against importing Lightning and building a Trainer.

    python performance/startup.py

Ours is the command ``fit`` with the quickstart's settings up to the end of its first training step: reading settings,
data and weights. Each is a process of its own; on a CPU its processor time counts.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning.pytorch import Callback
from measuring import Result, arguments, begin, least, machine, show

ROOT = Path(__file__).resolve().parents[1]
LIGHTNING = "import lightning; lightning.Trainer(accelerator='{}', logger=False, enable_checkpointing=False)"


class Stop(Callback):
    """Ends the process as soon as a training step is over."""

    def on_train_batch_end(self, *_: object) -> None:
        """Leaves without clearing up, whose time is not asked for."""
        os._exit(0)


def seconds(command: list[str], device: str) -> float:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "performance")])
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return wall if device == "cuda" else after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int, device: str) -> list[Result]:
    accelerator = "gpu" if device == "cuda" else "cpu"
    fit = ["-m", "lit_unlearn", "fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
    fit += [f"--trainer.accelerator={accelerator}", "--trainer.enable_progress_bar=false"]
    fit += ["--trainer.callbacks+=startup.Stop"]
    commands = [["-c", LIGHTNING.format(accelerator)], fit]
    plain, ours = least([tuple(seconds(command, device) for command in commands) for _ in range(rounds)])
    what, against = "start-up to the first training step", "import lightning, Trainer()"
    return [Result(what, against, f"{plain:.1f} s", f"{ours:.1f} s", ours / plain, "", machine(device))]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = begin(parser, argv)
    show(measure(1 if options.trial else options.rounds, options.device), options.write)


if __name__ == "__main__":
    main()
