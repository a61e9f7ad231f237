"""Benchmarks whose runs are jobs."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import fake_runs
import pytest
from slurm_here import ROOT, User
from submitit.core.utils import DelayedSubmission

from lit_unlearn.benchmark import Grid, make_runs
from lit_unlearn.reports import read_rows

pytestmark = pytest.mark.cluster


def test_the_command_runs_digits_as_job_arrays(user: User) -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    (documented,) = re.findall(r"^lit-unlearn benchmark .*$", page, re.MULTILINE)
    part = ("--grid.methods=[opc]", "--grid.scenarios=[class]", "--grid.attacks=attack/recovery")
    here = ("--launcher.slurm.gpus=0", "--launcher.slurm.cpus=1", "--launcher.threads=1", "--launcher.slurm.every=0.5")
    few = ("--grid.pool=false", "--grid.seeds={originals: 1, references: 1, nested: false}")
    brief = ("--grid.overrides={trainer: {max_epochs: 1}}", "--launcher.slurm.extra.comment=mine", "--output=out")
    command = user.start(*documented.split(), *part, *few, *here, *brief)
    user.until(lambda: command.poll() is not None, "the end of the benchmark")
    said = (user.folder / "out.txt").read_text()
    assert command.returncode == 0, said
    assert "Written to out/rows.json: 3 rows" in said
    rows = read_rows(user.folder / "out/rows.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "OPC"]
    assert all(row.status == "ok" and row.attacks for row in rows)
    assert {row.devices["threads"] for row in rows} == {1}
    sent = [path.read_text() for path in (user.folder / "out/.slurm").glob("*_submission.sh")]
    arrays = sorted(found[1] for text in sent for found in re.finditer(r"--array=(\S+)", text))
    assert arrays[0] == "0-1%2", "the Retrain and the unlearning, as soon as there is an original"
    assert all("#SBATCH --comment=mine" in text and " --cpus-per-task=1 " in text for text in sent)


def stand_in(user: User, grid: dict[str, Any]) -> subprocess.Popen[str]:
    """The benchmark of a stand-in for the command line, with jobs."""
    return user.start(sys.executable, fake_runs.__file__, json.dumps(grid), user.folder / "out", "slurm")


def test_jobs_outlive_the_command_are_put_back_and_get_lost_and_each_run_is_executed_once(
    user: User, experiments: Callable[..., dict[str, Any]]
) -> None:
    grid = experiments(("class",), opc={"pause": 10.0}, ga={"wish": "die"})
    runs = make_runs(Grid(**grid))
    slow, lost = (next(run for run in runs if run.name == name) for name in ("opc", "ga"))
    first = stand_in(user, grid)
    user.until((user.folder / "out" / slow.folder / "log.txt").exists, "the slow run running")
    first.kill()
    first.wait()
    jobs = user.folder / "out/.slurm"
    job = json.loads((jobs / "jobs.json").read_text())[slow.key]
    user.slurm.ask("scontrol", "requeue", job)
    second = stand_in(user, grid)
    user.until(lambda: second.poll() is not None, "the end of the second call")
    said = (user.folder / "out.txt").read_text()
    assert second.returncode == 0, said
    once = {run.key: 1 for run in runs if run.name != "ga"}
    assert Counter((user.folder / "out/journal").read_text().split()) == once
    sent = Counter(DelayedSubmission.load(path).args[0].key for path in jobs.glob("*_submitted.pkl"))
    assert sent.pop(lost.key) >= 2
    assert sent == once, "the slow run's job was found again"
    assert "DUE TO JOB REQUEUE" in "".join(path.read_text() for path in jobs.glob(f"{job}_*.err"))
    assert re.search(rf"'{lost.key}': 'its job \S+ was lost \(see ", said), said
    rows = read_rows(user.folder / "out/rows.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "OPC"]


def test_what_slurm_refuses_is_one_line(user: User) -> None:
    ask = ("--launcher.slurm.partition=nowhere", "--grid.methods=[opc]", "--output=out")
    command = user.start("lit-unlearn", "benchmark", "--config", "benchmark/digits", *ask)
    user.until(lambda: command.poll() is not None, "the refusal")
    assert command.returncode == 2
    said = (user.folder / "out.txt").read_text()
    assert re.search(r"^lit-unlearn: error: Slurm refuses the jobs: .*Invalid partition", said, re.MULTILINE), said
    assert "Traceback" not in said
