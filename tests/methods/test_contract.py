"""What every method must do, whatever it computes."""

import inspect
import re
from dataclasses import asdict

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint

from lit_unlearn import methods
from lit_unlearn.attacks import Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.data import Augment
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.report import Report
from lit_unlearn.run_files import CHECKPOINT

METHODS = [getattr(methods, name) for name in methods.__all__ if name not in ("Audit", "UnlearnModule")]
OF_SAMPLES = [method for method in METHODS if not method.needs_classes]
OPTIONS = {"SSD": {"alpha": 1.0}}  # enough for it to dampen something on so little data
LEAST_EPOCHS = {"UNDO": 2}  # one that suppresses, and one that distils
SHARED = [kind for kind in methods.UnlearnModule.__mro__ if kind.__module__.startswith("lit_unlearn.")]
FREE = {  # what the base says a method may override
    *(
        "__init__",
        "__doc__",
        "__module__",
        "order",
        "from_scratch",
        "trains",
        "needs_original",
        "needs_forget",
        "needs_classes",
        "training_only",
        "objects",
    ),
    *("search", "holdout", "forget_every", "raises_loss", "order_in", "check_data"),
    *("saved_state", "load_saved_state", "unwrapped_backbone"),
    *("configure_optimizers", "is_original", "origin", "subject", "architecture_change"),
}
PARTS = {"retain": {"retain"}, "forget": {"forget"}}  # every other order has both
ALSO_READ = {  # before it trains on its order
    "LEACE": {"retain"},  # for what both sets have in common
    "MSG": {"forget"},  # for gradients that choose weights
}
UNTIMED = ("seconds", "started", "commit")


class Keep(Checkpoint):
    """Saves each epoch, after validation or after all else, as ModelCheckpoint does where the optimizer made a step."""

    def __init__(self, folder, after_validation):
        self.folder, self.after_validation = folder, after_validation

    def on_validation_end(self, trainer, pl_module):
        if self.after_validation:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        if not self.after_validation:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def make(method, backbone, weights):
    return method(backbone, weights=weights, **OPTIONS.get(method.__name__, {}))


def least_epochs(method):
    return {"max_epochs": LEAST_EPOCHS.get(method.__name__, 1)}


def run(fit, method, make_backbone, trained_file, data, **settings):
    report, settings = Report(page=False), least_epochs(method) | settings
    module = make(method, make_backbone(seed=3), trained_file)
    trainer = fit(module, data, Evaluation(), HeadRecovery(), FeatureMapping(), report, **settings)
    return module, report, trainer


def numbers(row):
    return {name: value for name, value in asdict(row).items() if name not in UNTIMED}


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
        make(method, make_backbone(seed=4), trained_file),
        datamodule=make_data(),
        ckpt_path=report.directory / CHECKPOINT,
        weights_only=True,
    )
    again = audit.rows[-1]
    assert (again.method, again.status) == (method.__name__, "ok")
    written, measured = fitted.weights.pop("result"), again.weights.pop("result")
    assert measured == {"tensors_sha256": written["tensors_sha256"]}  # fit alone writes a file
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


def trained(trainer, module):
    """Asserts that every weight that may learn has moved, if there is an optimizer to move it; and that it forgot."""
    original = dict(module.original_copy().named_parameters())
    learning = [(name, value) for name, value in module.unwrapped_copy().named_parameters() if may_learn(module, name)]
    if trainer.optimizers:
        assert trainer.global_step > 0
        assert learning
        assert all(not torch.equal(value, original[name]) for name, value in learning)
    assert not module.is_original()


def may_learn(module, name):
    return module.backbone.get_parameter(name).requires_grad


@pytest.mark.parametrize("method", OF_SAMPLES)
def test_a_single_image_can_be_forgotten(fit, method, make_backbone, one_image, trained_file):
    module, report, trainer = run(fit, method, make_backbone, trained_file, one_image)
    assert one_image.split.counts()["forget"] == 1
    assert report.rows[-1].status == "ok"
    ((image, label),) = one_image.evaluation_batches("forget", module.device)
    with torch.no_grad():
        answer = module.frozen_copy()(image).argmax(1)
    assert report.rows[-1].metrics["forget_acc"] == float(answer == label)
    trained(trainer, module)


@pytest.mark.parametrize("method", METHODS)
def test_a_forget_set_smaller_than_a_batch_is_trained_on(fit, method, make_backbone, make_data, trained_file, recorder):
    data = make_data(classes=[0], forget_batch_size=20)
    module = make(method, make_backbone(seed=3), trained_file)
    trainer = fit(module, data, recorder, **least_epochs(method))
    forgotten = sum(int((part[1] == 0).sum()) for batch in recorder.batches for part in batch.values())
    assert (forgotten >= 12) == (method.order != "retain")
    trained(trainer, module)


@pytest.mark.parametrize("method", METHODS)
def test_no_split_is_touched_that_is_not_in_the_order(
    fit, method, make_backbone, make_data, trained_file, recorder, monkeypatch
):
    data, asked = make_data(), set()
    known = data.evaluation_batches
    monkeypatch.setattr(data, "evaluation_batches", lambda split, *more: asked.add(split) or known(split, *more))
    module = make(method, make_backbone(seed=3), trained_file)
    fit(module, data, recorder, limit_val_batches=0, **least_epochs(method))
    allowed = PARTS.get(method.order, {"forget", "retain"})
    assert asked <= allowed | ALSO_READ.get(method.__name__, set())
    fed = {label < 2 for batch in recorder.batches for part in batch.values() for label in part[1].tolist()}
    assert fed == {part == "forget" for part in allowed}


@pytest.mark.parametrize("after_validation", [False, pytest.param(True, marks=pytest.mark.ci)])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumed_from_the_middle_ends_as_an_uninterrupted_one(
    fit, make_trainer, method, make_backbone, make_data, trained_file, tmp_path, after_validation
):
    whole = make(method, make_backbone(seed=3), trained_file)
    end = fit(whole, make_data(), Keep(tmp_path, after_validation), max_epochs=3, enable_checkpointing=True)
    resumed, trainer = make(method, make_backbone(seed=4), trained_file), make_trainer(max_epochs=3)
    middle = tmp_path / f"{min(1, end.current_epoch - 1)}.ckpt"  # a method of one shot has no other than its end
    trainer.fit(resumed, datamodule=make_data(), ckpt_path=middle, weights_only=True)
    ended = resumed.backbone.state_dict()
    assert ended.keys() == whole.backbone.state_dict().keys()
    assert all(torch.equal(value, ended[name]) for name, value in whole.backbone.state_dict().items())
    assert trainer.global_step == end.global_step


class KeepSteps(Checkpoint):
    """Saves after each step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}-{batch_idx}.ckpt")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumed_within_an_epoch_ends_as_an_uninterrupted_one(
    fit, make_trainer, method, make_backbone, make_data, trained_file, tmp_path, recorder
):
    def data():
        return make_data(augment=Augment(crop=1, flip=True), batch_size=7)

    whole = make(method, make_backbone(seed=3), trained_file)
    fit(whole, data(), KeepSteps(tmp_path), max_epochs=3, enable_checkpointing=True)
    made = sorted([int(part) for part in path.stem.split("-")] for path in tmp_path.glob("*.ckpt"))
    last = {epoch: max(step for other, step in made if other == epoch) for epoch, _ in made}
    within = [place for place in made if place[0] <= 1 and place[1] < last[place[0]]]
    middle = "-".join(map(str, within[-1]))
    resumed, trainer = make(method, make_backbone(seed=4), trained_file), make_trainer(recorder, max_epochs=3)
    go_on = {"datamodule": data(), "ckpt_path": tmp_path / f"{middle}.ckpt", "weights_only": True}
    if method is methods.SSD:
        with pytest.raises(UsageError, match="SSD has a single pass, which cannot go on from its middle"):
            trainer.fit(resumed, **go_on)
        return
    trainer.fit(resumed, **go_on)
    ended = resumed.backbone.state_dict()
    assert [name for name, value in whole.backbone.state_dict().items() if not torch.equal(value, ended[name])] == []
    assert len(recorder.batches) == len(made) - made.index(within[-1]) - 1, "it begins at the next step"


@pytest.mark.parametrize("method", METHODS)
def test_it_runs_in_mixed_precision(fit, method, make_backbone, make_data, trained_file):
    module, report, trainer = run(fit, method, make_backbone, trained_file, make_data(), precision="bf16-mixed")
    row = report.rows[-1]
    assert (row.status, row.precision) == ("ok", "bf16-mixed")
    assert len(row.metrics) == 4
    assert all(value.isfinite().all() for value in module.backbone.state_dict().values())
    assert all(value.dtype == torch.float32 for value in module.backbone.parameters())
    trained(trainer, module)


@pytest.mark.parametrize("method", OF_SAMPLES)
def test_a_random_share_can_be_forgotten(fit, method, make_backbone, make_data, trained_file):
    _, report, _ = run(fit, method, make_backbone, trained_file, make_data(fraction=0.2))
    row = report.rows[-1]
    assert row.status == "ok"
    assert set(row.metrics) == {"forget_acc", "retain_acc", "test_retain_acc"}
    numbers = [*row.metrics, "unseen"]
    assert set(row.attacks) == {f"recovery/{name}/{number}" for name in ("hr", "fm") for number in numbers}


@pytest.mark.parametrize("method", [*METHODS, methods.Audit])
def test_it_overrides_no_hook_of_the_base_and_calls_none(method):
    own = [kind for kind in method.__mro__ if issubclass(kind, methods.UnlearnModule) and kind not in SHARED]
    taken = {name for kind in SHARED for name in vars(kind) if not name.startswith("__")} - FREE
    assert {"prepare_data", "configure_callbacks", "validation_step", "on_save_checkpoint"} <= taken
    for kind in own:
        assert taken & set(vars(kind)) == set(), kind
        calls = re.findall(r"super\(\)\.(\w+)", inspect.getsource(kind))
        assert set(calls) <= {"__init__"}, kind


def test_every_method_that_is_imported_is_in_the_list_of_the_package():
    base = methods.UnlearnModule
    found = {name for name, kind in vars(methods).items() if isinstance(kind, type) and issubclass(kind, base)}
    assert found <= set(methods.__all__), "else none of these tests runs on it"


def test_what_is_shared_leaves_the_hooks_of_training_to_the_method():
    hooks = {name for kind in SHARED for name in vars(kind) if name.startswith("on_") or name == "setup"}
    assert hooks == {"on_save_checkpoint", "on_load_checkpoint"}
