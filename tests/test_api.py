"""The door from Python: one call does what Trainer, module and callbacks do, and leaves the caller's network alone."""

import copy
import logging
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from blobs import CLASSES
from conftest import small_network
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, SparseAdam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

import lit_unlearn as lu
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.report import Report
from lit_unlearn.shipped import read_config

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


class Plain(nn.Module):
    """A network of the user's own: no stages, no normalisation, a head in the middle of its names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Linear(24, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.body(images).flatten(1))


@pytest.fixture
def plain(make_data: Callable[..., lu.UnlearnDataModule]) -> Plain:
    torch.manual_seed(0)
    network, data = Plain(), make_data()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    images, labels = data.data.train_images / 255, data.data.train_labels
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


def test_every_public_name_is_offered_and_each_once() -> None:
    rooms = {room: __import__(f"lit_unlearn.{room}", fromlist=["_"]).__all__ for room in lu._ROOMS}
    names = [name for offered in rooms.values() for name in offered]
    assert len(set(names)) == len(names)
    assert {"OPC", "HeadRecovery", "UnlearnDataModule", "ResNet8", "Report", "unlearn", "audit"} <= set(names)
    assert set(names) | {"__version__"} == set(dir(lu))
    assert all(getattr(lu, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lu.no_such_name


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_what_is_found_of_references_is_kept_for_the_next_call(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path, precision: str
) -> None:
    common: dict[str, Any] = {"attacks": [lu.HeadRecovery()], "retrain": Plain(), "cache": tmp_path / "kept", **QUIET}
    common["precision"] = precision
    first = lu.unlearn(plain, make_data(), "FineTune", max_epochs=1, **common)
    again = lu.unlearn(plain, make_data(), "GradientAscent", max_epochs=1, **common)
    audited = lu.audit(again.network.float(), make_data(), original=plain, **common)
    for result, kept in ((first, False), (again, True), (audited, True)):
        assert [row.method for row in result.rows[:2]] == ["Original", "Retrain"]
        assert [bool(row.kept) for row in result.rows] == [kept, kept, False]
        assert [row.attacks for row in result.rows[:2]] == [row.attacks for row in first.rows[:2]]


def test_the_import_alone_loads_neither_torch_nor_lightning() -> None:
    program = "import sys, lit_unlearn; print([n for n in ('torch', 'lightning', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unlearn_gives_back_the_users_own_class_and_leaves_the_network_alone(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    before = copy.deepcopy(plain.state_dict())
    result = lu.unlearn(plain, make_data(), method="FineTune", max_epochs=1, attacks=None, **QUIET)
    assert all(torch.equal(before[name], value) for name, value in plain.state_dict().items())
    assert type(result.network) is Plain
    forgotten = Plain()
    forgotten.load_state_dict(result.network.state_dict(), strict=True)
    images = torch.rand(100, *make_data().image_shape)
    with torch.no_grad():
        ours = result.module.backbone.cpu().eval()(images)
        theirs = forgotten.eval()(images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert not torch.equal(before["classifier.weight"], forgotten.classifier.weight)


def test_a_network_that_a_method_trained_in_part_learns_as_a_whole_again(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    plain.body[0].bias.requires_grad_(False)
    first = lu.unlearn(plain, make_data(), "CFk", {"k": 1}, attacks=None, max_epochs=1, **QUIET).network
    assert [name for name, each in first.named_parameters() if not each.requires_grad] == ["body.0.bias"]
    second = lu.unlearn(first, make_data(), "FineTune", attacks=None, max_epochs=1, **QUIET).network
    assert not torch.equal(first.body[0].weight, second.body[0].weight)


def test_unlearn_is_what_trainer_module_and_callbacks_do(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    network = small_network()
    result = lu.unlearn(network, make_data(), lu.OPC, {"weight": 2.0}, [lu.HeadRecovery()], max_epochs=2, **QUIET)
    seed_everything(0, workers=True, verbose=False)
    report = Report(write=False)
    trainer = Trainer(
        max_epochs=2,
        callbacks=[lu.HeadRecovery(), lu.Evaluation(), report],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **QUIET,
    )
    trainer.fit(lu.OPC(copy.deepcopy(network), weight=2.0), datamodule=make_data())
    assert [row.method for row in result.rows] == [row.method for row in report.rows] == ["Original", "OPC"]
    for ours, theirs in zip(result.rows, report.rows, strict=True):
        assert (ours.metrics, ours.attacks) == (theirs.metrics, theirs.attacks)
        assert "recovery/hr/test_forget_acc" in ours.attacks


def test_a_method_is_a_name_a_class_or_an_instance(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    network = small_network()
    results = [
        lu.unlearn(network, make_data(), "FineTune", attacks=None, max_epochs=1, **QUIET),
        lu.unlearn(network, make_data(), lu.FineTune, attacks=None, max_epochs=1, **QUIET),
    ]
    instance = lu.FineTune(small_network())
    results.append(lu.unlearn(instance.backbone, make_data(), instance, attacks=None, max_epochs=1, **QUIET))
    assert len({str(result.rows[-1].metrics) for result in results}) == 1


def test_retrain_saved_serves_as_retrain(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path
) -> None:
    lu.unlearn(plain, make_data(), "Retrain", attacks=None, max_epochs=1, **QUIET).save(tmp_path / "retrain.pt")
    result = lu.unlearn(
        plain, make_data(), "OPC", attacks="quick", max_epochs=1, retrain=tmp_path / "retrain.pt", **QUIET
    )
    assert [row.method for row in result.rows] == ["Original", "Retrain", "OPC"]
    assert result.rows[-1].versions["suite"].startswith("quick")
    assert all("recovery/worst" in " ".join(row.attacks) for row in result.rows)


def test_a_retrain_without_a_list_of_images_serves_that_list(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path
) -> None:
    torch.save(Plain().state_dict(), tmp_path / "own.pt")
    data = make_data(forget=[3, 17])
    for stated in [17, 3], {"images": torch.tensor([3, 17])}:
        retrain = {"weights": tmp_path / "own.pt", "trained_without": stated}
        row = lu.audit(plain, data, retrain=retrain, attacks=None, **QUIET).rows[0]
        assert (row.method, row.weights["trained_without"]) == ("Retrain", "a list of images")
    with pytest.raises(
        UsageError, match="trained without a list of images, which is not exactly what this run forgets"
    ):
        lu.audit(plain, data, retrain={**retrain, "trained_without": [3]}, attacks=None, **QUIET)


def test_audit_compares_a_network_with_original_and_retrain(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    other = Plain()
    result = lu.audit(other, make_data(), original=plain, retrain=Plain(), attacks=[lu.FeatureMapping()], **QUIET)
    assert [row.method for row in result.rows] == ["Original", "Retrain", "Audit"]
    assert all("recovery/fm/forget_acc" in row.attacks for row in result.rows)
    result.to_html(tmp_path / "report.html")
    result.to_json(tmp_path / "results.json")
    assert lu.read_rows(tmp_path / "results.json") == result.rows
    assert "Audit" in (tmp_path / "report.html").read_text()
    without = lu.audit(other, make_data(), attacks=[lu.FeatureMapping()], **QUIET)
    assert [row.method for row in without.rows] == ["Audit"]
    assert "recovery/fm" in without.rows[-1].skipped


class Lifted(Plain):
    """Its own code gives every network of it other features, which the weights do not tell."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(1 - images)


@pytest.mark.parametrize("file", [False, True])
def test_the_code_of_an_audited_network_does_not_act_on_original_and_retrain(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path, file: bool
) -> None:
    torch.manual_seed(1)
    retrain: Any = Plain().state_dict()
    if file:
        torch.save(retrain, tmp_path / "theirs.pt")
        retrain = {"weights": str(tmp_path / "theirs.pt"), "trained_without": {"classes": [2]}}
    told = {"original": plain, "retrain": retrain, "attacks": [lu.HeadRecovery()], **QUIET}
    honest, forged = (lu.audit(kind(), make_data(classes=[2]), **told).rows for kind in (Plain, Lifted))
    for one, other in zip(honest[:2], forged[:2], strict=True):
        assert (one.metrics, one.attacks) == (other.metrics, other.attacks)
    acts = lu.audit(Lifted(), make_data(classes=[2]), **{**told, "original": plain.state_dict()}).rows
    assert acts[1].metrics | acts[1].attacks != honest[1].metrics | honest[1].attacks, "else this shows nothing"


def test_a_retrain_of_another_network_is_refused(plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    with pytest.raises(UsageError, match=r"retrain: .* is .* there and .* in the original"):
        lu.audit(plain, make_data(), original=plain, retrain=small_network(), attacks=None, **QUIET)


@pytest.mark.parametrize("method", ["Rescale", "LEACE"])
def test_a_part_that_a_method_puts_behind_the_encoder_is_no_other_answer(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], method: str
) -> None:
    assert lu.unlearn(plain, make_data(), method, attacks=None, max_epochs=1, **QUIET).rows[-1].status == "ok"


def test_lazy_layers_are_named(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, CLASSES))
    with pytest.raises(UsageError, match="Sequential has lazy layers: run one batch through it first"):
        lu.unlearn(network, make_data(), "FineTune", attacks=None, max_epochs=1, **QUIET)


def test_weights_that_have_forgotten_the_same_are_flagged_as_the_original(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path
) -> None:
    data = make_data()
    done = lu.unlearn(plain, data, "FineTune", attacks=None, max_epochs=1, **QUIET)
    assert "forgotten original" not in done.rows[-1].flags
    done.save(tmp_path / "forgot.safetensors")
    again = lu.FineTune(lu.Custom(Plain(), in_channels=1), weights=tmp_path / "forgot.safetensors")
    with pytest.warns(UserWarning, match=r"forgot\.safetensors, which is measured as Original, has forgotten this"):
        found = lu.unlearn(again.backbone, data, again, attacks=None, max_epochs=1, **QUIET)
    assert "(FineTune)" in found.rows[-1].flags["forgotten original"]


def test_an_attack_that_returns_nonsense_costs_no_training(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    class Percent(lu.Attack):
        family = "recovery"

        def evaluate(self, target: object) -> lu.AttackResult:
            return lu.AttackResult({"forget_acc": 50.0})

    attacks = [Percent("percent"), lu.HeadRecovery()]
    with pytest.warns(UserWarning, match="recovery/percent was left out"):
        row = lu.unlearn(plain, make_data(), "FineTune", attacks=attacks, max_epochs=1, **QUIET).rows[-1]
    assert "forget_acc = 50, but an accuracy or AUC must lie in [0, 1]" in row.skipped["recovery/percent"]
    assert "recovery/hr/forget_acc" in row.attacks


def test_the_untouched_original_is_judged(plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    data = make_data()
    retrain = lu.unlearn(plain, data, "Retrain", attacks=None, max_epochs=2, **QUIET).network
    result = lu.audit(plain, data, original=copy.deepcopy(plain), retrain=retrain, attacks="quick", **QUIET)
    rows = result.rows
    assert [row.method for row in rows] == ["Original", "Retrain", "Audit"]
    assert result.verdict["level"] == "not forgotten"
    assert rows[-1].metrics == rows[0].metrics


def test_print_and_notebook_show_the_table_and_the_verdict(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    result = lu.unlearn(small_network(), make_data(), "FineTune", attacks=[lu.HeadRecovery()], max_epochs=1, **QUIET)
    for shown in (str(result), result._repr_html_()):
        assert "FineTune" in shown
        assert "recovery/hr" in shown
    assert "<script" not in result._repr_html_()


def test_a_result_can_be_handed_to_another_process(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    given = lu.unlearn(plain, make_data(), "SCRUB", attacks=[lu.HeadRecovery(), lu.FeatureMap()], max_epochs=1, **QUIET)
    taken = pickle.loads(pickle.dumps(given))
    assert str(taken) == str(given)
    assert torch.equal(taken.network.classifier.weight, given.network.classifier.weight)
    assert taken.module.make_optimizer is given.module.make_optimizer
    again = lu.unlearn(taken.network, make_data(), "SSD", attacks=None, max_epochs=1, **QUIET)
    assert pickle.loads(pickle.dumps(again)).module.make_optimizer is again.module.make_optimizer


def test_a_result_that_cannot_be_written_says_why(
    make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path
) -> None:
    result = lu.audit(small_network(), make_data(), attacks=None, **QUIET)
    (tmp_path / "file").write_text("")
    for write, name in (result.to_html, "report.html"), (result.to_json, "results.json"):
        with pytest.raises(UsageError, match=rf"{tmp_path} is a folder: name a file, such as {tmp_path}/{name}$"):
            write(tmp_path)
        with pytest.raises(UsageError, match=r"cannot write .*/file/page: "):
            write(tmp_path / "file" / "page")
        with pytest.raises(UsageError, match=f"path is None, but must be a file, such as '{name}'"):
            write(None)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("shown", [True, False])
def test_each_attack_is_told_where_progress_is_shown(
    make_data: Callable[..., lu.UnlearnDataModule], caplog: pytest.LogCaptureFixture, shown: bool
) -> None:
    name = "lightning.pytorch.utilities.rank_zero"
    before = [logging.getLogger(each).level for each in (name, f"{name}.progress")]
    network, others = small_network(), small_network(1)
    lu.audit(
        network, make_data(), original=others, attacks=[lu.HeadRecovery()], **{**QUIET, "enable_progress_bar": shown}
    )
    told = ["Attacking the model (1 of 1): recovery/hr", "Measuring the reference model: original"]
    assert [record.getMessage() for record in caplog.records if name in record.name] == (told if shown else [])
    assert [logging.getLogger(each).level for each in (name, f"{name}.progress")] == before


def test_one_attack_alone_gives_the_numbers_of_a_run(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    found = lu.HeadRecovery()(plain, make_data())
    row = lu.audit(plain, make_data(), attacks=[lu.HeadRecovery()], **QUIET).rows[-1]
    assert {f"recovery/hr/{name}": value for name, value in found.numbers.items()} == pytest.approx(
        row.attacks, abs=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "OPS", "max_epochs": 1}, "'OPS'.*OPC"),
        ({"method": "UnlearnModule", "max_epochs": 1}, "UnlearnModule"),
        ({"method": "OPC"}, "max_epochs"),
        ({"method": "OPC", "max_epochs": 1, "attacks": "quik"}, "quik"),
        ({"method": "OPC", "max_epochs": 1, "wrap": {"head": "body.0"}}, "body.0"),
        ({"method": "OPC", "max_epochs": None}, "max_epochs is missing"),
        ({"method": "OPC", "max_epochs": "3"}, "max_epochs is '3', but must be a whole number"),
        ({"method": "OPC", "max_epochs": 1, "seed": -1}, "seed is -1, but must lie in 0 to"),
        ({"method": "OPC", "max_epochs": 1, "options": {"weigth": 1}}, "unknown option of OPC 'weigth'; .*'weight'"),
        (
            {"method": "OPC", "max_epochs": 1, "options": {"weight": "a"}},
            "option weight of OPC is 'a', but must be a number",
        ),
        (
            {"method": "MSG", "max_epochs": 1, "options": {"fraction": None}},
            "fraction of MSG is None, but must be a number",
        ),
        (
            {"method": "CFk", "max_epochs": 1, "options": {"k": 1.5}},
            "k is 1.5, but must be a whole number of layers, at least 1, or a share of them",
        ),
        (
            {"method": lu.FineTune, "max_epochs": 1, "options": {"optimizer": "SGD"}},
            "option optimizer of FineTune is 'SGD', but must be a function, such as lambda parameters",
        ),
        (
            {"method": "FineTune", "max_epochs": 1, "options": {"lr_scheduler": 3}},
            "is 3, but must be a function.* or None",
        ),
        (
            {"method": "FineTune", "max_epochs": 1, "options": {"weights": 3}},
            "is 3, but must be a text or a path or None",
        ),
        ({"method": "OPC", "max_epochs": 1, "attacks": ["HeadRecovery"]}, "'HeadRecovery' is no attack"),
        ({"method": "nowhere_here.Mine", "max_epochs": 1}, "method: there is no module 'nowhere_here'"),
        ({"method": "lit_unlearn.methods.FineTun", "max_epochs": 1}, "has no class 'FineTun'; did you mean 'FineTune'"),
        ({"method": "lit_unlearn.IDI", "max_epochs": 1}, "method: lit_unlearn.IDI is no subclass of UnlearnModule"),
        ({"method": "OPC", "max_epochs": 1, "attacks": "lit_unlearn.OPC"}, "lit_unlearn.OPC is no subclass of Attack"),
        ({"method": "OPC", "max_epochs": 1, "attacks": ["own_api.Needs"]}, "own_api.Needs cannot be made without arg"),
        ({"method": "OPC", "max_epochs": 1, "attacks": [lu.HeadRecovery]}, "'HeadRecovery' is no attack"),
        ({"method": nn.Sequential, "max_epochs": 1}, "method: Sequential is no subclass of UnlearnModule"),
        ({"method": lambda backbone: backbone, "max_epochs": 1}, "which is no UnlearnModule"),
        (
            {"network": nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).to("meta"), "method": "OPC", "max_epochs": 1},
            "network: Sequential is on the meta device",
        ),
    ],
)
def test_bad_input_is_named(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        lu.unlearn(**{"network": plain, "data": make_data(), **arguments, **QUIET})  # type: ignore[arg-type]


def test_an_attack_alone_needs_data(plain: Plain) -> None:
    with pytest.raises(UsageError, match="data is 'images', but must be an UnlearnDataModule"):
        lu.HeadRecovery()(plain, "images")  # type: ignore[arg-type]


def test_a_rule_of_what_a_retrain_left_out_has_a_type(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], tmp_path: Path
) -> None:
    torch.save(plain.state_dict(), tmp_path / "retrain.pt")
    retrain = {"weights": tmp_path / "retrain.pt", "trained_without": 5}
    with pytest.raises(UsageError, match="a forget rule is 5, but must be a file, arguments by name, or a list of im"):
        lu.unlearn(plain, make_data(), attacks=None, retrain=retrain, max_epochs=1, **QUIET)


def test_classes_of_ones_own_are_named_by_their_import_path(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    result = lu.unlearn(
        plain,
        make_data(),
        method="own_api.Mine",
        options={"k": 3},
        attacks=["own_api.Probe", lu.HeadRecovery()],
        max_epochs=1,
        **QUIET,
    )
    row = result.rows[-1]
    assert (row.method, row.hyperparameters["k"]) == ("Mine", 3)
    assert {name.rpartition("/")[0] for name in row.attacks} == {"recovery/own", "recovery/hr"}
    assert "recovery/own/forget_acc" in lu.audit(plain, make_data(), attacks="own_api.Probe", **QUIET).rows[-1].attacks


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: lu.ForgetSpec(classes="12"), "classes is '12', but must be a list of names or indices"),  # type: ignore[arg-type]
        (lambda: lu.ForgetSpec(classes=3), "classes is 3, but must be a list"),  # type: ignore[arg-type]
        (lambda: lu.ForgetSpec(classes=[True]), r"classes is \[True\], but must be a list"),
        (lambda: lu.ForgetSpec(fraction="0.1"), "fraction is '0.1', but must be a number"),  # type: ignore[arg-type]
        (lambda: lu.ForgetSpec(index_file=3), "index_file is 3, but must be a file"),  # type: ignore[arg-type]
        (lambda: lu.UnlearnDataModule(lu.Digits(), "forget.txt"), "forget is 'forget.txt', but must be a ForgetSpec"),  # type: ignore[arg-type]
        (lambda: lu.UnlearnDataModule("Digits"), "source is 'Digits', but must be a source of images"),  # type: ignore[arg-type]
    ],
)
def test_what_the_data_are_made_of_is_checked(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def test_a_config_gives_method_settings_and_epochs(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    network, data = small_network(), make_data()
    made = lu.unlearn(network, data, "opc_deep", attacks=None, **QUIET)
    assert (made.rows[-1].epochs, made.rows[-1].optimizer["lr_scheduler"]["T_max"]) == (5, 5)
    own = lu.unlearn(network, data, "opc_deep", {"distill": 0.0}, attacks=None, max_epochs=2, **QUIET)
    assert (own.rows[-1].epochs, own.rows[-1].optimizer["lr_scheduler"]["T_max"]) == (2, 2)
    settings = read_config("model/opc_deep")["model"]["init_args"]
    options = {name: value for name, value in settings.items() if name not in ("optimizer", "lr_scheduler")}
    by_hand = lu.unlearn(
        network,
        data,
        lu.OPC,
        {
            **options,
            "distill": 0.0,
            "optimizer": lambda parameters: SGD(parameters, **settings["optimizer"]["init_args"]),
            "lr_scheduler": lambda optimizer: CosineAnnealingLR(optimizer, 2),
        },
        attacks=None,
        max_epochs=2,
        **QUIET,
    )
    assert own.rows[-1].hyperparameters == by_hand.rows[-1].hyperparameters
    for ours, theirs in zip(own.module.parameters(), by_hand.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"redrw": 1}, "unknown option of OPC 'redrw'; did you mean 'redraw'"),
        ({"redraw": 3}, "redraw is 3.0, but must lie in"),
        ({"redraw": "x"}, "model.redraw: 'x' is not accepted; expected float"),
    ],
)
def test_a_wrong_option_beside_a_config_is_named(
    make_data: Callable[..., lu.UnlearnDataModule], options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        lu.unlearn(small_network(), make_data(), "opc_deep", options, attacks=None, **QUIET)


@pytest.mark.parametrize("data", ["images", None, lu.Digits()], ids=["folder", "nothing", "source"])
def test_what_is_no_data_module_is_refused(data: object) -> None:
    for call in partial(lu.unlearn, max_epochs=1), lu.audit:
        with pytest.raises(UsageError, match=r"but must be a data module, such as lu\.UnlearnDataModule"):
            call(small_network(), data)


def test_what_is_no_method_or_seed_is_refused(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    with pytest.raises(UsageError, match="method is None, but must be a name such as 'opc_deep'"):
        lu.unlearn(small_network(), make_data(), None, max_epochs=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed is 'a'"):
        lu.audit(small_network(), make_data(), seed="a")  # type: ignore[arg-type]


def test_numbers_of_other_kinds_are_numbers(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    for options in {"weight": 2}, {"weight": numpy.float32(2)}:
        lu.unlearn(small_network(), make_data(), "OPC", options, attacks=None, max_epochs=1, **QUIET)
    lu.unlearn(small_network(), make_data(), "CFk", {"k": numpy.int64(2)}, attacks=None, max_epochs=1, **QUIET)


def test_one_callback_needs_no_list_and_none_is_allowed(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    class Seen(Callback):
        epochs = 0

        def on_train_epoch_end(self, trainer: Trainer, pl_module: lu.UnlearnModule) -> None:
            self.epochs += 1

    for given in (seen := Seen()), [seen], None:
        lu.unlearn(Plain(), make_data(), "FineTune", attacks=None, max_epochs=1, callbacks=given, **QUIET)
    assert seen.epochs == 2


def test_the_callers_random_numbers_and_data_are_left_as_they_were(
    make_data: Callable[..., lu.UnlearnDataModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    data, network = make_data(), Plain()
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    lu.unlearn(network, data, "FineTune", attacks=None, max_epochs=1, precision="bf16-true", **QUIET)
    lu.audit(network, data, attacks=[lu.HeadRecovery()], precision="bf16-true", **QUIET)
    after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert (os.environ["PL_GLOBAL_SEED"], "PL_SEED_WORKERS" in os.environ) == ("17", False)
    assert next(data.evaluation_batches("forget", "cpu"))[0].dtype == torch.float32, "that of the run before"


def test_results_that_stay_in_other_processes_are_an_error(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    with pytest.raises(UsageError, match="'ddp_fork' measures in processes of its own"):
        lu.audit(Plain(), make_data(), attacks=None, devices=2, strategy="ddp_fork", **QUIET)


def test_one_attack_needs_no_list(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    network = small_network()
    result = lu.unlearn(network, make_data(), "FineTune", max_epochs=1, attacks=lu.HeadRecovery(), **QUIET)  # type: ignore[arg-type]
    assert "recovery/hr/test_forget_acc" in result.rows[-1].attacks


def test_a_network_that_is_frozen_in_part_says_how_much_of_it_learns(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    plain.body.requires_grad_(False)
    said = r"100 of 172 parameters of the network learn: the others, such as body\.0\.weight, are frozen"
    with pytest.warns(UserWarning, match=said):
        found = lu.unlearn(plain, make_data(), "FineTune", attacks=None, max_epochs=1, **QUIET).network
    assert torch.equal(found.body[0].weight, plain.body[0].weight)
    assert not torch.equal(found.classifier.weight, plain.classifier.weight)
    with pytest.raises(UsageError, match=r"frozen parameters would stay random, such as body\.0\.weight"):
        lu.unlearn(plain, make_data(), "Retrain", attacks=None, max_epochs=1, **QUIET)
    with warnings.catch_warnings(record=True) as said_again:
        part = {"train": "head"}
        lu.unlearn(plain.requires_grad_(True), make_data(), attacks=None, max_epochs=1, wrap=part, **QUIET)
    assert not [each for each in said_again if "parameters of the network learn" in str(each.message)]


@pytest.mark.parametrize("method", ["FineTune", "SSD", "MSG", "HeadOnly", "Retrain", "opc_deep"])
def test_a_network_that_is_frozen_as_a_whole_is_refused(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], method: str
) -> None:
    plain.requires_grad_(False)
    with pytest.raises(UsageError, match=r"no parameter of the network learns .*call network\.requires_grad_\(True\)"):
        lu.unlearn(plain, make_data(), method, attacks=None, max_epochs=1, **QUIET)
    assert lu.audit(plain, make_data(), attacks=None, **QUIET).rows


@pytest.mark.parametrize(
    ("value", "name"), [("nan", "body.0.weight"), ("inf", "classifier.bias"), ("inf", "body.1.running_var")]
)
def test_weights_that_are_no_numbers_are_named(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], value: str, name: str
) -> None:
    broken = copy.deepcopy(plain)
    broken.state_dict()[name].view(-1)[0] = float(value)
    data = make_data()
    instance = lu.FineTune(lu.Custom(broken, in_channels=1))
    for role, call in {
        "network": lambda: lu.unlearn(broken, data, "FineTune", max_epochs=1, attacks=None, **QUIET),
        "original": lambda: lu.audit(plain, data, original=broken, attacks=None, **QUIET),
        "retrain": lambda: lu.audit(plain, data, retrain=[broken], attacks=None, **QUIET),
    }.items():
        with pytest.raises(UsageError, match=rf"{role}: Plain has values that are not finite \(.*\) in {name}: "):
            call()
    with pytest.raises(UsageError, match=rf"network: Custom has values .* in {name}: "):
        lu.unlearn(instance.backbone, data, instance, max_epochs=1, attacks=None, **QUIET)
    with pytest.raises(UsageError, match=rf"original: Plain has values .* in {name}: "):
        lu.FeatureMapping()(plain, data, original=broken)


def test_a_mask_may_be_infinite(plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    plain.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert lu.audit(plain, make_data(), attacks=None, **QUIET).rows[0].status == "ok"


def test_an_original_that_is_none_is_refused(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    network, data = small_network(), make_data()
    with pytest.raises(
        UsageError, match="original is a list, but must be a network, a state dict, or a file of weights"
    ):
        lu.audit(network, data, original=[1], attacks=None)  # type: ignore[arg-type]
    said = (
        r"another architecture than the audited network: encoder.\S+ is \(8, 1, 3, 3\) there and \(\d+, 1, 3, 3\) here"
    )
    with pytest.raises(UsageError, match=said):
        lu.audit(network, data, original=lu.ResNet8(4, 1, width=8), attacks=None)


def test_random_numbers_go_on_as_before_after_an_error_too(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(numpy.random.rand()), random.random()

    class Broken(Callback):
        def on_train_epoch_start(self, trainer: object, pl_module: object) -> None:
            raise RuntimeError("broken")

    network, data = small_network(), make_data()
    seed_everything(7, verbose=False)
    wanted = drawn()
    seed_everything(7, verbose=False)
    with pytest.raises(RuntimeError, match="broken"):
        lu.unlearn(network, data, "FineTune", attacks=None, max_epochs=1, callbacks=[Broken()], **QUIET)
    assert drawn() == wanted


def test_ctrl_c_is_a_keyboard_interrupt(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    class Interrupted(Callback):
        def on_train_epoch_start(self, trainer: object, pl_module: object) -> None:
            raise KeyboardInterrupt

    options = {"attacks": None, "max_epochs": 1, "callbacks": [Interrupted()], **QUIET}
    with pytest.raises(KeyboardInterrupt):
        lu.unlearn(small_network(), make_data(), "FineTune", **options)


def test_weights_that_change_after_they_were_measured_are_refused(
    make_data: Callable[..., lu.UnlearnDataModule],
) -> None:
    class Late(lu.FineTune):
        def on_train_end(self) -> None:
            with torch.no_grad():
                self.backbone.head.weight.zero_()

    with pytest.raises(UsageError, match="Late has changed its weights after they were measured"):
        lu.unlearn(small_network(), make_data(), Late, attacks=None, max_epochs=1, **QUIET)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_epoch": 3}, "unknown argument 'max_epoch'; did you mean 'max_epochs'"),
        ({"atacks": None}, "unknown argument 'atacks'; did you mean 'attacks'"),
        ({"accelerator": "none"}, "trainer"),
        ({"attacks": "HeadRecovery"}, "'HeadRecovery' is the name of a class: give objects, such as attacks=[lu.HeadR"),
        ({"max_epochs": True}, "max_epochs is True, but must be a whole number"),
        ({"wrap": {"mean": 0.5}}, "option mean of Custom is 0.5, but must be a list of numbers or None"),
        ({"wrap": {"head": 8}}, "option head of Custom is 8, but must be a text or None"),
        ({"wrap": "head"}, "wrap is 'head', but must be a dictionary, such as {'head': 'fc'}"),
        ({"options": ["lr"]}, "options is ['lr'], but must be a dictionary, such as {'weight': 0.1}"),
        ({"options": {"backbone": 1}}, "unknown option of FineTune 'backbone'"),
        ({"seed": True}, "seed is True, but must be a whole number"),
        ({"callbacks": ["x"]}, "callbacks has 'x', but must have objects"),
        ({"logger": "csv"}, "logger is 'csv', but must be True, False, or an object"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches is 0, but must be at least 1"),
        ({"val_check_interval": 100}, "trainer.val_check_interval is 100, but an epoch has"),
        ({"limit_train_batches": 1e-9}, "Please increase the `limit_train_batches` argument"),
        ({"options": {"lr_scheduler": StepLR}}, "lr_scheduler: StepLR.__init__() missing 1 required"),
        (
            {"options": {"lr_scheduler": lambda optimizer: CosineAnnealingLR(optimizer, 0)}},
            "lr_scheduler: CosineAnnealingLR: integer modulo by zero",
        ),
        (
            {"options": {"lr_scheduler": ReduceLROnPlateau}},
            "lr_scheduler: torch's ReduceLROnPlateau does not say which number it follows",
        ),
        (
            {"options": {"optimizer": lambda parameters: SparseAdam(parameters, lr=0.1)}},
            "optimizer: SparseAdam does not support dense gradients",
        ),
        (
            {"max_epochs": 3, "options": {"lr_scheduler": lambda optimizer: OneCycleLR(optimizer, 0.1, 2)}},
            "lr_scheduler: OneCycleLR: Tried to step 3 times.",
        ),
        (
            {"retrain": {"weights": nn.Linear(1, 1), "trained_without": "forget.txt"}},
            "weights is a Linear, but with trained_without must be a file of weights",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule], options: dict[str, object], said: str
) -> None:
    given = {"attacks": None, "max_epochs": 1, **QUIET, **options}
    with pytest.raises(UsageError, match=re.escape(said)) as refusal:
        lu.unlearn(plain, make_data(), "FineTune", **given)
    assert "\n" not in str(refusal.value)


def test_a_network_that_cannot_be_copied_is_refused(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    plain.lock = threading.Lock()
    with pytest.raises(UsageError, match="network: a Plain cannot be copied"):
        lu.unlearn(plain, make_data(), "FineTune", attacks=None, max_epochs=1, **QUIET)


def test_whole_numbers_of_numpy_are_whole_numbers(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    result = lu.unlearn(small_network(), make_data(), "Retrain", attacks=None, max_epochs=numpy.int64(1), **QUIET)
    assert result.rows[-1].epochs == 1
    assert result.verdict["level"] == "not judged"
    with pytest.raises(UsageError, match=r"path is None, but must be a file, such as 'retrain\.pt'"):
        result.save(None)  # type: ignore[arg-type]


def test_retrain_takes_an_untrained_network_that_was_drawn_by_its_own_seed(
    make_data: Callable[..., lu.UnlearnDataModule],
) -> None:
    torch.manual_seed(0)
    network = Plain()
    seed_everything(0, verbose=False)
    assert lu.unlearn(network, make_data(), "Retrain", attacks=None, max_epochs=1, **QUIET).rows[-1].status == "ok"


def test_a_state_dict_is_loaded_into_a_copy_of_the_network(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    torch.manual_seed(1)
    data, other, third = make_data(), Plain().eval(), Plain().eval()
    as_networks = lu.audit(plain, data, original=other, retrain=third, attacks=None, **QUIET)
    states = {"original": other.state_dict(), "retrain": third.state_dict()}
    as_states = lu.audit(plain, data, **states, attacks=None, **QUIET)
    assert [row.metrics for row in as_states.rows] == [row.metrics for row in as_networks.rows]
    wrong = {**other.state_dict(), "classifier.bias": torch.zeros(7)}
    with pytest.raises(UsageError, match=r"^original: .*\(classifier\.bias is \(7,\)"):
        lu.audit(plain, data, original=wrong, attacks=None, **QUIET)
    wrong = {name: value for name, value in other.state_dict().items() if name != "body.0.bias"}
    with pytest.raises(UsageError, match=r"^retrain: .* missing body\.0\.bias"):
        lu.audit(plain, data, retrain=wrong, attacks=None, **QUIET)


def test_messages_have_the_names_of_the_users_network(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    with pytest.raises(UsageError, match=r"k is 3, but a Plain has 2 layer"):
        lu.unlearn(plain, make_data(), "CFk", {"k": 3}, attacks=None, max_epochs=1, **QUIET)
    plain.classifier.requires_grad_(False)
    with pytest.raises(UsageError, match=r"the last linear layer \(classifier\) is frozen"):
        lu.unlearn(plain, make_data(), "HeadOnly", attacks=None, max_epochs=1, **QUIET)


def test_an_instance_and_options_contradict(make_data: Callable[..., lu.UnlearnDataModule]) -> None:
    with pytest.raises(UsageError, match="instance"):
        lu.unlearn(small_network(), make_data(), lu.FineTune(small_network()), max_epochs=1, **QUIET)


def test_a_method_that_changes_the_architecture_has_no_network_to_take_home(
    make_data: Callable[..., lu.UnlearnDataModule],
) -> None:
    result = lu.unlearn(small_network(), make_data(), "Rescale", attacks=None, max_epochs=1, **QUIET)
    with pytest.raises(UsageError, match="Rescale"):
        _ = result.network


def test_reference_models_are_wrapped_as_the_network_is(
    plain: Plain, make_data: Callable[..., lu.UnlearnDataModule]
) -> None:
    wrap = {"mean": [0.4], "std": [0.2]}
    alike = copy.deepcopy(plain)
    with torch.no_grad():
        next(alike.parameters()).mul_(1 + 1e-6)
    rows = lu.audit(plain, make_data(), original=Plain(), retrain=alike, attacks=None, wrap=wrap, **QUIET).rows
    found = {row.method: row.metrics for row in rows}
    assert found["Retrain"] == found["Audit"]
