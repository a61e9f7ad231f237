"""From a request to the next: earlier forget sets are never learnt again, and each is audited as a split of its own."""

import json
from pathlib import Path

import pytest
import torch
from blobs import Blobs
from command_line import Outcome, lit_unlearn
from safetensors import safe_open

import lit_unlearn as lu
from lit_unlearn.errors import UsageError
from lit_unlearn.reports import Row, read_rows

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
REQUESTS = [{"classes": [0]}, {"classes": [1]}, {"fraction": 0.05}]


def fit(folder: Path, weights: str, requests: list[dict[str, object]], *more: str) -> Outcome:
    before = ("--data.forgotten_before", json.dumps(requests[:-1])) if len(requests) > 1 else ()
    return lit_unlearn(
        folder,
        "fit",
        *("--model", "FineTune", "--model.backbone", "ResNet8", "--model.backbone.in_channels", "1"),
        *("--model.weights", weights, "--data.source", "Digits", "--data.forget", json.dumps(requests[-1])),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
        *("--trainer.callbacks+", "HeadRecovery", *before, *more),
    )


def run(folder: Path, number: int) -> Path:
    return folder / f"runs/FineTune/version_{number}"


def rows(folder: Path, number: int) -> list[Row]:
    return read_rows(run(folder, number) / "results.json")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three requests, each on the weights that the one before it left."""
    folder, weights = tmp_path_factory.mktemp("three"), "digits_resnet8"
    for number in range(3):
        assert fit(folder, weights, REQUESTS[: number + 1]).status == 0
        weights = f"runs/FineTune/version_{number}/unlearned.{'ckpt' if number else 'safetensors'}"
    return folder


def test_the_weights_remember_every_request(three: Path) -> None:
    with safe_open(run(three, 2) / "unlearned.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["lit_unlearn"])
    specs = [{"spec": {"classes": [0]}}, {"spec": {"classes": [1]}}, {"spec": {"fraction": 0.05}, "seed": 0}]
    assert [{k: v for k, v in each.items() if k != "request"} for each in said["forgotten"]] == specs
    assert len({each["request"] for each in said["forgotten"]}) == 3
    assert "left_out" not in said  # it was trained on these images once
    assert rows(three, 2)[-1].split["left_out"] != rows(three, 2)[-1].split["hash"]


def test_earlier_forget_sets_are_splits_that_are_attacked(three: Path) -> None:
    row = rows(three, 2)[-1]
    for split in ("forgotten_before_acc", "test_forgotten_before_acc"):
        assert split in row.metrics
        assert f"recovery/hr/{split}" in row.attacks
    assert row.split["counts"]["forgotten_before"] > 250
    assert [each["spec"] for each in row.split["before"]] == REQUESTS[:2]
    page = (run(three, 2) / "report.html").read_text()
    assert "Test-forgotten before" in page
    assert "Test-forgotten before" not in (run(three, 0) / "report.html").read_text()


@pytest.mark.parametrize("left", [[], [{"classes": [1]}], [{"classes": [0]}]])
def test_a_request_that_is_not_named_would_be_learnt_again(three: Path, left: list[dict[str, object]]) -> None:
    weights = "runs/FineTune/version_1/unlearned.safetensors"
    outcome = fit(three, weights, [*left, {"fraction": 0.05}])
    assert outcome.status == 2
    missing = [str(spec) for spec in REQUESTS[:2] if spec not in left]
    assert all(spec in outcome.err for spec in (*missing, "data.forgotten_before", weights))
    assert not run(three, 3).exists()


def test_the_same_request_once_more_is_none_that_was_forgotten(three: Path, tmp_path: Path) -> None:
    weights = str(run(three, 0) / "unlearned.ckpt")
    assert fit(tmp_path, weights, [{"classes": [0]}], "--trainer.fast_dev_run", "true").status == 0


def test_nothing_of_an_earlier_request_is_trained_on(make_data, make_backbone, recorder, fit) -> None:
    before, own = lu.ForgetSpec(classes=[0]), lu.ForgetSpec(classes=[1])
    data = make_data(forget=own, forgotten_before=[before], val_from_train=0.2)
    fit(lu.Pretrain(make_backbone()), data, recorder)
    seen = torch.cat([batch["full"][1] for batch in recorder.batches])
    assert sorted(set(seen.tolist())) == [1, 2, 3]
    images = torch.cat([batch["full"][0] for batch in recorder.batches]).mul(255).round().to(torch.uint8)
    held = data.data.train_images[data.split.validation]
    assert len(held) == 4
    assert not any(bool((image == images).flatten(1).all(1).any()) for image in held)


def test_a_network_that_remembers_an_earlier_request_has_not_withstood(make_data, make_backbone) -> None:
    """The original names the images that were forgotten before; a model retrained without them does not."""
    data = make_data(forget=lu.ForgetSpec(classes=[1]), forgotten_before=[lu.ForgetSpec(classes=[0])])
    retrain = lu.unlearn(make_backbone(seed=1), data, "Retrain", max_epochs=25, attacks=None, **QUIET).module.backbone
    method = lu.HeadOnly(make_backbone())  # hides class 1 in the head, and nothing else
    result = lu.unlearn(method.backbone, data, method, max_epochs=30, attacks="quick", retrain=retrain, **QUIET)
    assert result.rows[1].metrics["test_forgotten_before_acc"] == 0.0
    assert result.rows[-1].metrics["test_forgotten_before_acc"] > 0.9
    assert "earlier requests forgot" in str(result)


def test_validation_is_a_split_of_its_own_to_stop_early_by(tmp_path: Path) -> None:
    stopping = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/validation_acc")
    more = ("--trainer.callbacks.mode", "max", "--trainer.callbacks.patience", "0")
    outcome = fit(
        tmp_path,
        "digits_resnet8",
        [{"classes": [0]}],
        *("--data.val_from_train", "0.1", *stopping, *more, "--trainer.max_epochs", "4"),
    )
    assert outcome.status == 0
    row = rows(tmp_path, 0)[-1]
    assert row.split["counts"]["validation"] == pytest.approx(0.1 * 1298, abs=5)
    assert row.metrics["validation_acc"] > 0.8
    assert row.data["val_from_train"] == 0.1
    assert row.epochs < 4
    assert row.flags["cut short"] == f"training ended after {row.epochs} of 4 epochs: stopped early by EarlyStopping"
    assert "Validation" in outcome.out


def retrained(folder: Path, data: lu.UnlearnDataModule, network: torch.nn.Module) -> Path:
    """Weights of other code, which say nothing of themselves."""
    torch.save(network.state_dict(), folder / "own.pt")
    return folder / "own.pt"


@pytest.mark.parametrize("how", ["mapping", "sidecar", "list"])
def test_a_retrain_of_ones_own_with_what_it_was_trained_without(tmp_path, make_data, make_backbone, how) -> None:
    data, rule = make_data(classes=[0, 1]), {"classes": ["bee", 0]}
    path = retrained(tmp_path, data, make_backbone(seed=1))
    given: object = {"weights": str(path), "trained_without": rule}
    if how == "list":
        labels = Blobs().load().train_labels
        (tmp_path / "gone.txt").write_text("".join(f"{index}\n" for index in (labels < 2).nonzero().flatten().tolist()))
        given = {"weights": str(path), "trained_without": str(tmp_path / "gone.txt")}
    if how == "sidecar":
        (tmp_path / "own.pt.yaml").write_text("trained_without: {classes: [bee, 0]}\n")
        given = path
    result = lu.unlearn(make_backbone(), data, "FineTune", attacks=None, retrain=given, max_epochs=1, **QUIET)
    (retrain,) = [row for row in result.rows if row.method == "Retrain"]
    assert retrain.weights["trained_without"] == (str(tmp_path / "gone.txt") if how == "list" else "classes ['bee', 0]")
    assert result.rows[-1].flags["poor retrain"].startswith("Retrain classifies")


@pytest.mark.parametrize("method", ["OPC", "Pretrain", "DistilledRetrain", "Retrain"])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_what_was_trained_on_the_forget_set_is_no_retrain(tmp_path, make_data, make_backbone, method, ending) -> None:
    data = make_data(classes=[0, 1])
    lu.unlearn(make_backbone(), data, method, attacks=None, max_epochs=1, **QUIET).save(tmp_path / f"made.{ending}")
    given = {"method": "FineTune", "attacks": None, "max_epochs": 1, "retrain": tmp_path / f"made.{ending}", **QUIET}
    if method == "Retrain":
        assert [row.method for row in lu.unlearn(make_backbone(), data, **given).rows][1] == "Retrain"
        return
    with pytest.raises(UsageError, match=rf"made\.{ending}' are of {method}, which is no training without"):
        lu.unlearn(make_backbone(), data, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trained_without": {"classes": [0]}}, r"own\.pt.*trained without classes \[0\].*not exactly what this run"),
        ({"trained_without": {"clases": [0]}}, "unknown option of a forget rule 'clases'; did you mean 'classes'"),
        ({"trained_without": "none.txt"}, "cannot read index_file 'none.txt'"),
        ({"trained_with": 1}, "unknown option of retrain 'trained_with'; did you mean 'trained_without'"),
        ({}, "trained_without is missing"),
        (None, r"own\.pt' do not say what they were trained without: give"),
        ("trained: x", r"own\.pt\.yaml: must say trained_without"),
        ("- x", r"own\.pt\.yaml: must hold settings by name, not list"),
        ("trained_without: {", r"cannot read .*own\.pt\.yaml: "),
    ],
)
def test_a_retrain_that_does_not_fit_is_refused(tmp_path, make_data, make_backbone, given, said) -> None:
    data = make_data(classes=[0, 1])
    path = retrained(tmp_path, data, make_backbone(seed=1))
    retrain: object = path if not isinstance(given, dict) else {"weights": str(path), **given}
    if isinstance(given, str):
        (tmp_path / "own.pt.yaml").write_text(given)
    with pytest.raises(UsageError, match=said):
        lu.unlearn(make_backbone(), data, "FineTune", attacks=None, retrain=retrain, max_epochs=1, **QUIET)


def test_the_command_line_takes_a_retrain_of_ones_own(tmp_path: Path) -> None:
    held = torch.load(lu.resolve("digits_resnet8_retrain_classes_0_1_2"), weights_only=True)["state_dict"]
    torch.save(held, tmp_path / "own.pt")
    retrain = "{weights: own.pt, trained_without: {classes: [0, 1, 2]}}"
    assert fit(tmp_path, "digits_resnet8", [{"classes": [0, 1, 2]}], "--evaluation.retrain", retrain).status == 0
    assert [row.method for row in rows(tmp_path, 0)] == ["Original", "Retrain", "FineTune"]
    nested = ("--evaluation.retrain.weights", "own.pt", "--evaluation.retrain.trained_without", "{classes: [0]}")
    outcome = fit(tmp_path, "digits_resnet8", [{"classes": [0, 1, 2]}], *nested)
    assert outcome.status == 2
    assert "own.pt" in outcome.err
    assert "classes [0]" in outcome.err
