import sys

import fake_runs
import pytest

from lit_unlearn.benchmark import Grid, Launcher, Slurm, execute, make_runs
from lit_unlearn.errors import UsageError


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"time": 0}, "launcher.slurm.time is 0"),
        ({"cpus": 0}, "launcher.slurm.cpus is 0"),
        ({"gpus": 2}, "launcher.slurm.gpus is 2"),
        ({"every": 0.0}, "launcher.slurm.every is 0.0"),
    ],
)
def test_what_no_job_can_ask_for_is_one_line(settings, said):
    with pytest.raises(UsageError, match=said):
        Slurm(**settings)


@pytest.mark.parametrize("missing", ["submitit", "sbatch", "squeue"])
def test_what_is_missing_is_one_line_and_nothing_runs_here_instead(experiments, tmp_path, monkeypatch, missing):
    for command in ("sbatch", "srun", "squeue"):
        if command != missing:
            (tmp_path / command).write_text("#!/bin/sh\n")
            (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if missing == "submitit":
        monkeypatch.setitem(sys.modules, "submitit", None)
    said = {
        "submitit": r"launcher.slurm needs submitit: pip install 'lit_unlearn\[slurm\]'",
    }.get(missing, f"launcher.slurm: there is no {missing} here")
    runs = make_runs(Grid(**experiments(("class",), opc={})))
    with pytest.raises(UsageError, match=said):
        execute(runs, tmp_path / "out", fake_runs.run, Launcher(slurm=Slurm()), lambda progress: None)
    assert not (tmp_path / "out/journal").exists()


def test_a_queue_that_does_not_answer_is_one_line(experiments, tmp_path, monkeypatch):
    for command in ("sbatch", "srun", "squeue"):
        (tmp_path / command).write_text("#!/bin/sh\necho 'before' >&2\necho 'no controller' >&2\nexit 1\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    runs = make_runs(Grid(**experiments(("class",), opc={})))
    with pytest.raises(UsageError, match=r"^Slurm does not answer: no controller$"):
        execute(runs, tmp_path / "out", fake_runs.run, Launcher(slurm=Slurm()), lambda progress: None)
