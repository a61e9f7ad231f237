"""The main job: fit, validate and test from the command line, on real digits."""

import contextlib
import importlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from command_line import Outcome, lit_unlearn
from PIL import Image
from torch import distributed

from lit_unlearn import __version__
from lit_unlearn.__main__ import main as console_script
from lit_unlearn.benchmark.settings import put
from lit_unlearn.cli import main, run
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import Retrain
from lit_unlearn.reports import Row, read_rows
from lit_unlearn.retraining import retrained
from lit_unlearn.shipped import read_config
from lit_unlearn.suites import lacks_of_suite

ROOT = Path(__file__).resolve().parents[1]
QUICK = (
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.max_epochs=1"),
    "--memory_format=contiguous",  # what a probe finds may differ from run to run
)
ONE = ("--evaluation.retrain", "digits_resnet8_retrain_classes_0_1_2")  # the quickstart has five
JOB = ("--config", "quickstart", *ONE, *QUICK, "--trainer.max_epochs=4")  # fewer leave it half drawn anew
SMALL = (
    *QUICK,
    *("--model", "RandomLabels", "--model.weights", "digits_resnet8"),
    *("--model.backbone", "ResNet8", "--model.backbone.in_channels", "1"),
    *("--data.source", "Digits", "--data.forget.classes", "[4]"),
)
SPLITS = {"forget_acc", "retain_acc", "test_forget_acc", "test_retain_acc"}


def measured(rows: list[Row]) -> dict[str, tuple[object, ...]]:
    """What a row says, by method, without times."""
    return {row.method: (row.metrics, row.attacks, row.split, row.seed, row.status) for row in rows}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@dataclass
class Job:
    folder: Path
    outcome: Outcome
    run: Path
    rows: list[Row]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    outcome = lit_unlearn(folder, "fit", *JOB)
    run = folder / "runs/OPC/version_0"
    return Job(folder, outcome, run, read_rows(run / "results.json"))


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes modules of the user's own where Python finds them."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_further_run_takes_over_what_an_earlier_one_found_of_the_references(tmp_path: Path) -> None:
    words = ("--config", "quickstart", *ONE, *QUICK, "--trainer.callbacks=HeadRecovery", "--report.page=false")
    lit_unlearn(tmp_path, "fit", *words, "--trainer.fast_dev_run=1")
    assert not files(tmp_path)
    assert lit_unlearn(tmp_path, "fit", *words, "--evaluation.cache=null").status == 0
    assert not list(tmp_path.glob("**/*.kept"))
    assert "reference models are of an earlier run" not in lit_unlearn(tmp_path, "fit", *words).log
    kept = list(tmp_path.glob("**/*.kept"))
    assert {path.parent for path in kept} == {tmp_path / "runs/.cache"}
    again = lit_unlearn(tmp_path, "fit", *words)
    wanted = "Numbers of 2 reference models are of an earlier run with the same attacks and code: runs/.cache"
    assert wanted in again.log
    every = [read_rows(tmp_path / f"runs/OPC/version_{number}/results.json") for number in range(3)]
    assert measured(every[0]) == measured(every[1]) == measured(every[2])
    assert [bool(row.kept) for rows in every for row in rows] == [False] * 6 + [True, True, False]
    elsewhere = lit_unlearn(tmp_path, "fit", *words, "--trainer.default_root_dir=other")
    assert elsewhere.status == 0
    assert list((tmp_path / "other/.cache").glob("found-*.kept"))


def test_fit_writes_everything_where_it_says(job: Job) -> None:
    assert job.outcome.status == 0
    assert "Run directory: runs/OPC/version_0\n" in job.outcome.log
    written = "results.json, report.html, unlearned.ckpt, unlearned.safetensors"
    assert f"Written to runs/OPC/version_0: {written}\n" in job.outcome.log
    network = "lit_unlearn.backbones.small_resnet.ResNet8"
    assert f"Weights under the names of {network}: runs/OPC/version_0/unlearned.safetensors\n" in job.outcome.log
    wanted = {"unlearned.ckpt", "unlearned.safetensors", "results.json", "report.html", "config.yaml", "metrics.csv"}
    assert wanted <= files(job.run)
    assert "train/retain_loss" in (job.run / "metrics.csv").read_text()
    assert "Tip:" not in job.outcome.log


def test_fit_measures_original_retrain_and_the_unlearned_model_alike(job: Job) -> None:
    assert [row.method for row in job.rows] == ["Original", "Retrain", "OPC"]
    for row in job.rows:
        assert row.status == "ok"
        assert set(row.metrics) == SPLITS
        assert {f"recovery/{name}/{split}" for name in ("hr", "fm") for split in SPLITS} <= set(row.attacks)
        families = {"recovery", "relearn", "membership", "detectability", "representation"}
        assert {name.partition("/")[0] for name in row.attacks} == families
        assert all(word in job.outcome.out for word in (row.method, "recovery/hr", "recovery/fm"))
    original, retrain, unlearned = job.rows
    assert original.metrics["forget_acc"] == 1.0
    assert retrain.metrics["forget_acc"] == 0.0
    assert unlearned.metrics["forget_acc"] < 0.5 < unlearned.metrics["retain_acc"]
    assert unlearned.hyperparameters["contract"] == "stages"
    assert retrain.weights["source"] == "digits_resnet8_retrain_classes_0_1_2"
    assert unlearned.weights["source"] == original.weights.get("source", "digits_resnet8") == "digits_resnet8"


@pytest.mark.ci
def test_validate_with_a_checkpoint_names_it_and_finds_the_same_numbers(job: Job) -> None:
    checkpoint = "runs/OPC/version_0/unlearned.ckpt"
    config = (
        "--config",
        "quickstart",
        *ONE,
        "--config",
        "model/finetune",
    )  # of another method: the checkpoint's counts
    outcome = lit_unlearn(job.folder, "validate", *config, *QUICK, "--ckpt_path", checkpoint)
    assert outcome.status == 0
    assert f"Scoring the model made by OPC, {checkpoint}\n" in outcome.log
    (run,) = [Path(line.split(": ")[1]) for line in outcome.log.splitlines() if line.startswith("Run directory: ")]
    assert measured(read_rows(job.folder / run / "results.json")) == measured(job.rows)


def test_the_original_of_a_checkpoint_lies_where_the_user_says(job: Job, tmp_path: Path) -> None:
    held = torch.load(job.run / "unlearned.ckpt", weights_only=True)
    held["hyper_parameters"]["weights"] = "elsewhere/original.pt"  # of the machine that it was made on
    torch.save(held, tmp_path / "unlearned.ckpt")
    words = ("validate", *JOB, "--trainer.callbacks=[]", "--ckpt_path", "unlearned.ckpt")
    outcome = lit_unlearn(tmp_path, *words)
    assert outcome.status == 0, outcome.err
    assert {row.method for row in read_rows(tmp_path / "runs/OPC/version_0/results.json")} >= {"Original", "OPC"}
    outcome = lit_unlearn(tmp_path, *words, "--model.weights=null")
    assert (outcome.status, outcome.err.count("elsewhere/original.pt")) == (2, 1)


def test_validate_without_a_checkpoint_scores_the_original_and_says_so(job: Job, tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "validate", *JOB)
    assert outcome.status == 0
    assert "Scoring the original model, digits_resnet8\n" in outcome.log
    rows = read_rows(tmp_path / "runs/OPC/version_0/results.json")
    expected = measured(job.rows)
    del expected["OPC"]
    assert measured(rows) == expected


def test_weights_that_have_forgotten_are_no_original(job: Job, tmp_path: Path) -> None:
    words = ("test", *JOB, "--evaluation.retrain=null", "--trainer.callbacks=[]", "--model.weights")
    given = job.run / "unlearned.safetensors"
    outcome = lit_unlearn(tmp_path, *words, given)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome
    assert f"model.weights {given}: OPC made this model forget what this run forgets, so it is no orig" in outcome.err
    assert f"--model Audit --model.weights {given} --model.original ORIGINAL" in outcome.err
    assert files(tmp_path) == set()
    assert lit_unlearn(tmp_path, *words, given, "--data.forget.classes=[5]").status == 0, "the next request"
    torch.save(torch.load(job.run / "unlearned.ckpt")["state_dict"], tmp_path / "forgotten.pt")
    outcome = lit_unlearn(tmp_path, *words, "forgotten.pt")
    assert outcome.status == 0, outcome.err
    assert "forgotten.pt are taken as the original; a model that has forgotten is audited with --model A" in outcome.log


def test_test_scores_the_splits_and_attacks_nothing(job: Job, tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "test", *JOB, "--ckpt_path", job.run / "unlearned.ckpt")
    assert outcome.status == 0
    rows = read_rows(tmp_path / "runs/OPC/version_0/results.json")
    assert {row.method: row.metrics for row in rows} == {row.method: row.metrics for row in job.rows}
    assert [row.attacks for row in rows] == [{}, {}, {}]
    assert not (tmp_path / "runs/OPC/version_0/unlearned.ckpt").exists()


@pytest.mark.ci
def test_a_printed_config_runs_again_to_the_same_rows(job: Job, tmp_path: Path) -> None:
    printed = lit_unlearn(tmp_path, "fit", *JOB, "--print_config")
    assert (printed.status, files(tmp_path)) == (0, set())
    (tmp_path / "printed.yaml").write_text(printed.out)
    assert lit_unlearn(tmp_path, "fit", "--config", "printed.yaml").status == 0
    run = tmp_path / "runs/OPC/version_0"
    assert measured(read_rows(run / "results.json")) == measured(job.rows)
    assert read_rows(run / "results.json")[-1].curves == job.rows[-1].curves
    keep = ("model", "data", "trainer", "evaluation", "report", "seed_everything")
    first, again = (yaml.safe_load((path / "config.yaml").read_text()) for path in (job.run, run))
    assert {key: first[key] for key in keep} == {key: again[key] for key in keep}


@pytest.mark.ci
def test_another_seed_gives_another_model_of_the_same_split(job: Job, tmp_path: Path) -> None:
    assert lit_unlearn(tmp_path, "fit", *JOB, "--seed_everything", "1").status == 0
    rows = read_rows(tmp_path / "runs/OPC/version_0/results.json")
    assert [row.seed for row in rows] == [1, 1, 1]
    assert [row.metrics for row in rows[:2]] == [row.metrics for row in job.rows[:2]]
    assert rows[2].split == job.rows[2].split
    assert rows[2].curves != job.rows[2].curves
    assert (rows[2].metrics, rows[2].attacks) != (job.rows[2].metrics, job.rows[2].attacks)


def test_a_second_run_gets_a_directory_of_its_own(job: Job, tmp_path: Path) -> None:
    for version in range(2):
        outcome = lit_unlearn(tmp_path, "test", *JOB)
        assert f"Run directory: runs/OPC/version_{version}\n" in outcome.log


def test_short_class_names_and_a_dry_run_that_writes_nothing(tmp_path: Path) -> None:
    attacks = ("--trainer.callbacks+=HeadRecovery", "--trainer.callbacks.calibration=heldout")
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, *attacks, "--trainer.fast_dev_run", "1")
    assert outcome.status == 0
    assert "RandomLabels" in outcome.out
    assert "recovery/hr" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_version(tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "--version")
    assert (outcome.status, outcome.out) == (0, f"lit-unlearn {__version__}\n")


@pytest.mark.ci
def test_the_module_runs_as_a_program_and_the_console_script_is_its_function() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lit_unlearn", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"lit-unlearn {__version__}\n"
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["lit-unlearn"]
    assert target == "lit_unlearn.__main__:main"


@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_control_c_before_a_run_has_begun_is_one_line(tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "lit_unlearn", "fit", "--config", "quickstart"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert (process.returncode, said) == (130, b"lit-unlearn: interrupted\n")
    assert files(tmp_path) == set()


def test_a_reader_that_ends_gets_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m lit_unlearn zoo list | true; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"141\n", b"")


def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="the folder that the command is run from is not there any more"):
        run(["fit", "--config", "quickstart"])


def test_control_c_while_settings_are_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_unlearn.cli.main", stopped)
    monkeypatch.setattr("sys.argv", ["lit-unlearn", "fit"])
    with pytest.raises(SystemExit) as ended:
        console_script()
    assert (ended.value.code, capsys.readouterr().err) == (130, "lit-unlearn: interrupted\n")


@pytest.mark.ci
def test_a_retrain_is_trained_without_a_long_warning(tmp_path: Path, retrain_config: Path) -> None:
    words = ["fit", *SMALL, "--data.train_limit=200", "--evaluation.retrain", str(retrain_config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lit_unlearn", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Retrain is trained first: " in done.stderr
    assert "LightningCLI" not in done.stderr
    assert max(len(line) for line in done.stderr.splitlines()) < 350, done.stderr


@pytest.mark.ci
def test_two_devices_say_nothing_about_what_is_logged(tmp_path: Path) -> None:
    words = ["fit", *SMALL, "--trainer.devices=2", "--trainer.accelerator=cpu", "--data.train_limit=200"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lit_unlearn", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stderr
    assert read_rows(tmp_path / "runs/RandomLabels/version_0/results.json")[-1].devices["devices"] == 2


@pytest.mark.ci  # the README prints it, too
@pytest.mark.skipif(torch.__version__ < (2, 10), reason="completion follows DTensor into itself: 168 MB")
def test_shell_completion_is_printed_before_long() -> None:
    command = [sys.executable, "-m", "lit_unlearn", "--print_completion", "shtab-bash"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.rstrip().endswith(" lit-unlearn")
    assert "--evaluation.retrain" in done.stdout
    assert "RandomLabels" in done.stdout


def test_a_callback_of_ones_own_runs_untouched(tmp_path: Path, own_modules: Callable[[str, str], None]) -> None:
    own_modules(
        "own_callback",
        "from pathlib import Path\n"
        "from lightning.pytorch import Callback\n"
        "class Diary(Callback):\n"
        "    def __init__(self, where: str):\n"
        "        self.where = where\n"
        "    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):\n"
        "        Path(self.where).open('a').write(f'{batch_idx} {sorted(batch)}\\n')\n"
        "    def on_train_end(self, trainer, pl_module):\n"
        "        Path(self.where).open('a').write(f'end {type(pl_module).__name__}\\n')\n",
    )
    own = ("--trainer.callbacks+=own_callback.Diary", "--trainer.callbacks.where=diary.txt")
    assert lit_unlearn(tmp_path, "fit", *SMALL, *own, "--trainer.limit_train_batches=2").status == 0
    assert (tmp_path / "diary.txt").read_text() == "0 ['forget']\n1 ['retain']\nend RandomLabels\n"
    assert read_rows(tmp_path / "runs/RandomLabels/version_0/results.json")[-1].status == "ok"


def test_a_network_of_ones_own_by_class_path(tmp_path: Path, own_modules: Callable[[str, str], None]) -> None:
    own_modules(
        "own_network",
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, width: int = 4):\n"
        "        super().__init__(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 10))\n",
    )
    network = ("--model.backbone.network", '{"class_path": "own_network.Net", "init_args": {"width": 2}}')
    backbone = ("--model.backbone", "Custom", "--model.backbone.in_channels", "1", *network)
    data = ("--data.source", "Digits", "--data.forget.fraction", "0.1", "--data.batch_size", "16")
    args = (*QUICK, "--model", "FineTune", "--model.weights", "fresh", *backbone, *data)
    assert lit_unlearn(tmp_path, "fit", *args).status == 0
    (original, row) = read_rows(tmp_path / "runs/FineTune/version_0/results.json")
    assert (row.backbone["class"], row.backbone["num_features"]) == ("Custom", 72)
    assert original.metrics != row.metrics
    outcome = lit_unlearn(tmp_path, "validate", *args, "--ckpt_path", "runs/FineTune/version_0/unlearned.ckpt")
    assert outcome.status == 0
    assert read_rows(tmp_path / "runs/FineTune/version_1/results.json")[-1].metrics == row.metrics


def test_the_run_directory_follows_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, "--trainer.logger", "TensorBoardLogger")
    assert outcome.status == 0
    assert "Run directory: runs/RandomLabels/version_0\n" in outcome.log
    run = tmp_path / "runs/RandomLabels/version_0"
    assert {"results.json", "report.html", "unlearned.ckpt", "config.yaml"} <= files(run)
    assert list(run.glob("events.out.tfevents.*"))
    assert not (run / "metrics.csv").exists()


def test_the_root_directory_is_where_runs_are_written_and_found(tmp_path: Path) -> None:
    words = (*SMALL, "--trainer.callbacks=[]", "--trainer.default_root_dir=here", "--report.page=false")
    assert lit_unlearn(tmp_path, "fit", *words).status == 0
    written = [path.relative_to(tmp_path).parts for path in tmp_path.rglob("*.*") if path.is_file()]
    assert {parts[:3] for parts in written if parts[1] != ".cache"} == {("here", "RandomLabels", "version_0")}
    assert {parts[0] for parts in written} == {"here"}
    outcome = lit_unlearn(tmp_path, "test", *words, "--ckpt_path=last", "--trainer.logger.save_dir=there")
    assert (outcome.status, "there is no there/RandomLabels/" in outcome.err) == (2, True), "a logger's own goes first"
    outcome = lit_unlearn(tmp_path, "test", *words, "--ckpt_path=last")
    assert "ckpt_path last: here/RandomLabels/version_0/unlearned.ckpt\n" in outcome.log


def test_without_a_logger_and_a_root_runs_lie_where_others_lie(tmp_path: Path, retrain_config: Path) -> None:
    words = (*SMALL, "--data.train_limit=100", "--trainer.callbacks=[]", "--trainer.logger=false")
    words += ("--report.page=false", "--evaluation.retrain", str(retrain_config))
    for _ in range(2):
        assert lit_unlearn(tmp_path, "fit", *words).status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"runs", retrain_config.name}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"RandomLabels", "retrain", ".cache"}
    assert {path.parent.name for path in tmp_path.rglob("results.json")} == {"version_0", "version_1"}
    outcome = lit_unlearn(tmp_path, "test", *words[:-2], "--ckpt_path=last")
    assert "ckpt_path last: runs/RandomLabels/version_1/unlearned.ckpt\n" in outcome.log


def test_without_a_logger_the_run_directory_is_the_root(tmp_path: Path) -> None:
    where = ("--trainer.logger", "false", "--trainer.default_root_dir", "here")
    assert lit_unlearn(tmp_path, "fit", *SMALL, *where).status == 0
    assert {"here/results.json", "here/report.html", "here/unlearned.ckpt"} <= files(tmp_path)


def test_without_a_logger_a_second_run_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    words = (*SMALL, "--trainer.logger=false", "--trainer.default_root_dir=here", "--report.page=false")
    assert lit_unlearn(tmp_path, "fit", *words).status == 0
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    outcome = lit_unlearn(tmp_path, "validate", *words, "--ckpt_path=last")
    assert outcome.status == 0, outcome.err
    assert "Run directory: here/version_1\n" in outcome.log
    assert lit_unlearn(tmp_path, "fit", *words, "--seed_everything=1").status == 0
    assert {path: path.read_bytes() for path in first} == first
    assert "here/version_1/results.json" in files(tmp_path)
    own = {path.name for path in (tmp_path / "here/version_2").iterdir()}
    assert own == {"results.json", "unlearned.ckpt", "unlearned.safetensors", "config.yaml", "checkpoints"}
    saved = yaml.safe_load((tmp_path / "here/version_2/config.yaml").read_text())
    assert saved["trainer"]["default_root_dir"] == "here"
    outcome = lit_unlearn(tmp_path, "validate", *words, "--ckpt_path=last")
    assert "ckpt_path last: here/version_2/unlearned.ckpt\n" in outcome.log
    assert lit_unlearn(tmp_path, "fit", *words, "--trainer.fast_dev_run=1").status == 0
    assert {path.name for path in (tmp_path / "here").iterdir() if path.is_dir()} == {
        *("checkpoints", "version_1", "version_2", "version_3", ".cache")
    }


@pytest.mark.parametrize("subcommand", ["fit", "validate"])
def test_a_diverged_run_ends_with_status_1_and_leaves_its_row_and_no_model(tmp_path: Path, subcommand: str) -> None:
    words = [*SMALL, "--trainer.logger.version=here"]
    run = tmp_path / "runs/RandomLabels/here"
    if subcommand == "fit":
        words += ["--model.optimizer.lr=1e20"]
        run.mkdir(parents=True)
        (run / "unlearned.ckpt").write_text("of an earlier run")
    else:
        assert lit_unlearn(tmp_path, "fit", *words).status == 0
        held = torch.load(run / "unlearned.ckpt", weights_only=True)
        held["state_dict"]["backbone.head.bias"][0] = float("nan")
        torch.save(held, tmp_path / "nan.ckpt")
        (run / "unlearned.ckpt").unlink()
        words += ["--ckpt_path=nan.ckpt"]
    outcome = lit_unlearn(tmp_path, subcommand, *words)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1), outcome.err
    assert "lit-unlearn: error: the run diverged: the " in outcome.err
    assert "(see runs/RandomLabels/here)" in outcome.err
    assert read_rows(run / "results.json")[-1].status == "diverged"
    assert (run / "report.html").exists()
    assert not (run / "unlearned.ckpt").exists()


RETRAIN = """
model:
  class_path: Retrain
  init_args: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.05, momentum: 0.9}}}
trainer: {max_epochs: 1, devices: 7, callbacks: [HeadRecovery]}
seed_everything: 5
"""


@pytest.fixture
def retrain_config(tmp_path: Path) -> Path:
    """A Retrain of another seed than the runs that use it; what it says of devices and attacks does not count."""
    path = tmp_path / "retrain.yaml"
    path.write_text(RETRAIN)
    return path


def found_or_trained(outcome: Outcome) -> tuple[int, int]:
    assert (outcome.status, outcome.err) == (0, "")
    return outcome.log.count("Retrain found: "), outcome.log.count("Retrain is trained first: ")


def test_a_config_trains_a_retrain_for_this_split_once_and_disturbs_nothing(
    tmp_path: Path, retrain_config: Path
) -> None:
    args = ("fit", *SMALL, "--seed_everything", "7", "--evaluation.retrain")
    assert found_or_trained(lit_unlearn(tmp_path, *args, retrain_config)) == (0, 1)
    (trained,) = tmp_path.glob("runs/retrain/*/retrain.pt")
    rows = read_rows(tmp_path / "runs/RandomLabels/version_0/results.json")
    assert [row.method for row in rows] == ["Original", "Retrain", "RandomLabels"]
    held = torch.load(trained, weights_only=True)["lit_unlearn"]
    assert {row.split["hash"] for row in rows} == {held["split"]}
    assert rows[1].split["spec"] == {"classes": [4]}
    assert rows[1].metrics["forget_acc"] < 0.1 < rows[1].metrics["retain_acc"]
    assert rows[1].weights["source"] == str(trained.relative_to(tmp_path))
    assert [row.seed for row in rows] == [7, 7, 7]
    settings = json.loads((trained.parent / "settings.json").read_text())
    assert (settings["seed_everything"], settings["trainer"]["devices"]) == (5, 1)
    assert settings["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.05

    assert found_or_trained(lit_unlearn(tmp_path, *args, retrain_config)) == (1, 0)
    again = read_rows(tmp_path / "runs/RandomLabels/version_1/results.json")
    assert measured(again) == measured(rows)
    assert again[-1].curves == rows[-1].curves
    saved = yaml.safe_load((tmp_path / "runs/RandomLabels/version_0/config.yaml").read_text())
    assert saved["evaluation"]["retrain"] == str(trained.relative_to(tmp_path))


@pytest.mark.parametrize("name", ["L1Sparse", "OPC", "PruneRegrow", "SFRon", "UNDO"])
def test_a_method_that_checks_its_epochs_has_its_retrain_trained_first(
    tmp_path: Path, retrain_config: Path, name: str
) -> None:
    words = [name if word == "RandomLabels" else word for word in SMALL]
    words += ["--trainer.max_epochs=2", *(["--model.release=1"] if name == "OPC" else [])]
    outcome = lit_unlearn(
        tmp_path, "fit", *words, "--data.train_limit=200", "--evaluation.retrain", str(retrain_config)
    )
    assert found_or_trained(outcome) == (0, 1)


@pytest.mark.parametrize("more", [(), ("--evaluation.retrains=2",)])
def test_validate_finds_the_retrains_that_fit_has_trained(
    tmp_path: Path, retrain_config: Path, more: tuple[str, ...]
) -> None:
    words = (*SMALL, "--data.train_limit=200", "--evaluation.retrain", str(retrain_config), *more)
    outcome = lit_unlearn(tmp_path, "validate", *words)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome
    assert f"evaluation.retrain: no Retrain has been trained by {retrain_config} yet" in outcome.err
    assert files(tmp_path) == {retrain_config.name}
    assert lit_unlearn(tmp_path, "fit", *words).status == 0
    outcome = lit_unlearn(tmp_path, "validate", *words, "--ckpt_path=last")
    assert (outcome.status, found_or_trained(outcome)) == (0, (len(more) + 1, 0)), outcome.err
    first, again = (read_rows(tmp_path / f"runs/RandomLabels/version_{n}/results.json") for n in (0, 1))
    assert measured(again) == measured(first)
    assert again[-1].verdict["retrains"] == len(more) + 1


def test_several_retrains_are_trained_with_one_seed_after_the_other(tmp_path: Path, retrain_config: Path) -> None:
    words = ("fit", *SMALL, "--data.train_limit=200", "--evaluation.retrain", str(retrain_config))
    assert lit_unlearn(tmp_path, *words, "--evaluation.retrains=2").status == 0
    first, second = sorted(tmp_path.glob("runs/**/retrain.pt"))
    assert torch.load(first)["state_dict"].keys() == torch.load(second)["state_dict"].keys()
    rows = read_rows(next(tmp_path.glob("runs/*/version_0/results.json")))
    retrains = [row for row in rows if row.method == "Retrain"]
    assert {row.weights["source"] for row in retrains} == {str(path.relative_to(tmp_path)) for path in (first, second)}
    assert len({str(row.metrics) for row in retrains}) == 2
    assert rows[-1].verdict["retrains"] == 2
    outcome = lit_unlearn(tmp_path, *words[:-1], "digits_resnet8_retrain_classes_0_1_2", "--evaluation.retrains=2")
    assert (outcome.status, "evaluation.retrains is 2" in outcome.err) == (2, True)
    without = lit_unlearn(
        tmp_path, *words[:-1], "null", "--evaluation.retrains=2", "--trainer.logger.save_dir=no_retrain"
    )
    assert (without.status, "evaluation.retrain is null: no Retrain is trained" in without.log) == (0, True)
    assert not list(tmp_path.glob("no_retrain/**/retrain.pt"))
    (row,) = [row for row in read_rows(*tmp_path.glob("no_retrain/**/results.json")) if row.verdict]
    assert row.verdict["level"] == "not judged"
    listed = lit_unlearn(tmp_path, *words[:-1], f"[{retrain_config}]")
    assert (listed.status, "is a config in a list" in listed.err) == (2, True)


def test_a_retrain_is_found_for_equal_settings_alone(tmp_path: Path, retrain_config: Path) -> None:
    run = {
        "model": {"init_args": {"backbone": {"class_path": "ResNet8", "init_args": {"in_channels": 1, "width": 4}}}},
        "data": {"class_path": "UnlearnDataModule", "init_args": {"source": "Digits", "forget": {"classes": [4]}}},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    }
    run["data"]["init_args"]["train_limit"] = 100

    def stored(**changes: object) -> str:
        settings = json.loads(json.dumps(run))
        for place, value in changes.items():
            put(settings, place.replace("__", "."), value)
        return str(retrained(str(retrain_config), settings, tmp_path))

    first = stored()
    assert stored() == stored(trainer__enable_progress_bar=True) == stored(trainer__enable_progress_bar=None) == first
    others = [
        stored(model__init_args__backbone__init_args__width=5),
        stored(data__init_args__forget__classes=[5]),
        stored(data__init_args__batch_size=32),
    ]
    retrain_config.write_text(RETRAIN.replace("seed_everything: 5", "seed_everything: 6"))
    others += [stored()]
    retrain_config.write_text(RETRAIN.replace("max_epochs: 1", "max_epochs: 2"))
    others += [stored()]
    assert len({first, *others}) == 6


def test_a_retrain_of_other_images_or_of_a_changed_network_is_trained_anew(
    tmp_path: Path, retrain_config: Path, own_modules: Callable[[str, str], None]
) -> None:
    code = (
        "from own_scale import scaled\nfrom torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
        "    def forward(self, images):\n        return super().forward(scaled(images))\n"
    )
    own_modules("own_scale", scale := "def scaled(images):\n    return images * 1\n")
    images = tmp_path / "images"
    for part, shade in itertools.product(("train", "test"), range(40)):
        path = images / part / str(shade % 10) / f"{shade}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade).save(path)
    run = {
        "model": {"init_args": {"backbone": {"class_path": "Custom", "init_args": {"network": "own_code.Net"}}}},
        "data": {"class_path": "UnlearnDataModule", "init_args": {"forget": {"classes": ["4"]}}},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    }
    run["model"]["init_args"]["backbone"]["init_args"]["in_channels"] = 1
    run["data"]["init_args"]["source"] = {
        "class_path": "ImageFolder",
        "init_args": {"root": str(images), "channels": 1},
    }

    def stored(code: str) -> str:
        own_modules("own_code", code)
        importlib.reload(importlib.import_module("own_code"))
        return str(retrained(str(retrain_config), run, tmp_path / "kept"))

    first = stored(code)
    Image.new("L", (8, 8), 200).save(images / "test/3/3.png")
    assert stored(code) == first, "it was not trained on test images"
    changed = stored(code.replace("scaled(images)", "scaled(images) * 10"))
    own_modules("own_scale", scale.replace("* 1", "* 20"))
    imported = stored(code)
    Image.new("L", (8, 8), 200).save(images / "train/3/3.png")
    assert len({first, changed, imported, stored(code)}) == 4


def test_a_retrain_starts_from_the_weights_that_the_original_was_fine_tuned_from(
    tmp_path: Path, retrain_config: Path, own_modules: Callable[[str, str], None]
) -> None:
    """Where the head alone learns, the body of Retrain is the pretrained one, to the bit."""
    own_modules(
        "own_network",
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))\n",
    )
    net = importlib.import_module("own_network").Net()
    torch.save(net.state_dict(), tmp_path / "pretrained.pt")
    body = net[1].weight.detach().clone()
    torch.nn.init.normal_(net[3].weight)
    torch.save(net.state_dict(), tmp_path / "original.pt")
    backbone = {"network": "own_network.Net", "in_channels": 1, "pretrained": str(tmp_path / "pretrained.pt")}
    run = {
        "model": {"init_args": {"backbone": {"class_path": "Custom", "init_args": {**backbone, "train": "head"}}}},
        "data": {"class_path": "UnlearnDataModule", "init_args": {"source": "Digits", "forget": {"classes": [4]}}},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    }

    def held(weights: str | None, train: str = "head") -> tuple[Path, dict[str, torch.Tensor]]:
        run["model"]["init_args"] |= {"weights": weights}
        run["model"]["init_args"]["backbone"]["init_args"]["train"] = train
        path = retrained(str(retrain_config), run, tmp_path / "kept")
        return path, torch.load(path)["state_dict"]

    found, state = held(str(tmp_path / "original.pt"))
    assert torch.equal(state["encoder.1.weight"], body)
    assert not torch.equal(state["head.weight"], net[3].weight)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "original.pt").rename(tmp_path / "elsewhere/original.pt")
    assert held(str(tmp_path / "elsewhere/original.pt"))[0] == found, "wherever the original lies"
    # Without weights the pretrained network is the original: Retrain begins from nothing, and all of it learns.
    with pytest.raises(ValueError, match="starts from random weights"):
        held(None)
    other, state = held("fresh", train="all")
    assert other != found
    assert not torch.equal(state["encoder.1.weight"], body)


def test_a_retrain_whose_training_is_interrupted_is_not_kept(
    tmp_path: Path, retrain_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("fit", *SMALL, "--evaluation.retrain", retrain_config)
    step = Retrain.training_step
    steps = 0

    def broken(self: Retrain, *batch: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise OSError(28, "No space left on device", "here")
        return step(self, *batch)

    monkeypatch.setattr(Retrain, "training_step", broken)
    assert lit_unlearn(tmp_path, *args).status == 2
    assert not list(tmp_path.glob("runs/retrain/*/*.pt"))
    assert found_or_trained(lit_unlearn(tmp_path, *args)) == (0, 1)


def test_a_retrain_that_is_damaged_can_be_made_again(tmp_path: Path, retrain_config: Path) -> None:
    words = (*SMALL, "--evaluation.retrain", str(retrain_config))
    assert lit_unlearn(tmp_path, "fit", *words).status == 0
    (path,) = tmp_path.rglob("retrain.pt")
    path.write_bytes(path.read_bytes()[:1000])
    outcome = lit_unlearn(tmp_path, "fit", *words)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"delete the folder {path.parent.relative_to(tmp_path)}, and it is trained again" in outcome.err


def test_a_retrain_that_diverges_is_not_kept(tmp_path: Path, retrain_config: Path) -> None:
    retrain_config.write_text(RETRAIN.replace("lr: 0.05", "lr: 1.0e+20"))
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, "--evaluation.retrain", retrain_config)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"evaluation.retrain: {retrain_config} diverged: " in outcome.err
    assert not list(tmp_path.rglob("*.pt"))


def test_the_section_of_a_shipped_config_is_trained_too(tmp_path: Path) -> None:
    args = ("fit", *SMALL, "--data.train_limit=100", "--evaluation.retrain=experiments/digits#retrain")
    assert found_or_trained(lit_unlearn(tmp_path, *args)) == (0, 1)


def test_a_dry_run_trains_no_retrain(tmp_path: Path, retrain_config: Path) -> None:
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, "--trainer.fast_dev_run=1", "--evaluation.retrain", retrain_config)
    assert found_or_trained(outcome) == (0, 0)
    assert list(tmp_path.iterdir()) == [retrain_config]


def test_a_filter_of_the_log_is_added_once(tmp_path: Path) -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    lit_unlearn(tmp_path, "fit", *SMALL, "--print_config")
    before = list(logger.filters)
    lit_unlearn(tmp_path, "fit", *SMALL, "--print_config")
    assert logger.filters == before


def test_a_saved_checkpoint_is_plain_weights_with_the_split_it_belongs_to(job: Job) -> None:
    held = torch.load(job.run / "unlearned.ckpt", weights_only=True)
    assert held["lit_unlearn"]["split"] == job.rows[-1].split["hash"]
    assert not any(name.startswith("teacher.") for name in held["state_dict"])


def test_a_compiled_run_says_so_and_measures_the_same(tmp_path: Path) -> None:
    args = ("fit", *SMALL, "--trainer.limit_train_batches=2", "--report.page=false")
    rows = []
    for compiled in ("false", "eager"):
        outcome = lit_unlearn(tmp_path, *args, f"--compile={compiled}")
        assert (outcome.status, outcome.err) == (0, "")
        rows.append(read_rows(sorted(tmp_path.glob("runs/RandomLabels/*/results.json"))[-1])[-1])
    assert rows[0].metrics == rows[1].metrics
    assert rows[1].backbone == {**rows[0].backbone, "compiled": True}


def test_a_run_in_a_memory_format_says_so(tmp_path: Path) -> None:
    short = ("--trainer.limit_train_batches=2", "--report.page=false")
    for name in ("contiguous", "channels_last"):
        outcome = lit_unlearn(tmp_path, "fit", *SMALL, *short, f"--memory_format={name}")
        assert outcome.status == 0, outcome.err
    rows = [read_rows(tmp_path / f"runs/RandomLabels/version_{number}/results.json")[-1] for number in (0, 1)]
    assert [row.devices["memory_format"] for row in rows] == ["contiguous", "channels_last"]
    assert rows[1].metrics == pytest.approx(rows[0].metrics, abs=1e-2)
    checkpoint = tmp_path / "runs/RandomLabels/version_1/unlearned.ckpt"
    auto = (*SMALL, "--memory_format=auto")
    outcome = lit_unlearn(tmp_path, "validate", *auto, f"--ckpt_path={checkpoint}")
    row = read_rows(tmp_path / "runs/RandomLabels/version_2/results.json")[-1]
    assert row.devices["memory_format"] == "channels_last"
    assert row.metrics == rows[1].metrics
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, "--memory_format=nchw")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert all(word in outcome.err for word in ("memory_format", "nchw", "channels_last")), outcome.err


def test_a_compiler_that_is_not_there_is_refused_in_a_line(tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, "--compile=turbo")
    assert outcome.status == 2
    assert "unknown backend to compile with 'turbo' (allowed: " in outcome.err
    assert "true" in outcome.err
    assert outcome.err.count("\n") == 1
    assert files(tmp_path) == set()


def test_a_benchmark_that_is_interrupted_while_workers_start_says_one_line(tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal, also to a worker that is importing torch."""
    words = ("benchmark", "--grid.bases", "{class: base/digits_class}", "--grid.methods", "[finetune]")
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_unlearn", *words, "--output", "out"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not any(
            b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.read_text().split()
        ):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert (process.returncode, said) == (130, b"lit-unlearn: interrupted\n")


@pytest.mark.ci
@pytest.mark.parametrize(("sent", "name"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SIGTERM")])
def test_an_interrupted_run_is_marked_and_has_no_number(tmp_path: Path, sent: signal.Signals, name: str) -> None:
    args = [*SMALL, "--config", "attack/recovery", "--trainer.max_epochs=100000"]
    retrain = ["--data.forget.classes=[0,1,2]", "--evaluation.retrain=digits_resnet8_retrain_classes_0_1_2"]
    command = [sys.executable, "-m", "lit_unlearn", "fit", *args, *retrain, "--trainer.check_val_every_n_epoch=100000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        # Whatever a shell starts in the background ignores SIGINT, and so would all that it starts.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        words = [str(word) for word in command]
        process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log, preexec_fn=heed)
        try:
            run = tmp_path / "runs/RandomLabels/version_0"
            deadline = time.monotonic() + 90
            while not (run / "metrics.csv").exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(sent)
            status = process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert status not in (0, -9)
    (row,) = read_rows(run / "results.json")
    assert (row.method, row.status) == ("RandomLabels", "interrupted")
    assert (row.metrics, row.attacks) == ({}, {})
    assert name in row.reason
    assert (run / "report.html").exists()
    assert not (run / "unlearned.ckpt").exists()
    assert json.loads((run / "results.json").read_text())["rows"]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("error", [None, SystemExit(3), KeyboardInterrupt()])
def test_a_process_group_is_closed_by_whoever_opened_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool, error: BaseException | None
) -> None:
    def run(words: list[str], goes_on: bool = False) -> None:
        if not before:
            begin()
        if error is not None:
            raise error

    def begin() -> None:
        distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)

    monkeypatch.setattr("lit_unlearn.cli.run", run)
    monkeypatch.setattr("lit_unlearn.cli._exit_unless_whole", lambda cli: None)
    try:
        if before:
            begin()
        with pytest.raises(type(error)) if error is not None else contextlib.nullcontext():
            main(["fit"])
        assert distributed.is_initialized() == before
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def test_a_run_whose_time_is_over_before_it_begins_is_an_error(tmp_path: Path) -> None:
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, "--trainer.max_time", "00:00:00:00")
    assert outcome.status == 2
    assert "nothing was trained" in outcome.err
    assert "max_time" in outcome.err


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_network_that_nobody_trained_is_no_original_unless_it_is_said_to_be(tmp_path: Path, command: str) -> None:
    args = (command, *SMALL, "--model.weights", "null", "--trainer.fast_dev_run", "true")
    outcome = lit_unlearn(tmp_path, *args)
    assert outcome.status == 2
    assert "model.weights is missing" in outcome.err
    assert "'fresh'" in outcome.err
    assert lit_unlearn(tmp_path, *args, "--model.weights", "fresh").status == 0


def test_a_retrain_of_another_architecture_is_refused_before_it_is_trained(
    tmp_path: Path, retrain_config: Path
) -> None:
    settings = yaml.safe_load(retrain_config.read_text())
    settings["model"].setdefault("init_args", {})["backbone"] = {
        "class_path": "ResNet8",
        "init_args": {"in_channels": 1, "width": 24},
    }
    retrain_config.write_text(yaml.safe_dump(settings))
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, "--evaluation.retrain", str(retrain_config))
    assert outcome.status == 2
    assert all(words in outcome.err for words in ("retrain.yaml", "width is 24", "16 in the run"))
    assert not list(tmp_path.rglob("retrain.pt"))


def test_what_cannot_begin_is_refused_before_its_retrain_is_trained(tmp_path: Path, retrain_config: Path) -> None:
    before = ("--data.forgotten_before", "[{classes: [4]}]")
    outcome = lit_unlearn(tmp_path, "fit", *SMALL, *before, "--evaluation.retrain", str(retrain_config))
    assert outcome.status == 2
    assert "were forgotten before" in outcome.err
    outcome = lit_unlearn(
        tmp_path,
        "fit",
        *SMALL,
        *("--model", "HeadOnly", "--data.forget", "{fraction: 0.1}", "--evaluation.retrain", str(retrain_config)),
    )
    assert outcome.status == 2
    assert "HeadOnly can only forget whole classes" in outcome.err
    assert not list(tmp_path.rglob("retrain.pt"))
    assert "Retrain is trained" not in outcome.log


@pytest.mark.parametrize(
    ("changes", "suite"),
    [
        (("--trainer.callbacks", "[HeadRecovery]"), None),
        (("--trainer.callbacks", "HeadRecovery"), None),
        (("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/forget_acc"), "quick 4"),
    ],
)
def test_a_row_names_a_suite_only_where_it_has_all_of_its_attacks(
    tmp_path: Path, changes: tuple[str, ...], suite: str | None
) -> None:
    words = (*SMALL, "--evaluation.retrain=null", "--evaluation.reference_models=false", "--config", "attack/quick")
    said: list[str] = []
    with patch("lit_unlearn.run_command.rank_zero_info", said.append):
        outcome = lit_unlearn(tmp_path, "fit", *words, *changes)
    assert outcome.status == 0, outcome.err
    (path,) = tmp_path.rglob("results.json")
    assert read_rows(path)[-1].versions.get("suite") == suite
    text = "these are not the attacks of quick 4 (FeatureMapping, MaskedAnswers, WorstRecovery and 9 more differ or"
    assert [line.startswith(text) for line in said] == ([True] if suite is None else [])


def test_an_attack_of_a_suite_at_other_settings_is_not_that_of_the_suite() -> None:
    listed = read_config("attack/quick")["trainer"]["callbacks"]
    own = [{"class_path": "lit_unlearn.attacks.Relearn", "init_args": {"learning_rates": [1e-9]}}]
    assert "Relearn" in lacks_of_suite("quick 4", own)
    assert len(lacks_of_suite("quick 4", own)) == len(listed)
    assert lacks_of_suite("of somebody else", own) == []
