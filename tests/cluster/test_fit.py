"""configs/cluster/fit.sh, submitted as docs/cluster.md says."""

import re
import shlex
from pathlib import Path

import pytest
from slurm_here import ROOT, User

from lit_unlearn.reports import Row, read_rows

pytestmark = pytest.mark.cluster
ONE_NODE, TWO_NODES = [
    shlex.split(line) for line in (ROOT / "docs/cluster.md").read_text().splitlines() if line.startswith("sbatch ")
]
SMALL = ("--trainer.accelerator=cpu", "--evaluation.retrain=null", "--evaluation.reference_models=false")


def submit(user: User, command: list[str], *settings: str) -> tuple[str, Path]:
    job = user.sbatch("--cpus-per-task=1", *command[1:], *SMALL, *settings)
    return job, user.folder / f"runs/unlearn-{job}"


def only_row(user: User, job: str, root: Path) -> Row:
    log = (user.folder / f"slurm-{job}.txt").read_text()
    assert user.jobs()[job] == "COMPLETED", log
    (row,) = read_rows(root / "OPC/run/results.json")
    assert (row.status, row.batch_size["global"]) == ("ok", 128), log
    assert row.metrics["retain_acc"] > 0.5
    return row


@pytest.mark.parametrize(
    "command", [("scontrol", "requeue"), ("scancel", "--signal=USR1", "--batch")], ids=["by hand", "at the limit"]
)
def test_two_tasks_on_one_node_go_on_from_the_last_checkpoint_when_requeued(
    user: User, command: tuple[str, ...]
) -> None:
    job, root = submit(user, ONE_NODE, "--trainer.max_epochs=12")
    user.until((root / "checkpoints/last.ckpt").exists, "a checkpoint")
    user.slurm.ask(*command, job)
    user.ended(job)
    row = only_row(user, job, root)
    assert (row.devices["devices"], row.devices["nodes"], row.epochs) == (2, 1, 12)
    log = (user.folder / f"slurm-{job}.txt").read_text()
    assert "DUE TO JOB REQUEUE" in log
    assert re.search(rf"Restored all states from the checkpoint at \S*runs/unlearn-{job}/checkpoints/last\.ckpt", log)
    assert [path.name for path in root.rglob("results.json")] == ["results.json"]


def test_two_nodes_of_one_task_each(user: User) -> None:
    job, root = submit(user, TWO_NODES, "--trainer.max_epochs=2")
    user.ended(job)
    row = only_row(user, job, root)
    assert (row.devices["devices"], row.devices["nodes"], row.epochs) == (1, 2, 2)


def test_a_task_is_a_device_whatever_the_settings_say(user: User) -> None:
    job, root = submit(user, ONE_NODE, "--trainer.devices=1", "--trainer.max_epochs=1")
    user.ended(job)
    row = only_row(user, job, root)
    assert (row.devices["devices"], row.devices["nodes"]) == (2, 1)
