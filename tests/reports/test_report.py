"""The Report callback in runs from Python."""

import contextlib
import json
import os
import platform
import re
from dataclasses import asdict
from itertools import permutations
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.optim import SGD

from lit_unlearn.artifacts import ImageGrid
from lit_unlearn.attacks import Attack, Evaluation, FeatureMap, FeatureMapping, HeadRecovery
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import OPC, FineTune, GradientAscent, Pretrain
from lit_unlearn.reports import run_metadata
from lit_unlearn.reports.gallery import read_artifacts
from lit_unlearn.reports.report import Report
from lit_unlearn.reports.rows import read_rows
from lit_unlearn.reports.run_directory import claim_directory, run_directory
from lit_unlearn.results import AttackResult


class Interrupt(Callback):
    """Raises in a training step."""

    def __init__(self, error, epoch=0, step=0):
        self.error, self.when = error, (epoch, step)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.when:
            raise self.error


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_that_ended_well_leaves_row_page_table_and_checkpoint(
    make_backbone, make_data, fit, trained_file, capsys, monkeypatch
):
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    report, data = Report(), make_data(forget_batch_size=4)
    module = OPC(make_backbone(seed=3), weights=trained_file)
    trainer = fit(module, data, Evaluation(), HeadRecovery(), FeatureMapping(), report, max_epochs=2)
    assert report.directory == Path(trainer.logger.log_dir)
    assert {"results.json", "report.html", "unlearned.ckpt"} <= set(os.listdir(report.directory))
    assert not [name for name in os.listdir(report.directory) if name.startswith(".")]
    rows = read_rows(report.directory / "results.json")
    assert [asdict(row) for row in rows] == [asdict(row) for row in report.rows]
    original, row = rows
    assert (original.method, original.status) == ("Original", "ok")
    assert (row.method, row.status, row.reason, row.seed, row.epochs) == ("OPC", "ok", "", 3, 2)
    assert row.split == {**data.split.describe(), "counts": data.split.counts()}
    assert row.batch_size == {"per_device": 8, "forget_per_device": 4, "global": 8}
    threads = torch.get_num_threads()
    assert row.devices == {
        "accelerator": "cpu",
        "name": run_metadata.device_name(torch.device("cpu")),
        "devices": 1,
        "nodes": 1,
        "threads": threads,
        "memory_format": "contiguous",
    }
    assert row.precision == "32-true"
    assert row.data["source"] == "Blobs"
    assert row.weights["source"] == str(trained_file)
    assert row.versions["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row.started)
    assert set(row.seconds) == {"unlearn", "evaluate", "recovery/hr", "recovery/fm"}
    assert row.seconds["unlearn"] == pytest.approx(module.seconds)
    assert original.seconds.keys() == {"evaluate", "recovery/hr", "recovery/fm"}
    assert original.curves == {}
    assert "OPC" in (report.directory / "report.html").read_text()
    assert "OPC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (
            "cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Some Processor\n\nprocessor\t: 1\nmodel\t: 9\n",
            "Some Processor, family 6, model 143",
        ),
        ("processor\t: 0\nBogoMIPS\t: 243.75\n", platform.machine()),  # as on ARM
        (None, platform.processor() or platform.machine()),  # as on macOS
    ],
)
def test_a_row_names_the_processor(told, name, tmp_path, monkeypatch):
    monkeypatch.setattr(run_metadata, "_CPUINFO", tmp_path / "cpuinfo")
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    assert run_metadata.device_name(torch.device("cpu")) == name


def test_curves_hold_a_point_an_epoch_of_what_was_logged_in_it(make_backbone, make_data, fit):
    class Watch(Callback):
        seen: list[float] = []  # noqa: RUF012

        def on_validation_end(self, trainer, pl_module):
            self.seen.append(float(trainer.callback_metrics["val/forget_acc"]))

    report, watch = Report(page=False, checkpoint=False), Watch()
    fit(
        GradientAscent(make_backbone(), optimizer=lambda p: SGD(p, lr=0.02)),
        make_data(),
        watch,
        Evaluation(),
        report,
        max_epochs=3,
    )
    curves = report.rows[-1].curves
    assert curves["val/forget_acc"] == [[epoch, value] for epoch, value in enumerate(watch.seen)]
    assert [epoch for epoch, _ in curves["train/forget_acc"]] == [0, 1, 2]
    assert [epoch for epoch, _ in curves["train/loss"]] == [0, 1, 2]
    assert len(set(watch.seen)) > 1, "the curve must move for this to mean anything"


def test_without_page_and_checkpoint_only_the_row_is_written(make_backbone, make_data, fit):
    report = Report(page=False, checkpoint=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), report, logger=False)
    assert [name for name in os.listdir(report.directory) if not name.endswith(".ckpt")] == ["results.json"]


def test_a_diverged_run_is_marked_and_has_no_number(make_backbone, make_data, fit):
    report = Report()
    module = GradientAscent(make_backbone(), optimizer=lambda p: SGD(p, lr=1e6, momentum=0.9))
    fit(module, make_data(), Evaluation(), HeadRecovery(), report, max_epochs=9)
    original, row = read_rows(report.directory / "results.json")
    assert original.status == "ok"
    assert len(original.metrics) == 4
    assert row.status == "diverged"
    assert row.reason == module.diverged
    assert row.metrics == row.attacks == {}
    assert "diverged" in (report.directory / "report.html").read_text()
    assert not (report.directory / "unlearned.ckpt").exists()


@pytest.mark.parametrize("diverges", [True, False])
def test_a_run_that_did_not_end_well_leaves_no_model_of_an_earlier_run(make_backbone, make_data, fit, diverges):
    report = Report(page=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), report, logger=False)
    assert (report.directory / "unlearned.ckpt").exists()
    module = GradientAscent(make_backbone(), optimizer=lambda p: SGD(p, lr=1e6 if diverges else 1e-3, momentum=0.9))
    interrupt = [] if diverges else [Interrupt(OSError(5, "as told"), epoch=1)]
    with contextlib.nullcontext() if diverges else pytest.raises(OSError, match="as told"):
        fit(module, make_data(), Evaluation(), *interrupt, report, logger=False, max_epochs=9)
    assert read_rows(report.directory / "results.json")[-1].status == ("diverged" if diverges else "interrupted")
    assert not (report.directory / "unlearned.ckpt").exists()


def test_an_interrupted_run_is_marked_and_has_no_number(make_backbone, make_data, fit):
    report = Report()
    callbacks = Evaluation(), HeadRecovery(), Interrupt(KeyboardInterrupt(), epoch=1, step=1), report
    with pytest.raises(SystemExit):
        fit(FineTune(make_backbone()), make_data(), *callbacks, max_epochs=5)
    (row,) = read_rows(report.directory / "results.json")
    assert (row.method, row.status, row.reason) == ("FineTune", "interrupted", "KeyboardInterrupt, in epoch 1")
    assert row.epochs == 1
    assert row.metrics == row.attacks == {}
    assert [epoch for epoch, _ in row.curves["val/forget_acc"]] == [0]
    assert "interrupted" in (report.directory / "report.html").read_text()


def test_an_error_in_training_is_named_by_its_first_line(make_backbone, make_data, fit):
    report = Report(page=False)
    with pytest.raises(RuntimeError):
        fit(FineTune(make_backbone()), make_data(), Interrupt(RuntimeError("no memory\nat all")), Evaluation(), report)
    row = report.rows[-1]
    assert (row.status, row.reason) == ("interrupted", "RuntimeError: no memory, in epoch 0")


def test_what_was_trained_is_saved_before_a_check_may_refuse_it(make_backbone, make_data, fit, monkeypatch):
    def refuse(*_):
        raise UsageError("the network answers otherwise")

    monkeypatch.setattr("lit_unlearn.attacks.evaluation.random_answers", refuse)
    report = Report(page=False)
    with pytest.raises(UsageError, match="answers otherwise"):
        fit(FineTune(make_backbone()), make_data(), Evaluation(), report)
    assert report.rows[-1].status == "interrupted"
    assert {"unlearned.ckpt", "unlearned.safetensors"} <= {path.name for path in report.directory.iterdir()}


class Refuses(Callback):
    def __init__(self, hook):
        setattr(self, hook, self.refuse)

    def refuse(self, trainer, pl_module, stage=None):
        raise UsageError("no")


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_sanity_check_start"])
def test_an_error_before_training_leaves_no_directory(make_backbone, make_data, fit, tmp_path, hook):
    for order in permutations((Report(), Refuses(hook), Evaluation())):
        with pytest.raises(UsageError, match=r"^no$"):
            fit(FineTune(make_backbone()), make_data(), *order, num_sanity_val_steps=1)
    assert [name for name in files(tmp_path) if "results" in name or "report" in name] == []
    if hook == "setup":
        assert files(tmp_path) == []


@pytest.mark.parametrize("how", ["validate", "test"])
def test_a_checkpoint_that_does_not_load_leaves_no_row(make_backbone, make_data, make_trainer, tmp_path, how):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, tmp_path / "empty.ckpt")
    report = Report()
    with pytest.raises(UsageError, match="FineTune cannot load this checkpoint: Missing key"):
        getattr(make_trainer(Evaluation(), report), how)(
            FineTune(make_backbone()), datamodule=make_data(), ckpt_path=tmp_path / "empty.ckpt", weights_only=True
        )
    assert report.rows == []
    assert files(tmp_path) == ["empty.ckpt"]


def test_an_error_before_training_removes_no_directory_that_was_there(make_backbone, make_data, fit, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for folder in (mine, mine / "new" / "newer"):
        with pytest.raises(UsageError):
            fit(
                FineTune(make_backbone()),
                make_data(),
                Report(),
                Evaluation(),
                Refuses("on_fit_start"),
                logger=False,
                default_root_dir=folder,
            )
    assert files(tmp_path) == ["mine"]


@pytest.mark.parametrize("how", ["fit", "validate", "test"])
def test_a_dry_run_prints_the_table_and_writes_nothing(
    make_backbone, make_data, make_trainer, tmp_path, monkeypatch, capsys, how
):
    monkeypatch.chdir(tmp_path)
    report = Report()
    trainer = make_trainer(Evaluation(), HeadRecovery(), report, fast_dev_run=True)
    getattr(trainer, how)(FineTune(make_backbone()), datamodule=make_data())
    assert files(tmp_path) == []
    assert report.rows
    assert "no attack" in capsys.readouterr().out


def test_a_dry_run_that_fails_writes_nothing_either(make_backbone, make_data, fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError):
        fit(
            FineTune(make_backbone()),
            make_data(),
            Interrupt(RuntimeError("x")),
            Evaluation(),
            Report(),
            fast_dev_run=True,
        )
    assert files(tmp_path) == []


@pytest.mark.parametrize("how", ["fit", "validate"])
def test_a_directory_that_cannot_be_written_is_refused_at_once(make_backbone, make_data, make_trainer, tmp_path, how):
    (tmp_path / "file").write_text("")
    trainer = make_trainer(Evaluation(), Report(), logger=False, default_root_dir=tmp_path / "file" / "below")
    with pytest.raises(UsageError, match=r"cannot write to .*file/below: Not a directory"):
        getattr(trainer, how)(FineTune(make_backbone()), datamodule=make_data())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_refused_at_once(make_backbone, make_data, fit, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match=r"cannot write to .*locked/run: Permission denied"):
        fit(
            FineTune(make_backbone()),
            make_data(),
            Evaluation(),
            Report(),
            logger=False,
            default_root_dir=tmp_path / "locked" / "run",
        )


class Online(Logger):
    """A logger with a name and an identifier of its own, as the online services have."""

    def __init__(self, save_dir, version):
        super().__init__()
        self.where, self.number = save_dir, version

    name = property(lambda self: "project")
    version = property(lambda self: self.number)
    save_dir = property(lambda self: self.where)

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass


@pytest.mark.parametrize(("version", "folder"), [("a1b2c3", "a1b2c3"), (4, "version_4")])
@pytest.mark.parametrize("own", [True, False])
def test_any_logger_gets_a_directory_of_its_run(make_trainer, tmp_path, version, folder, own):
    trainer = make_trainer(logger=Online(str(tmp_path / "online") if own else None, version))
    assert run_directory(trainer) == (tmp_path / "online" if own else tmp_path) / "project" / folder


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_runs_that_begin_together_get_a_directory_each(make_trainer, tmp_path, kind):
    if kind is TensorBoardLogger:
        pytest.importorskip("tensorboard")
    trainers = [make_trainer(logger=kind(tmp_path, "a")) for _ in range(3)]
    loggers = [trainer.logger for trainer in trainers]
    for logger in loggers:
        logger._get_next_version = lambda: 4  # each looks before any of them has made its own
    for trainer in trainers:
        claim_directory(trainer)
        claim_directory(trainer)
    assert [run_directory(trainer).name for trainer in trainers] == ["version_4", "version_5", "version_6"]
    assert all(run_directory(trainer).is_dir() for trainer in trainers)


def test_runs_without_a_logger_that_begin_together_get_a_directory_each(make_trainer, tmp_path):
    root = tmp_path / "a/version_4"
    trainers = [make_trainer(logger=False, default_root_dir=root) for _ in range(3)]
    claimed = [claim_directory(trainer, numbered=True) for trainer in trainers]
    assert claimed == [tmp_path / "a" / name for name in ("version_4", "version_0", "version_1")]
    assert [run_directory(trainer) for trainer in trainers] == claimed
    assert all(folder.is_dir() for folder in claimed)


def test_a_directory_that_the_user_names_or_no_logger_numbers_is_left_alone(make_trainer, tmp_path):
    (tmp_path / "a/mine").mkdir(parents=True)
    for logger in (CSVLogger(tmp_path, "a", version="mine"), Online(str(tmp_path), 1), False):
        claim_directory(make_trainer(logger=logger))
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "mine"]


def test_a_place_where_no_directory_can_be_made_is_named(make_trainer, tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UsageError, match=r"cannot write to .*a/version_0: File exists"):
        claim_directory(make_trainer(logger=CSVLogger(tmp_path, "a")))


def test_the_known_loggers_say_it_themselves(make_trainer, tmp_path):
    assert run_directory(make_trainer(logger=CSVLogger(tmp_path, "a"))) == tmp_path / "a" / "version_0"
    assert run_directory(make_trainer(logger=False)) == tmp_path
    pytest.importorskip("tensorboard")
    assert run_directory(make_trainer(logger=TensorBoardLogger(tmp_path, "b"))) == tmp_path / "b" / "version_0"


def test_a_run_with_any_logger_writes_there(make_backbone, make_data, fit, tmp_path):
    report = Report()
    fit(
        FineTune(make_backbone()), make_data(), Evaluation(), HeadRecovery(), report, logger=Online(str(tmp_path), "x1")
    )
    written = ["report.html", "results.json", "unlearned.ckpt", "unlearned.safetensors"]
    assert sorted(os.listdir(tmp_path / "project" / "x1")) == written


def test_a_run_without_a_seed_says_that_it_has_none(make_backbone, make_data, fit, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED")
    report = Report(page=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), report)
    assert report.rows[-1].seed is None


def test_a_pretraining_run_has_a_row_without_a_forget_set(make_backbone, make_data, fit):
    report = Report()
    fit(Pretrain(make_backbone(seed=3)), make_data(forget=None), Evaluation(), HeadRecovery(), report)
    (row,) = read_rows(report.directory / "results.json")
    assert row.method == "Pretrain"
    assert set(row.metrics) == {"retain_acc", "test_retain_acc"}
    assert json.loads((report.directory / "results.json").read_text())["rows"][0]["split"]["spec"] == {}


def test_two_runs_of_one_trainer_do_not_mix(make_backbone, make_data, make_trainer):
    report = Report(page=False)
    trainer = make_trainer(Evaluation(), report)
    module = FineTune(make_backbone())
    trainer.fit(module, datamodule=make_data())
    fitted = report.rows
    trainer.validate(module, datamodule=make_data(), verbose=False)
    assert fitted[-1].curves
    assert report.rows[-1].curves == {}
    assert report.rows[-1].metrics == fitted[-1].metrics


def test_an_epoch_without_validation_has_no_point_of_it(make_backbone, make_data, fit):
    report = Report(page=False, checkpoint=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), report, max_epochs=4, check_val_every_n_epoch=2)
    curves = report.rows[-1].curves
    assert [epoch for epoch, _ in curves["val/retain_acc"]] == [1, 3]
    assert [epoch for epoch, _ in curves["train/loss"]] == [0, 1, 2, 3]


class Shows(Attack):
    """Returns pictures and nothing else."""

    family = "inversion"

    def __init__(self, grid):
        super().__init__("fake")
        self.grid = grid

    def evaluate(self, target):
        return AttackResult({}, artifacts={"pictures": self.grid})


def test_artifacts_of_attacks_are_kept_beside_the_row_and_drawn(make_backbone, make_data, fit):
    truth, guess = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    grid = ImageGrid(torch.stack([truth, guess]), ["image", "reconstruction"], [["", ""], ["9 dB", "8 dB"]])
    report = Report(checkpoint=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), FeatureMap(), Shows(grid), report)
    names = {"representation/map/map", "inversion/fake/pictures"}
    assert {label: set(found) for label, found in report.artifacts.items()} == {"Original": names, "FineTune": names}
    kept = read_artifacts(report.directory / "artifacts.npz")
    drawn = report.artifacts["FineTune"]["representation/map/map"]
    assert torch.equal(kept["FineTune"]["representation/map/map"].points, drawn.points)
    page = (report.directory / "report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "Feature maps of Original, FineTune" in page
    assert not [name for name in os.listdir(report.directory) if name.startswith(".")]


def test_a_run_without_artifacts_leaves_none_of_an_earlier_one(make_backbone, make_data, fit):
    for attacks, there in (((FeatureMap(),), True), ((), False)):
        report = Report(page=False, checkpoint=False)
        fit(FineTune(make_backbone()), make_data(), Evaluation(), *attacks, report, logger=False)
        assert (report.directory / "artifacts.npz").exists() == there


def test_a_diverged_run_shows_the_references_only(make_backbone, make_data, fit):
    report = Report(page=False, checkpoint=False)
    module = GradientAscent(make_backbone(), optimizer=lambda p: SGD(p, lr=1e6, momentum=0.9))
    fit(module, make_data(), Evaluation(), FeatureMap(), report, max_epochs=9)
    assert list(read_artifacts(report.directory / "artifacts.npz")) == ["Original"]


def test_without_writing_rows_are_kept_and_no_file_is_touched(make_backbone, make_data, fit, tmp_path, capsys):
    report = Report(write=False)
    fit(FineTune(make_backbone()), make_data(), Evaluation(), FeatureMap(), report, logger=False)
    assert [row.method for row in report.rows] == ["Original", "FineTune"]
    assert list(report.artifacts) == ["Original", "FineTune"]
    assert report.directory is None
    assert files(tmp_path) == []
    assert "as is" not in capsys.readouterr().out


@pytest.mark.parametrize("how", ["fit", "validate", "test"])
def test_a_report_without_an_evaluation_is_refused(make_backbone, make_data, make_trainer, tmp_path, how):
    with pytest.raises(UsageError, match="Evaluation"):
        getattr(make_trainer(Report()), how)(FineTune(make_backbone()), datamodule=make_data())
    assert not [name for name in files(tmp_path) if "results" in name]


@pytest.mark.parametrize("first", [True, False])
def test_curves_have_what_other_callbacks_log_at_the_end_of_an_epoch(make_backbone, make_data, fit, first):
    class Logs(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.log("mine", float(trainer.current_epoch))

    report = Report(write=False)
    callbacks = [Logs(), report, Evaluation()] if first else [report, Logs(), Evaluation()]
    fit(FineTune(make_backbone()), make_data(), *callbacks, max_epochs=3)
    assert report.rows[-1].curves["mine"] == [[0, 0.0], [1, 1.0], [2, 2.0]]
