"""The weights that come with the package are what the manifest says they are."""

import hashlib
import itertools
import json
import shlex
from typing import Any

import pytest
import torch

from lit_unlearn import backbones, data
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.benchmark.settings import merged
from lit_unlearn.data import ForgetSpec, UnlearnDataModule
from lit_unlearn.errors import UsageError
from lit_unlearn.shipped import CHECKPOINTS, read_config

ENTRIES: dict[str, dict[str, Any]] = json.loads((CHECKPOINTS / "manifest.json").read_text())["weights"]
each = pytest.mark.parametrize("name", ENTRIES)


def settings_of(name: str) -> dict[str, Any]:
    """The settings composed by the command that made the weights."""
    words = shlex.split(ENTRIES[name]["command"])
    assert words[:2] == ["lit-unlearn", "fit"]
    settings: dict[str, Any] = {}
    for option, value in itertools.pairwise(words):
        if option == "--seed_everything":
            settings["seed_everything"] = int(value)
        if option == "--config":
            settings = merged(settings, read_config(value))
    return settings


def make_data(name: str) -> UnlearnDataModule:
    settings = settings_of(name)["data"]["init_args"]
    forget = None if settings["forget"] is None else ForgetSpec(**settings["forget"])
    source = getattr(data, settings["source"]["class_path"])()
    return UnlearnDataModule(source, forget, train_limit=settings.get("train_limit"))


@torch.no_grad()
def accuracy(backbone: backbones.Backbone, images: UnlearnDataModule, split: str) -> float:
    batches = images.evaluation_batches(split, torch.device("cpu"))
    right = torch.cat([backbone(pixels).argmax(1) == labels for pixels, labels in batches])
    return float(right.double().mean())


def test_the_manifest_names_every_file_of_weights() -> None:
    assert {entry["file"] for entry in ENTRIES.values()} == {path.name for path in CHECKPOINTS.glob("*.pt")}
    assert {"digits_resnet8", "digits_resnet8_retrain_classes_0_1_2"} <= ENTRIES.keys()


@each
def test_a_file_is_whole_small_and_made_by_a_command_that_exists(name: str) -> None:
    path = CHECKPOINTS / ENTRIES[name]["file"]
    assert path.stat().st_size < 1_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ENTRIES[name]["sha256"]
    settings = settings_of(name)
    assert settings["model"]["class_path"] == ENTRIES[name]["method"]
    assert settings["seed_everything"] == ENTRIES[name]["seed"]


FOR_CI = [pytest.param(name, marks=pytest.mark.ci) if name.startswith("fashion") else name for name in ENTRIES]


@pytest.mark.parametrize("name", FOR_CI)
@pytest.mark.parametrize("part", ["test", pytest.param("train", marks=pytest.mark.slow)])
def test_the_weights_score_what_the_manifest_says(name: str, part: str) -> None:
    entry = ENTRIES[name]
    images = make_data(name)
    try:
        split = images.split
    except UsageError as error:
        pytest.skip(str(error))
    settings = {"num_classes": entry["backbone"]["num_classes"], "in_channels": images.image_shape[0]}
    backbone = getattr(backbones, entry["backbone"]["class"])(**settings).eval()
    loaded = load_weights(backbone, name)
    assert loaded.split == entry["split"] == (split.hash if len(split.forget) else None)
    digits = entry["data"]["source"] == "Digits"
    found = {
        f"{split}_acc": accuracy(backbone, images, split)
        for split in images.split_names
        if digits or split.startswith("test") == (part == "test")
    }
    expected = {key: value for key, value in entry["accuracy"].items() if key in found}
    assert expected
    assert found == pytest.approx(expected, abs=1e-6 if digits else 2e-4)
