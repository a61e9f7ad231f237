"""A run that is killed in the middle and goes on with ``--ckpt_path last`` ends as if nothing had happened."""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from command_line import experiment, lit_unlearn
from killed_runs import EPOCHS, launched
from lightning.pytorch import Trainer

from lit_unlearn.reports import Row, read_rows
from lit_unlearn.shipped import read_config

SMALL = (
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"),
    *(f"--trainer.max_epochs={EPOCHS}", "--data.init_args.train_limit=400", "--evaluation.retrain=null"),
    "--report.page=false",
)
OF_ONE_EPOCH = ("rescale", "ssd")
OPTIONS = {"ssd": ["--model.alpha=1"]}  # enough for it to dampen something
MARKS = {"opc": pytest.mark.ci, "scrub": ()}
METHODS = sorted(read_config("tuned/digits")["class"].keys() - {"pretrain"})


def row_of(place: Path) -> Row:
    (path,) = place.glob("runs/*/version_*/results.json")
    return read_rows(path)[-1]


def weights_of(place: Path) -> dict[str, torch.Tensor]:
    path = sorted(place.glob("runs/*/version_*/unlearned.ckpt"))[-1]
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def ends_alike(folder: Path) -> None:
    whole, resumed = weights_of(folder / "whole"), weights_of(folder / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    expected, row = row_of(folder / "whole"), row_of(folder / "killed")
    assert (row.status, row.method) == ("ok", expected.method)
    assert row.attacks == expected.attacks
    assert row.metrics == expected.metrics
    assert len(row.attacks) == 8


@pytest.mark.parametrize("method", [pytest.param(name, marks=MARKS.get(name, pytest.mark.slow)) for name in METHODS])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, method: str) -> None:
    words = (*experiment(method), *SMALL, *OPTIONS.get(method, []))
    assert launched(tmp_path, "whole", *words) == 0, (tmp_path / "whole/run.log").read_text()
    epoch = 0 if method in OF_ONE_EPOCH else 1
    words = (*words, "--trainer.callbacks+=killed_runs.Killer", f"--trainer.callbacks.epoch={epoch}")
    assert launched(tmp_path, "killed", *words) == -SIGKILL
    left = list((tmp_path / "killed").glob("runs/*/version_*/*.*"))
    assert not {path.name for path in left} & {"results.json", "unlearned.ckpt"}
    kept = list((tmp_path / "killed").glob("runs/*/version_0/checkpoints/*.ckpt"))
    assert len(kept) == epoch  # there is nothing yet to go on from in the first epoch: it begins anew
    assert launched(tmp_path, "killed", *words, "--ckpt_path=last") == 0, (tmp_path / "killed/run.log").read_text()
    said = (tmp_path / "killed/run.log").read_text()
    assert ("starts from the beginning" in said) == (epoch == 0)
    ends_alike(tmp_path)
    assert row_of(tmp_path / "killed").curves == row_of(tmp_path / "whole").curves
    assert row_of(tmp_path / "killed").epochs == row_of(tmp_path / "whole").epochs


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_killed_within_an_epoch_goes_on_at_its_step(tmp_path: Path, streamed: bool) -> None:
    words = [*experiment("opc"), *SMALL, "--data.init_args.augment={crop: 1, flip: true}", "--data.batch_size=32"]
    if streamed:
        crop = "{class_path: torchvision.transforms.v2.RandomCrop, init_args: {size: 8, padding: 1}}"
        words[-2] = f"--data.init_args.transforms={{class_path: Transforms, init_args: {{train: [{crop}]}}}}"
        words.append("--data.init_args.workers=2")
    kept = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2")
    words += [*kept, "--trainer.callbacks.save_top_k=-1"]
    assert launched(tmp_path, "whole", *words) == 0, (tmp_path / "whole/run.log").read_text()
    words += ["--trainer.callbacks+=killed_runs.Killer", "--trainer.callbacks.epoch=1"]
    assert launched(tmp_path, "killed", *words) == -SIGKILL
    assert launched(tmp_path, "killed", *words, "--ckpt_path=last") == 0, (tmp_path / "killed/run.log").read_text()
    said = (tmp_path / "killed/run.log").read_text()
    epoch, step = map(int, re.findall(r"epoch=(\d+)-step=(\d+)", said)[-1])
    steps = torch.load(next((tmp_path / "killed").rglob("epoch=0*.ckpt")), weights_only=True)["global_step"]
    assert epoch == 1
    assert step > steps
    ends_alike(tmp_path)


def test_a_run_killed_while_it_attacks_is_attacked_when_it_goes_on(tmp_path: Path) -> None:
    words = (*experiment("finetune"), *SMALL)
    assert launched(tmp_path, "whole", *words) == 0
    assert launched(tmp_path, "killed", *words, "--trainer.callbacks+=killed_runs.KillingAttack") == -SIGKILL
    first = weights_of(tmp_path / "killed")
    assert launched(tmp_path, "killed", *words, "--ckpt_path=last", "--resume.allow=attacks") == 0
    ends_alike(tmp_path)
    assert all(torch.equal(value, first[name]) for name, value in weights_of(tmp_path / "killed").items())


@pytest.fixture
def heeds_control_c() -> Iterator[None]:
    """Lightning has later Ctrl-C ignored."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    yield
    signal.signal(signal.SIGINT, before)


def terminated(*_: object) -> None:
    """SIGTERM to this process, which is then held up for longer than a scheduler waits."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.parametrize(
    ("kept", "sent", "status"),
    [(True, KeyboardInterrupt, 130), (False, KeyboardInterrupt, 130), (True, terminated, 143)],
)
@pytest.mark.usefixtures("heeds_control_c")
def test_an_interruption_while_it_attacks_leaves_the_model_and_says_how_to_go_on(
    tmp_path: Path, kept: bool, sent: Any, status: int
) -> None:
    words = (*experiment("finetune"), *SMALL, "--trainer.max_epochs=1", f"--trainer.enable_checkpointing={kept}")
    words += ("--trainer.callbacks=[HeadRecovery]",)
    before, began = signal.getsignal(signal.SIGTERM), time.monotonic()
    with patch("lit_unlearn.attacks.HeadRecovery.evaluate", side_effect=sent):
        outcome = lit_unlearn(tmp_path, "fit", *words)
    run = "runs/FineTune/version_0"
    assert outcome.status == status
    assert signal.getsignal(signal.SIGTERM) is before
    assert time.monotonic() - began < 55, "at once"
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"lit-unlearn: interrupted: the unlearned model is {run}/unlearned.ckpt; ")
    row = row_of(tmp_path)
    assert (row.status, row.weights["result"]["file"]) == ("interrupted", "unlearned.safetensors")
    assert (tmp_path / run / "unlearned.safetensors").is_file()
    path = re.search(r"--ckpt_path ([^\s,]+)", line)[1]
    outcome = lit_unlearn(tmp_path, "fit" if kept else "validate", *words, "--ckpt_path", path)
    assert outcome.status == 0, outcome.err
    row = read_rows(tmp_path / "runs/FineTune/version_1/results.json")[-1]
    assert (row.status, {name.split("/")[1] for name in row.attacks}) == ("ok", {"hr"})
    left = (tmp_path / "runs/FineTune/version_1/unlearned.safetensors").is_file()
    assert (left, "file" in row.weights["result"]) == (kept, kept)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("heeds_control_c")
def test_an_interruption_while_it_trains_says_how_to_go_on(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    words = ("fit", *experiment("finetune"), *SMALL, "--trainer.callbacks=[]")

    def stopped(trainer: Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), sent)

    with patch("lit_unlearn.reports.report.Report.on_train_epoch_start", side_effect=stopped):
        outcome = lit_unlearn(tmp_path, *words)
    (kept,) = (tmp_path / "runs/FineTune/version_0/checkpoints").glob("*.ckpt")
    said = f"lit-unlearn: interrupted; the same command with --ckpt_path {kept.relative_to(tmp_path)} goes on\n"
    assert (outcome.status, outcome.err.replace(f"{tmp_path}/", "")) == (status, said)
    assert lit_unlearn(tmp_path, *words, "--ckpt_path", kept).status == 0


def test_a_run_that_is_over_keeps_epochs_and_flags_when_it_is_asked_to_go_on(tmp_path: Path) -> None:
    words = (*experiment("finetune"), *SMALL, "--trainer.callbacks=[]", "--trainer.max_epochs=1")
    words += ("--model.optimizer.lr=1e-9",)
    rows = []
    for more in ((), ("--ckpt_path=last",)):
        assert launched(tmp_path, "here", *words, *more) == 0
        newest = max((tmp_path / "here").rglob("results.json"), key=lambda path: path.stat().st_mtime_ns)
        rows.append(read_rows(newest)[-1])
    assert rows[0].epochs == rows[1].epochs == 1
    assert rows[0].flags.keys() == rows[1].flags.keys() == {"small change", "few steps"}
    assert rows[0].method == rows[1].method == "FineTune"


def test_a_run_that_diverged_is_not_gone_on_with(tmp_path: Path) -> None:
    words = ("fit", *experiment("finetune"), *SMALL, "--trainer.callbacks=[]", "--trainer.max_epochs=2")
    first, again = (
        lit_unlearn(tmp_path, *words, "--model.optimizer.lr=1e30", *more) for more in ((), ("--ckpt_path=last",))
    )
    assert (first.status, again.status) == (1, 2)
    assert "diverged (" in again.err
    assert "start again, with a smaller learning rate" in again.err


def test_last_is_the_newest_run_of_the_method_and_of_its_own_folder(tmp_path: Path) -> None:
    words = (*experiment("finetune"), *SMALL, "--trainer.callbacks=[]", "--trainer.max_epochs=1")
    assert launched(tmp_path, "here", *words) == 0
    assert launched(tmp_path, "here", *words) == 0
    outcome = lit_unlearn(tmp_path / "here", "validate", *experiment("finetune"), *SMALL[2:], "--ckpt_path=last")
    assert re.search(r"ckpt_path last: runs/FineTune/version_1/unlearned.ckpt\n", outcome.log), outcome
    other = (*experiment("opc"), "--evaluation.retrain=null", "--ckpt_path=last")
    outcome = lit_unlearn(tmp_path / "here", "validate", *other)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "there is no runs/OPC/*/unlearned.ckpt" in outcome.err
    saved = yaml.safe_load((tmp_path / "here/runs/FineTune/version_1/config.yaml").read_text())
    assert saved["ckpt_path"] is None


def test_last_is_looked_for_where_a_checkpoint_callback_was_told_to_write(tmp_path: Path) -> None:
    words = (*experiment("finetune"), *SMALL, "--trainer.callbacks=[]", "--trainer.max_epochs=1")
    told = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=kept", "--ckpt_path=last")
    assert launched(tmp_path, "here", *words, *told) == 0
    assert "there is no kept/*.ckpt: the run starts" in (tmp_path / "here/run.log").read_text()
    assert launched(tmp_path, "here", *words, *told, "--trainer.max_epochs=2", "--resume.allow=epochs") == 0
    assert re.search(r"ckpt_path last: kept/epoch=0\S*\.ckpt\n", (tmp_path / "here/run.log").read_text())


QUICK_RUN = ("fit", *experiment("opc"), *SMALL, "--trainer.callbacks=[]", "--trainer.max_epochs=1")
ALTERED = [
    (["--model.optimizer.lr=0.5"], ["model.optimizer.lr: was ", ", now 0.5"], None),
    (["--model.contract=stages"], ["model.contract: was ", ", now stages"], None),
    (
        ["--model=FineTune"],
        ["model: was lit_unlearn.methods.opc.OPC, now ", "finetune.FineTune", " more"],
        None,
    ),
    (["--data.forget.classes=[3]"], ["data.forget.classes: was [0, 1, 2], now [3]"], None),
    (["--seed_everything=4"], ["seed_everything: was 0, now 4"], None),
    (["--trainer.precision=bf16-mixed"], ["trainer.precision: was null, now bf16-mixed"], None),
    (["--memory_format=channels_last"], ["memory_format: was auto, now channels_last"], None),
    (["--trainer.max_epochs=2"], ["trainer.max_epochs: was 1, now 2"], "epochs"),
    (["--trainer.accelerator=auto"], ["trainer.accelerator: was cpu, now auto"], "devices"),
    (["--trainer.log_every_n_steps=3"], ["trainer.log_every_n_steps: was 10, now 3"], "loggers"),
    (["--trainer.callbacks+=LearningRateMonitor"], ["trainer.callbacks.LearningRateMonitor"], "loggers"),
    (["--trainer.callbacks+=HeadRecovery"], ["trainer.callbacks.HeadRecovery: was null"], "attacks"),
    (["--evaluation.reference_models=false"], ["evaluation.reference_models: was True, now False"], "attacks"),
    (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=train/loss"], ["EarlyStopping"], None),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ended")
    outcome = lit_unlearn(folder, *QUICK_RUN)
    assert outcome.status == 0, outcome.err
    return folder


def refused(folder: Path, *words: str) -> str:
    before = set(folder.rglob("*"))
    outcome = lit_unlearn(folder, *QUICK_RUN, *words)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome
    assert set(folder.rglob("*")) == before
    return outcome.err


@pytest.mark.parametrize(("words", "says", "kind"), ALTERED)
def test_a_run_goes_on_with_its_own_settings_alone(
    ended: Path, words: list[str], says: list[str], kind: str | None
) -> None:
    (kept,) = ended.glob("runs/OPC/version_0/checkpoints/*.ckpt")
    said = refused(ended, *words, f"--ckpt_path={kept}")
    assert "is of a run with other settings: " in said
    assert all(part in said for part in says), said
    assert ("--resume.allow" in said) == (kind is not None)
    others = [name for name in ("epochs", "devices", "loggers", "attacks") if name != kind]
    assert refused(ended, *words, f"--ckpt_path={kept}", f"--resume.allow=[{', '.join(others)}]") == said
    if kind is not None:
        assert f"--resume.allow '[{kind}]'" in said


def test_what_is_allowed_to_change_is_what_then_runs(ended: Path, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    words = ("--trainer.max_epochs=2", "--trainer.callbacks+=HeadRecovery", "--ckpt_path=last")
    outcome = lit_unlearn(tmp_path, *QUICK_RUN, *words, "--resume.allow=[attacks, epochs]")
    assert outcome.status == 0, outcome.err
    row = read_rows(tmp_path / "runs/OPC/version_1/results.json")[-1]
    assert (row.epochs, {name.split("/")[1] for name in row.attacks}) == (2, {"hr"})
    (kept,) = (tmp_path / "runs/OPC/version_1/checkpoints").glob("*.ckpt")
    held = torch.load(kept, weights_only=True)["lit_unlearn_settings"]
    assert held["epochs"]["trainer.max_epochs"] == 2
    assert list(held["attacks"]) != []


def test_cosmetic_settings_and_a_checkpoint_without_settings_do_not_matter(ended: Path, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    words = ("--trainer.enable_progress_bar=true", "--trainer.callbacks+=RichModelSummary", "--ckpt_path=last")
    assert lit_unlearn(tmp_path, *QUICK_RUN, *words).status == 0
    assert lit_unlearn(tmp_path, *QUICK_RUN, "--model=lit_unlearn.methods.OPC", "--ckpt_path=last").status == 0
    (kept,) = (tmp_path / "runs/OPC/version_0/checkpoints").glob("*.ckpt")
    held = torch.load(kept, weights_only=True)
    del held["lit_unlearn_settings"]
    torch.save(held, tmp_path / "from_python.ckpt")
    assert lit_unlearn(tmp_path, *QUICK_RUN, "--trainer.max_epochs=2", "--ckpt_path=last").status == 2
    words = ("--trainer.max_epochs=2", "--ckpt_path=from_python.ckpt")
    assert lit_unlearn(tmp_path, *QUICK_RUN, *words).status == 0


def test_a_kind_of_settings_that_is_not_there(ended: Path) -> None:
    said = refused(ended, "--resume.allow=epoch")
    assert "resume.allow: 'epoch'; did you mean 'epochs'? (allowed: attacks, devices, epochs, loggers)" in said


def test_a_seed_that_was_drawn_is_kept(tmp_path: Path) -> None:
    for words in ((), ("--ckpt_path=last",)):
        assert lit_unlearn(tmp_path, *QUICK_RUN, "--seed_everything=true", *words).status == 0
    rows = [read_rows(tmp_path / f"runs/OPC/version_{n}/results.json")[-1] for n in range(2)]
    assert rows[0].seed == rows[1].seed
    assert rows[0].metrics == rows[1].metrics
