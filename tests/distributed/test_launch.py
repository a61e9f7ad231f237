"""Processes that Lightning itself starts, from the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import experiment

from lit_unlearn.reports import read_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_retrain_given_as_a_config_is_trained_once_for_all_processes(tmp_path: Path) -> None:
    (tmp_path / "brief.yaml").write_text("trainer: {max_epochs: 1}")
    parallel = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1"]
    words = ["fit", *experiment("finetune"), *parallel, "--evaluation.retrain=brief.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PL_GLOBAL_SEED")
    command = [sys.executable, "-m", "lit_unlearn", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["FineTune", "retrain"]
    (trained,) = (tmp_path / "runs/retrain").iterdir()
    rows = read_rows(tmp_path / "runs/FineTune/version_0/results.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "FineTune"]
    assert rows[-1].devices["devices"] == 2
    assert rows[1].weights["source"] == f"runs/retrain/{trained.name}/retrain.pt"
