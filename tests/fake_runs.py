"""Stand-ins for the command line, which a benchmark's worker processes import by name."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from lit_unlearn.benchmark import Grid, Launcher, Seeds, Slurm, execute, make_runs
from lit_unlearn.reports import Row, write_rows


class Terminated(SystemExit):
    """What Lightning raises after SIGTERM is of that kind."""


ENDS = {"exit": SystemExit(3), "be terminated": Terminated(), "interrupt": KeyboardInterrupt()}
"""What is no ``Exception``, by what an experiment's settings wish."""


def run(args: list[str]) -> None:
    """Writes what a run leaves behind; an experiment's settings may let it fail, die or take its time."""
    subcommand, _, path = args
    settings = yaml.safe_load(Path(path).read_text())
    logger = settings["trainer"]["logger"]["init_args"]
    folder = Path(logger["save_dir"], logger["name"], logger["version"])
    root = Path(logger["save_dir"])
    wish = settings["model"]["init_args"].get("wish")
    evaluation = settings["evaluation"]
    needed = [settings["model"]["init_args"].get("weights"), evaluation["retrain"], *evaluation.get("pool", ())]
    for weights in [*needed, settings.get("ckpt_path")]:
        assert weights is None or Path(weights).suffix == ".pt" or Path(weights).read_text() == "weights"
    if wish == "fail":
        with (root / "failures").open("a") as failures:
            failures.write(logger["version"].removeprefix("run-") + "\n")
        raise ValueError("as it was\ntold")
    if wish in ENDS:
        raise ENDS[wish]
    if wish == "ignore SIGTERM":  # Lightning catches it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (root / "deaf").touch()
        while not (root / "died").exists():
            time.sleep(0.01)
    while wish == "die beside it" and not (root / "deaf").exists():
        time.sleep(0.01)
    if wish in ("die", "die beside it") or (wish == "die once" and not (root / "died").exists()):
        (root / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if wish == "kill the benchmark once" and not (root / f"{settings['model']['class_path']} killed").exists():
        (root / f"{settings['model']['class_path']} killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    time.sleep(settings["model"]["init_args"].get("pause", 0))
    method = settings["model"]["class_path"]
    fits = subcommand == "fit"
    names = ["Original", "Retrain"] if method == "FineTune" and not fits else [method]
    if wish == "change nothing" and not fits:
        names = ["Original"]
    split = {"hash": logger["name"].partition("/")[0], "forgotten_classes": []}
    seed = settings["seed_everything"]
    metrics = {"forget_acc": 0.5, "retain_acc": 0.9, "test_retain_acc": 0.8 + 0.01 * seed}
    seconds = {"unlearn": 1.5} if fits else {"attack": 2.0}
    status = "diverged" if fits and wish == "diverge" else "ok"
    if wish == "interrupted once" and not (root / "interrupted").exists():
        (root / "interrupted").touch()
        status = "interrupted"
    epochs = 3 if fits else None
    rows = [Row(n, status, metrics=metrics, split=split, seed=seed, seconds=seconds, epochs=epochs) for n in names]
    if status == "ok":
        (folder / "unlearned.ckpt").write_text("weights")
    write_rows(folder / "results.json", rows)
    with (root / "journal").open("a") as journal:
        journal.write(logger["version"].removeprefix("run-") + "\n")


if __name__ == "__main__":
    import fake_runs  # so that a job finds the function by its name

    experiments, output, *on = sys.argv[1:]
    if on == ["slurm"]:
        runs, launcher = make_runs(Grid(**json.loads(experiments))), Launcher(4, 1, Slurm(every=0.5))
    else:
        runs, launcher = make_runs(Grid(**json.loads(experiments), seeds=Seeds(originals=2))), Launcher(workers=2)
    print(execute(runs, Path(output), fake_runs.run, launcher, lambda progress: None))
