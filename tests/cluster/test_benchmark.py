"""Benchmarks whose cells are jobs."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fake_runs
import pytest
from slurm_here import User

from lit_unlearn.benchmark import Grid, make_cells
from lit_unlearn.reports import read_rows

pytestmark = pytest.mark.cluster
PAUSE = 3.0


def test_the_command_runs_digits_as_job_arrays(user: User) -> None:
    configs = ("--config", "configs/benchmark/digits.yaml", "--config", "configs/cluster/slurm.yaml")
    part = ("--grid.methods=[opc,finetune]", "--grid.scenarios=[class]", "--grid.attacks=configs/attack/recovery.yaml")
    here = ("--launcher.slurm.gpus=0", "--launcher.slurm.cpus=1", "--launcher.threads=1", "--launcher.slurm.every=0.5")
    brief = ("--grid.overrides={trainer: {max_epochs: 1}}", "--launcher.slurm.extra.comment=mine", "--output=out")
    command = user.start("lit-unlearn", "benchmark", *configs, *part, *here, *brief)
    user.until(lambda: command.poll() is not None, "the end of the benchmark")
    said = (user.folder / "out.txt").read_text()
    assert command.returncode == 0, said
    assert "Written to out/rows.json: 4 rows" in said
    rows = read_rows(user.folder / "out/rows.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "OPC", "FineTune"]
    assert all(row.status == "ok" and row.attacks for row in rows)
    assert {row.devices["threads"] for row in rows} == {1}
    sent = [path.read_text() for path in (user.folder / "out/.slurm").glob("*submission*.sh")]
    arrays = sorted(found[1] for text in sent for found in re.finditer(r"--array=(\S+)", text))
    assert arrays == ["0-2%3", "0-2%3"], "after the original three are ready, and after those three more"
    assert all("#SBATCH --comment=mine" in text and " --cpus-per-task=1 " in text for text in sent)
    before = set(user.jobs())
    again = user.start("lit-unlearn", "benchmark", *configs, *part, *here, *brief)
    user.until(lambda: again.poll() is not None, "the end of the second call")
    assert again.returncode == 0
    assert set(user.jobs()) == before, "what is finished needs no job"


def stand_in(user: User, folder: Path) -> subprocess.Popen[str]:
    """The benchmark of a stand-in for the command line, with jobs."""
    return user.start("python3", fake_runs.__file__, folder, user.folder / "out", "slurm")


def test_jobs_outlive_the_command_and_one_that_is_put_back_is_one_run(
    user: User, experiments: Callable[..., Path]
) -> None:
    folder = experiments(("class",), opc={"pause": PAUSE}, ga={"pause": PAUSE})
    cells = make_cells(Grid(str(folder)))
    first = stand_in(user, folder)
    slow = [cell for cell in cells if cell.name in ("opc", "ga") and not cell.reports]
    started = [user.folder / "out" / cell.folder / "log.txt" for cell in slow]
    user.until(lambda: all(log.exists() for log in started), "both slow cells running")
    first.kill()
    first.wait()
    sent = json.loads((user.folder / "out/.slurm/jobs.json").read_text())
    user.slurm.ask("scontrol", "requeue", sent[slow[0].key])
    second = stand_in(user, folder)
    user.until(lambda: second.poll() is not None, "the end of the second call")
    assert second.returncode == 0, (user.folder / "out.txt").read_text()
    assert Counter((user.folder / "out/journal").read_text().split()) == {cell.key: 1 for cell in cells}
    rows = read_rows(user.folder / "out/rows.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "GA", "OPC"]
    kept = json.loads((user.folder / "out/.slurm/jobs.json").read_text())
    assert len(user.jobs().keys() & {*sent.values(), *kept.values()}) == len({*sent.values(), *kept.values()})


def test_a_lost_job_is_sent_once_more_and_a_cell_that_loses_two_has_failed(
    user: User, experiments: Callable[..., Path]
) -> None:
    command = stand_in(user, experiments(("class",), opc={"wish": "die"}, ga={"wish": "die once"}))
    user.until(lambda: command.poll() is not None, "the end of the benchmark")
    said = (user.folder / "out.txt").read_text()
    assert re.search(r"its job \S+ was lost \(see ", said), said
    rows = read_rows(user.folder / "out/rows.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "GA"]


def test_what_slurm_refuses_is_one_line(user: User) -> None:
    ask = ("--launcher.slurm.partition=nowhere", "--grid.methods=[opc]", "--output=out")
    command = user.start("lit-unlearn", "benchmark", "--config", "configs/benchmark/digits.yaml", *ask)
    user.until(lambda: command.poll() is not None, "the refusal")
    assert command.returncode == 2
    said = (user.folder / "out.txt").read_text()
    assert re.search(r"^lit-unlearn: error: Slurm refuses the jobs: .*Invalid partition", said, re.MULTILINE), said
    assert "Traceback" not in said
