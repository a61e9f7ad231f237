"""Runs on images that are streamed and transformed, from configs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import lit_unlearn
from PIL import Image

from lit_unlearn.reports import read_rows

CLASSES = ("cat", "dog", "owl")
ATTACKS = ["HeadRecovery", "WorstRecovery", "DetectSamples", "Representation", "IDI"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Pictures of several sizes whose colour tells the class."""
    drawn = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 8)):
        for place, name in enumerate(CLASSES):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for index in range(count):
                height, width = drawn.integers(18, 30, 2)
                pixels = drawn.integers(0, 90, (height, width, 3), dtype=np.uint8)
                pixels[:, :, place] += 100
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{index:02d}.png")
    return tmp_path


def run(folder: Path, name: str, attacks: list[str], **data: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Weights and row of OPC after two epochs and these attacks."""
    config = {
        "seed_everything": 3,
        "model": {
            "class_path": "OPC",
            "init_args": {
                "backbone": {"class_path": "ResNet8", "init_args": {"num_classes": 3, "width": 4}},
                "weights": "fresh",
            },
        },
        "data": {
            "class_path": "UnlearnDataModule",
            "init_args": {"forget": {"classes": ["cat"]}, "batch_size": 8, "eval_batch_size": 7, "workers": 2, **data},
        },
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": name}},
            "callbacks": [{"class_path": attack} for attack in attacks],
        },
        "evaluation": {"retrain": None},
        "report": {"page": False},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    outcome = lit_unlearn(folder, "fit", "--config", f"{name}.yaml")
    assert outcome.status == 0, outcome.err
    (path,) = (folder / name).rglob("unlearned.ckpt")
    (results,) = (folder / name).rglob("results.json")
    return torch.load(path, weights_only=True)["state_dict"], read_rows(results)[-1]


def test_a_streamed_run_ends_bit_for_bit_as_one_from_memory(images: Path) -> None:
    settings = {"root": "images", "image_size": 16}
    source = {"class_path": "ImageFolder", "init_args": settings}
    streamed = {"class_path": "ImageFolder", "init_args": {**settings, "memory": 0}}
    whole, row = run(images, "whole", ATTACKS, source=source)
    same, other = run(images, "streamed", ATTACKS, source=streamed)
    assert all(torch.equal(value, same[name]) for name, value in whole.items())
    assert (row.metrics, row.attacks, row.split) == (other.metrics, other.attacks, other.split)
    assert len(row.attacks) > 20
    assert (row.data.get("streamed"), other.data["streamed"]) == (None, True)
    assert row.data["sha256"] == other.data["sha256"] != row.data["full_sha256"]
    assert "full_sha256" not in other.data


def test_transforms_are_named_in_a_config(images: Path) -> None:
    source = {"class_path": "ImageFolder", "init_args": {"root": "images"}}
    usual = {"class_path": "ImageNetTransforms", "init_args": {"size": 16, "resize": 18}}
    named = [
        {"class_path": f"torchvision.transforms.v2.{name}", "init_args": settings}
        for name, settings in (("Resize", {"size": 18}), ("RandomCrop", {"size": 16}))
    ]
    own = {"class_path": "Transforms", "init_args": {"train": named, "evaluation": [named[0], named[1]]}}
    for name, transforms, says in (("usual", usual, "RandomResizedCrop"), ("own", own, "RandomCrop")):
        _, row = run(images, name, [], source=source, transforms=transforms)
        assert row.data["image_shape"] == [3, 16, 16]
        assert says in row.data["transforms"]["train"][-2 if name == "usual" else -1]
        assert 0 < row.metrics["retain_acc"] <= 1


def test_a_data_set_of_torchvision_is_named_in_a_config(tmp_path: Path) -> None:
    made = {
        "class_path": "torchvision.datasets.FakeData",
        "init_args": {"size": 40, "image_size": [3, 16, 16], "num_classes": 3},
    }
    source = {"class_path": "MapStyle", "init_args": {"train": made, "test": made, "class_names": list(CLASSES)}}
    _, row = run(tmp_path, "fake", [], source=source)
    assert (row.data["source"], row.data["train_set"], row.data["streamed"]) == ("MapStyle", "FakeData", True)
