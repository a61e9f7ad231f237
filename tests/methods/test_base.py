import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from lit_unlearn.attacks import Evaluation, HeadRecovery
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import OPC, FineTune, GradientAscent, Pretrain, Retrain, SFRon
from lit_unlearn.reports.report import Report


def ascend(backbone, lr, **more):
    return GradientAscent(backbone, optimizer=lambda p: SGD(p, lr=lr, momentum=0.9), **more)


def test_weights_are_loaded_and_count_as_the_original(make_backbone, trained_file, trained_state, make_data, fit):
    module = FineTune(make_backbone(seed=3), weights=trained_file)
    assert module.is_original()
    fit(module, make_data())
    assert not module.is_original()
    original = module.original_copy()
    assert all(torch.equal(value, trained_state[name]) for name, value in original.state_dict().items())
    assert not original.training
    assert not any(p.requires_grad for p in original.parameters())


def test_one_changed_bit_and_one_changed_buffer_are_no_original(make_backbone):
    module = FineTune(make_backbone())
    assert module.is_original()
    with torch.no_grad():
        module.backbone.head.bias[0] = torch.nextafter(module.backbone.head.bias[0], torch.tensor(9.0))
    assert not module.is_original()
    module = FineTune(make_backbone())
    module.backbone.encoder.stem.bn.running_mean += 1
    assert not module.is_original()


def test_an_original_in_half_precision_is_the_original(make_backbone):
    module = FineTune(make_backbone()).to(torch.bfloat16)
    assert module.is_original()
    with torch.no_grad():
        module.backbone.head.weight[0, 0] *= 1.01
    assert not module.is_original()


@pytest.mark.parametrize("train", [True, False])
def test_a_student_that_was_loaded_in_eval_mode_is_trained_in_train_mode(make_backbone, make_data, fit, train):
    module = OPC(make_backbone().train(train), distill=1.0)
    before = module.backbone.encoder.stem.bn.running_mean.clone()
    taught = module.teacher.encoder.stem.bn.running_mean.clone()
    fit(module, make_data())
    assert not torch.equal(module.backbone.encoder.stem.bn.running_mean, before)
    assert torch.equal(module.teacher.encoder.stem.bn.running_mean, taught)


def test_a_teacher_is_not_saved_and_the_checkpoint_loads_strictly_all_the_same(
    make_backbone, trained_file, make_data, fit, make_trainer, tmp_path
):
    def new():
        return OPC(make_backbone(seed=3), weights=trained_file, distill=1.0)

    module = new()
    assert any(name.startswith("teacher.") for name in module.state_dict())
    fit(module, make_data()).save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["state_dict"]} == {"backbone"}
    made = {"seconds": module.seconds, "images_seen": module.images_seen, "memory_format": "contiguous"}
    assert saved["lit_unlearn"] == {**module.provenance(), **made}
    assert saved["lit_unlearn"]["split"] == make_data().split.hash
    again = new()
    make_trainer().validate(again, datamodule=make_data(), ckpt_path=tmp_path / "run.ckpt", weights_only=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
    broken = {**saved, "state_dict": {n: v for n, v in saved["state_dict"].items() if n != "backbone.head.bias"}}
    torch.save(broken, tmp_path / "broken.ckpt")
    with pytest.raises(UsageError, match=r"OPC cannot load this checkpoint: Missing key.*backbone\.head\.bias"):
        make_trainer().validate(new(), datamodule=make_data(), ckpt_path=tmp_path / "broken.ckpt", weights_only=True)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(make_backbone, make_data, fit, make_trainer, tmp_path):
    whole = OPC(make_backbone(), contract="features")
    fit(whole, make_data(), max_epochs=3)
    half = OPC(make_backbone(), contract="features")
    fit(half, make_data(), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = OPC(make_backbone(), contract="features")
    make_trainer(max_epochs=3).fit(resumed, datamodule=make_data(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert resumed.seconds > half.seconds > 0


def test_the_scheduler_steps_once_an_epoch(make_backbone, make_data, fit):
    schedule = {"optimizer": lambda p: SGD(p, lr=0.08), "lr_scheduler": lambda o: StepLR(o, 1, gamma=0.5)}
    trainer = fit(FineTune(make_backbone(), **schedule), make_data(), max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_it_does_so_where_a_method_steps_its_optimizer_itself(make_backbone, make_data, fit):
    rates = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    schedule = {"optimizer": lambda p: SGD(p, lr=0.08), "lr_scheduler": lambda o: StepLR(o, 1, gamma=0.5)}
    fit(SFRon(make_backbone(), **schedule), make_data(), Watch(), max_epochs=3)
    assert rates == [0.08] * 3 + [0.04] * 3 + [0.02] * 3


def test_parameters_frozen_by_the_user_stay(make_backbone, make_data, fit, trained_state):
    backbone = make_backbone()
    backbone.encoder.stem.conv.requires_grad_(False)
    fit(FineTune(backbone), make_data())
    assert torch.equal(backbone.encoder.stem.conv.weight, trained_state["encoder.stem.conv.weight"])


def test_evaluation_counts_every_sample(make_backbone, make_data, fit):
    module, data = FineTune(make_backbone()), make_data()
    trainer = fit(module, data, max_epochs=2)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    module.backbone.eval()
    for split in ("forget", "retain", "test_forget", "test_retain"):
        ((images, labels),) = [
            tuple(map(torch.cat, zip(*data.evaluation_batches(split, "cpu"), strict=True)))  # one batch of it all
        ]
        with torch.no_grad():
            right = (module(images).argmax(1) == labels).double().mean()
        assert logged[f"val/{split}_acc"] == pytest.approx(float(right), abs=1e-6)
    assert len(logged) == 4


@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_a_diverged_run_is_reported_as_diverged_and_never_as_a_number(make_backbone, make_data, fit, lr):
    module, report, evaluation, attack = ascend(make_backbone(), lr), Report(page=False), Evaluation(), HeadRecovery()
    trainer = fit(module, make_data(), evaluation, attack, report, max_epochs=30)
    assert trainer.current_epoch < 30
    row = report.rows[-1]
    assert row.status == "diverged"
    assert "finite" in row.reason
    assert "epoch" in row.reason
    assert row.metrics == row.attacks == {}
    assert row.skipped == {"evaluate": "the run diverged", "recovery/hr": "the run diverged"}
    assert [r.method for r in report.rows] == ["Original", "GradientAscent"]
    assert report.rows[0].metrics["retain_acc"] > 0.9


@pytest.mark.parametrize("validate", [True, False])
def test_a_network_whose_weights_are_finite_but_whose_answers_are_not_has_diverged(
    make_backbone, make_data, fit, validate
):
    module, report = ascend(make_backbone(), 1e30), Report(page=False)
    callbacks = Evaluation(), HeadRecovery(), report
    # One step, whose loss was finite.
    fit(module, make_data(batch_size=256), *callbacks, limit_val_batches=1.0 if validate else 0)
    assert all(p.isfinite().all() for p in module.backbone.parameters())
    assert report.rows[-1].status == "diverged"
    assert report.rows[-1].metrics == {}


def test_the_reason_says_where(make_backbone, make_data, fit):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 2):
                with torch.no_grad():
                    pl_module.backbone.head.bias[0] = float("nan")

    module = FineTune(make_backbone())
    fit(module, make_data(), Poison(), max_epochs=4)
    assert module.diverged == "the loss is no longer finite in epoch 1, step 2"


def test_weights_that_break_in_the_very_last_step_are_noticed(make_backbone, make_data, fit):
    module = ascend(make_backbone(), float("inf"))
    fit(module, make_data(batch_size=256), limit_val_batches=0)  # one step, whose loss was finite
    assert module.diverged == "weights are no longer finite after epoch 0"


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_the_checkpoint_of_a_diverged_run_is_still_diverged_when_scored(make_backbone, make_data, make_trainer, stage):
    module, report = FineTune(make_backbone()), Report(page=False)
    with torch.no_grad():
        module.backbone.head.bias[0] = float("nan")
    getattr(make_trainer(Evaluation(), HeadRecovery(), report), stage)(module, datamodule=make_data())
    assert report.rows[-1].status == "diverged"
    assert "the answers are not finite" in report.rows[-1].reason
    assert report.rows[-1].metrics == report.rows[-1].attacks == {}


@pytest.mark.parametrize("method", [OPC, GradientAscent, FineTune])
def test_a_method_that_forgets_refuses_data_with_nothing_to_forget(make_backbone, make_data, fit, method):
    with pytest.raises(UsageError, match=f"{method.__name__} needs samples to forget: set data.forget"):
        fit(method(make_backbone()), make_data(forget=None))


def test_a_backbone_that_does_not_fit_the_data_is_refused(make_data, fit):
    from lit_unlearn.backbones import ResNet8

    with pytest.raises(UsageError, match="the backbone has 10 classes but the data has 4"):
        fit(FineTune(ResNet8(in_channels=1)), make_data())


def test_data_of_another_kind_is_refused(make_backbone, make_trainer):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(4, 1, 8, 8)))
    with pytest.raises(UsageError, match="FineTune needs an UnlearnDataModule as datamodule, but got NoneType"):
        make_trainer().fit(FineTune(make_backbone()), train_dataloaders=loader)


def test_the_description_holds_plain_values_and_every_own_option(make_backbone, make_data, fit, trained_file):
    module = OPC(make_backbone(seed=3), weights=trained_file, contract=["stem"], weight=2.0)
    trainer: Trainer = fit(module, make_data())
    told = module.describe()
    assert told["method"] == "OPC"
    assert told["hyperparameters"] == {
        "contract": ["stem"],
        "target": "origin",
        "norm": "l2",
        "weight": 2.0,
        "schedule": "constant",
        "freeze_head": False,
        "distill": 0.0,
        "temperature": 2.0,
        "release": 0,
        "stop_at": None,
        "blend": 0.0,
        "redraw": 0.0,
        "redraw_as": "fresh",
        "fresh_head": False,
        "release_distill": None,
    }
    assert told["optimizer"]["class"] == "SGD"
    assert told["optimizer"]["lr"] == trainer.optimizers[0].defaults["lr"]
    assert told["backbone"]["class"] == "ResNet8"
    assert told["weights"]["source"] == str(trained_file)
    assert len(told["weights"]["sha256"]) == 64


@pytest.mark.parametrize("how", ["fit", "validate", "test"])
def test_a_checkpoint_of_another_split_is_refused(make_backbone, make_data, fit, make_trainer, tmp_path, how):
    fit(Retrain(make_backbone(seed=3)), make_data(classes=[0])).save_checkpoint(tmp_path / "run.ckpt")
    report = Report(page=False)
    here, made = (make_data(classes=classes).split.hash for classes in ([1], [0]))
    with pytest.raises(UsageError, match=f"the checkpoint forgets split {made}, but this run is on split {here}"):
        getattr(make_trainer(Evaluation(), report, max_epochs=2), how)(
            Retrain(make_backbone(seed=3)), datamodule=make_data(classes=[1]), ckpt_path=tmp_path / "run.ckpt"
        )
    assert report.rows == []


def test_the_checkpoint_of_an_original_is_scored_on_any_split(make_backbone, make_data, fit, make_trainer, tmp_path):
    fit(Pretrain(make_backbone(seed=3)), make_data(forget=None)).save_checkpoint(tmp_path / "run.ckpt")
    report = Report(page=False)
    trainer = make_trainer(Evaluation(), report)
    trainer.validate(Pretrain(make_backbone(seed=4)), datamodule=make_data(), ckpt_path=tmp_path / "run.ckpt")
    assert len(report.rows[-1].metrics) == 4


def test_the_row_names_the_optimizer_that_ran_and_not_the_one_that_was_asked_for(make_backbone, make_data, fit):
    class Altered(Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.optimizers[0].param_groups[0]["momentum"] = 0.5

    schedule = {"optimizer": lambda p: SGD(p, lr=0.08, momentum=0.9), "lr_scheduler": lambda o: StepLR(o, 1)}
    module = FineTune(make_backbone(), **schedule)
    fit(module, make_data(), Altered(), max_epochs=2)
    told = module.describe()["optimizer"]
    assert (told["lr"], told["momentum"], told["lr_scheduler"]["class"]) == (0.08, 0.5, "StepLR")
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)]
    module.trainer.optimizers = [SGD(groups, momentum=0.9)]
    told = module.describe()["optimizer"]
    assert (told["lr"], told["momentum"]) == ([0.1, 0.2], 0.9)
