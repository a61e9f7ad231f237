"""Two processes find what one finds: batches, weights, rows, checkpoints and the numbers of every attack."""

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from blobs import Blobs
from parallel_jobs import AUDIT, METHODS, ODD, ORIGINAL, UNLEARNED, everything
from processes import together
from torch import Tensor

from lit_unlearn.attacks import Evaluation, HeadRecovery
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.weights import load_weights, resolve
from lit_unlearn.data import ForgetSpec, UnlearnDataModule
from lit_unlearn.methods import Audit
from lit_unlearn.reports import read_rows
from lit_unlearn.reports.report import Report

pytestmark = pytest.mark.ci  # every method and attack in one process and in two: a minute


ROOT = Path(__file__).resolve().parents[2]
FORGET = [3, 8, 17, 21, 30, 41]
IN_PIXELS = [
    {"class_path": "PerturbedImages", "init_args": {"steps": 2, "most": 51}},
    {"class_path": "UniversalPerturbation", "init_args": {"steps": 5, "samples": 51, "most": 51}},
    {"class_path": "MembershipProbe"},
]
"""More for the digits than the quick suite."""

Found = dict[str, Any]


def disturbed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model that has forgotten a little of everything."""
    draw = torch.Generator().manual_seed(5)
    moved = {
        name: value * (1 + 0.2 * torch.randn(value.shape, generator=draw)) if value.dim() > 1 else value
        for name, value in state.items()
    }
    moved["head.bias"] = state["head.bias"].clone()
    moved["head.bias"][:2] -= 1
    return moved


@pytest.fixture(scope="module")
def folder(trained_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    torch.save(trained_state, folder / ORIGINAL)
    torch.save(disturbed(trained_state), folder / UNLEARNED)
    (folder / "forget.txt").write_text("5\n")
    (folder / "six.txt").write_text("\n".join(map(str, FORGET)))
    digits = torch.load(resolve("digits_resnet8"), weights_only=True)["state_dict"]
    torch.save(disturbed(digits), folder / "digits.pt")
    attacks = yaml.safe_load((ROOT / "configs/attack/quick.yaml").read_text())
    backbone = {"class_path": "ResNet8", "init_args": {"num_classes": 10, "in_channels": 1}}
    audit = {"backbone": backbone, "weights": str(folder / "digits.pt"), "original": "digits_resnet8"}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    settings = {
        "model": {"class_path": "Audit", "init_args": audit},
        "data": {
            "class_path": "UnlearnDataModule",
            "init_args": {"source": "Digits", "forget": {"classes": [0, 1, 2]}},
        },
        "trainer": {**attacks["trainer"], "callbacks": [*attacks["trainer"]["callbacks"], *IN_PIXELS], **quiet},
        "evaluation": {
            **attacks["evaluation"],
            "retrain": "digits_resnet8_retrain_classes_0_1_2",
            "reference_models": False,
        },
        "report": {"page": False},
    }
    (folder / AUDIT).write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def one(folder: Path) -> Found:
    (found,) = together(everything, folder, 1)
    return found


@pytest.fixture(scope="module")
def two(folder: Path, one: Found) -> list[Found]:
    return together(everything, folder, 2)


def same(found: Any, expected: Any, within: float) -> bool:
    """Whether numbers by name are those expected; all else must be equal."""
    assert found.keys() == expected.keys()
    return all(found[name] == pytest.approx(expected[name], rel=0, abs=within) for name in expected)


def batches(found: Found, epoch: int, split: str) -> list[list[int]]:
    steps: list[dict[str, list[int]]] = found["run"]["epochs"][epoch]
    return [step[split] for step in steps]


def by_step(two: list[Found], epoch: int, split: str) -> list[list[int]]:
    """The samples of each step, of both ranks."""
    ranks = [batches(found, epoch, split) for found in two]
    return [[*ours, *theirs] for ours, theirs in zip(*ranks, strict=True)]


@pytest.mark.parametrize("epoch", range(3))
def test_an_epoch_is_made_of_the_same_samples_in_the_same_steps(one: Found, two: list[Found], epoch: int) -> None:
    alone, both = batches(one, epoch, "retain"), by_step(two, epoch, "retain")
    assert len(alone) == len(both)
    retained = sorted(set(range(ODD["train"])) - set(FORGET))
    assert sorted(chain(*alone)) == retained
    for ours, theirs in zip(alone[:-1], both[:-1], strict=True):
        assert sorted(ours) == sorted(theirs)
    wrapped = list(chain(*both))  # 41 samples do not go into two: one is shown twice
    assert sorted(set(wrapped)) == retained
    assert len(wrapped) == len(retained) + 1


def test_the_forget_set_is_complete_and_in_another_order_at_each_pass(two: list[Found]) -> None:
    passes: list[list[list[int]]] = []
    for found in two:
        shown = list(chain(*(step for epoch in range(3) for step in batches(found, epoch, "forget"))))
        passes.append([shown[start : start + 3] for start in range(0, len(shown), 3)])
    complete = list(zip(*passes, strict=True))
    assert len(complete) >= 5
    assert all(sorted(ours + theirs) == FORGET for ours, theirs in complete)
    assert len({(*ours, *theirs) for ours, theirs in complete}) >= len(complete) - 1
    assert len({tuple(sorted(ours)) for ours, _ in complete}) > 1  # each rank sees more than its share


DRAWN = {
    "AMUN": "each rank shuffles and spreads the adversarial examples of its own share",
    "RandomLabels": "each rank draws labels for its own samples",
    "SalUn": "likewise",
}


@pytest.mark.parametrize("method", [method.__name__ for method in METHODS])
def test_two_half_batches_give_the_weights_of_one_batch(one: Found, two: list[Found], method: str) -> None:
    """On a network without batch norm, whose statistics would be those of half batches (SyncBatchNorm needs a GPU)."""
    alone, (ours, theirs) = one["weights"][method], (found["weights"][method] for found in two)
    assert all(torch.equal(ours[name], theirs[name]) for name in alone)
    distance = max(float((ours[name] - alone[name]).abs().max()) for name in alone)
    assert (distance < 1e-6) == (method not in DRAWN)
    assert distance < 0.05


@pytest.mark.parametrize(
    ("where", "beyond"), [("digits", {"detectability", "perturbation"}), ("one image", {"compression", "inversion"})]
)
def test_every_attack_finds_the_same_numbers(one: Found, two: list[Found], where: str, beyond: set[str]) -> None:
    alone, (ours, theirs) = one[where], (found[where] for found in two)
    assert ours == theirs
    assert ours.keys() == alone.keys()
    for model, found in alone.items():
        assert ours[model]["skipped"] == found["skipped"]
        assert ours[model]["metrics"] == found["metrics"]  # counts: exact
        assert same(ours[model]["attacks"], found["attacks"], 1e-6)
    families = {name.partition("/")[0] for name in alone["Audit"]["attacks"]}
    assert families == {"recovery", "relearn", "membership", "representation"} | beyond


def test_the_row_is_of_the_model_in_the_checkpoint_though_batch_norm_saw_half_batches(
    two: list[Found], folder: Path, make_trainer: Callable[..., Any]
) -> None:
    ours, theirs = (found["run"]["weights"] for found in two)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    *_, row = read_rows(folder / "runs-2/OPC/version_0/results.json")
    network = ResNet8(num_classes=4, in_channels=1, width=4)
    load_weights(network, folder / "runs-2/OPC/version_0/unlearned.ckpt")
    assert all(torch.equal(value, ours[name]) for name, value in network.state_dict().items())
    data = UnlearnDataModule(Blobs(**ODD), ForgetSpec(index_file=folder / "six.txt"))
    report = Report(page=False)
    make_trainer(Evaluation(), HeadRecovery(), report).validate(
        Audit(network, folder / "runs-2/OPC/version_0/unlearned.ckpt"), datamodule=data, verbose=False
    )
    assert report.rows[-1].metrics == row.metrics
    assert same(report.rows[-1].attacks, row.attacks, 1e-6)


def test_rows_and_checkpoints_are_written_once(one: Found, two: list[Found], folder: Path) -> None:
    alone, (ours, theirs) = one["run"], (found["run"] for found in two)
    assert theirs["written"] == []
    drawn = re.compile(r"\.[0-9a-f]{16}\.")
    names = [[drawn.sub(".", path).replace("runs-1", "runs-2") for path in run["written"]] for run in (alone, ours)]
    kept = [[name for name in each if "/.cache/" in name] for each in names]  # of half of the images another name
    assert len(kept[0]) == len(kept[1]) > 0
    names = [[name for name in each if name not in kept[number]] for number, each in enumerate(names)]
    assert names[1] == names[0]
    assert {Path(name).name for name in names[1]} >= {
        "unlearned.ckpt",
        "config.yaml",
        "metrics.csv",
        ".report.html.part",
    }
    assert ours["directory"] == theirs["directory"] == str(folder / "runs-2/OPC/version_0")
    assert len(list((folder / "runs-2/OPC").iterdir())) == 1
    (original, row) = read_rows(folder / "runs-2/OPC/version_0/results.json")
    assert [original.method, row.method] == ["Original", "OPC"]


def test_a_row_says_the_global_batch_size_and_how_many_devices(one: Found, two: list[Found]) -> None:
    alone, both = (found["run"]["rows"][-1] for found in (one, two[0]))
    assert alone["batch_size"] == {"per_device": 8, "forget_per_device": 4, "global": 8}
    assert both["batch_size"] == {"per_device": 4, "forget_per_device": 2, "global": 8}
    assert (alone["devices"]["devices"], both["devices"]["devices"]) == (1, 2)
    assert (alone["split"], alone["seed"]) == (both["split"], both["seed"])


def test_validation_between_epochs_counts_each_sample_once(two: list[Found]) -> None:
    logged = [found["run"]["logged"] for found in two]
    assert logged[0] == logged[1]
    sizes = {"val/forget_acc": 6, "val/retain_acc": 41, "val/test_retain_acc": 23}
    assert logged[0].keys() == sizes.keys()
    for name, size in sizes.items():
        right = logged[0][name] * size
        assert right == pytest.approx(round(right), abs=1e-4)
