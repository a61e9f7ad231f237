"""What every method must do, whatever it computes."""

from dataclasses import asdict

import pytest
import torch

from lit_unlearn.attacks import Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.methods import OPC, FineTune, GradientAscent, Pretrain, RandomLabels, Retrain, __all__
from lit_unlearn.reports.report import CHECKPOINT, Report

METHODS = [OPC, FineTune, GradientAscent, Pretrain, RandomLabels, Retrain]
UNTIMED = ("seconds", "started", "commit")


def run(fit, method, make_backbone, trained_file, data, **settings):
    report = Report(page=False)
    module = method(make_backbone(seed=3), weights=trained_file)
    trainer = fit(module, data, Evaluation(), HeadRecovery(), FeatureMapping(), report, **settings)
    return module, report, trainer


def numbers(row):
    return {name: value for name, value in asdict(row).items() if name not in UNTIMED}


def test_no_method_is_left_out():
    assert {method.__name__ for method in METHODS} | {"UnlearnModule"} == set(__all__)


@pytest.mark.parametrize("method", METHODS)
def test_validating_the_checkpoint_gives_the_numbers_of_the_run(
    fit, make_trainer, method, make_backbone, make_data, trained_file
):
    _, report, _ = run(fit, method, make_backbone, trained_file, make_data(), max_epochs=2)
    fitted = report.rows[-1]
    assert fitted.method == method.__name__
    assert len(fitted.metrics) == 4
    assert len(fitted.attacks) == 8
    audit = Report(page=False)
    make_trainer(Evaluation(), HeadRecovery(), FeatureMapping(), audit).validate(
        method(make_backbone(seed=4), weights=trained_file),
        datamodule=make_data(),
        ckpt_path=report.directory / CHECKPOINT,
        weights_only=True,
    )
    again = audit.rows[-1]
    assert (again.method, again.status) == (method.__name__, "ok")
    for part in ("metrics", "attacks", "hyperparameters", "split", "data", "backbone", "weights"):
        assert getattr(again, part) == getattr(fitted, part), part
    assert again.seconds["unlearn"] == fitted.seconds["unlearn"]
    assert numbers(audit.rows[0]) == numbers(report.rows[0])  # the Original


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_rows(fit, method, make_backbone, make_data, trained_file):
    runs = []
    for _ in range(2):
        torch.rand(len(runs))  # whatever was drawn before
        torch.manual_seed(11)  # decides the fresh start of Retrain
        module, report, _ = run(fit, method, make_backbone, trained_file, make_data(), max_epochs=2)
        runs.append(([numbers(row) for row in report.rows], module.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


@pytest.mark.parametrize("method", METHODS)
def test_a_single_image_can_be_forgotten(fit, method, make_backbone, one_image, trained_file):
    module, report, trainer = run(fit, method, make_backbone, trained_file, one_image)
    assert one_image.split.counts()["forget"] == 1
    assert trainer.global_step > 0
    assert report.rows[-1].status == "ok"
    assert report.rows[-1].metrics["forget_acc"] in (0.0, 1.0)
    assert not module.is_original()


@pytest.mark.parametrize("method", METHODS)
def test_a_forget_set_smaller_than_a_batch_is_trained_on(fit, method, make_backbone, make_data, trained_file, recorder):
    data = make_data(classes=[0], forget_batch_size=20)
    module = method(make_backbone(seed=3), weights=trained_file)
    start = {name: value.clone() for name, value in module.backbone.named_parameters()}
    fit(module, data, recorder)
    forgotten = sum(int((labels == 0).sum()) for batch in recorder.batches for _, labels in batch.values())
    assert (forgotten >= 12) == (method not in (FineTune, Retrain))
    assert all(not torch.equal(value, start[name]) for name, value in module.backbone.named_parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_random_share_can_be_forgotten(fit, method, make_backbone, make_data, trained_file):
    _, report, _ = run(fit, method, make_backbone, trained_file, make_data(fraction=0.2))
    row = report.rows[-1]
    assert row.status == "ok"
    assert set(row.metrics) == {"forget_acc", "retain_acc", "test_retain_acc"}
    assert set(row.attacks) == {f"recovery/{name}/{split}" for name in ("hr", "fm") for split in row.metrics}
