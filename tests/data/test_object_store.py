"""Pictures that litdata reads from a store: here from a folder, in which its lists have no order of their own."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import lit_unlearn
from PIL import Image

from lit_unlearn.data import ForgetSpec, ImageFolder, ImageNetTransforms, ObjectStore, UnlearnDataModule
from lit_unlearn.errors import UsageError

pytest.importorskip("litdata")
pytest.importorskip("zstd")

from lit_unlearn.data import sorted_index

NAMES = ("train/dog/b.png", "train/cat/10.png", "train/cat/9.PNG", "train/cat/in/1.jpg", "test/cat/5.png")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = torch.randint(0, 256, (9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(draw.numpy()).save(path)
    (tmp_path / "pictures/train/cat/notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def store(root: Path, **options: Any) -> ObjectStore:
    return ObjectStore(str(root), cache_dir=str(root.parent / "cache"), **options)


def test_it_reads_what_an_image_folder_reads(root: Path) -> None:
    for size in (None, 6):
        ours, folder = store(root, image_size=size).load(), ImageFolder(root, image_size=size).load()
        assert ours.train_names == folder.train_names == ["cat/10.png", "cat/9.PNG", "cat/in/1.jpg", "dog/b.png"]
        assert ours.class_names == folder.class_names
        assert torch.equal(ours.train_labels, folder.train_labels)
        assert torch.equal(ours.test_labels, folder.test_labels)
        for one, two in ((ours.train_images, folder.train_images), (ours.test_images, folder.test_images)):
            assert torch.equal(torch.stack(one.read(torch.arange(len(one)))), two)
    splits = [
        UnlearnDataModule(source, ForgetSpec(classes=["dog"])).split.hash for source in (store(root), ImageFolder(root))
    ]
    assert splits[0] == splits[1]


@pytest.mark.parametrize("reverse", [False, True])
def test_its_order_is_not_that_of_the_machine(root: Path, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    list_all = sorted_index.FileIndexer.discover_files
    monkeypatch.setattr(
        sorted_index.FileIndexer,
        "discover_files",
        lambda *args: sorted(list_all(*args), key=lambda file: file.path, reverse=reverse),
    )
    assert store(root).load().train_names[0] == "cat/10.png"


def test_the_store_is_only_read(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    store(root).load()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_litdata_that_uploads_otherwise_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sorted_index.FileIndexer.__mro__[1], "_upload_to_cloud")
    with pytest.raises(UsageError, match=r"litdata 0\.\S+ may write its list into your store: pip install"):
        store(root).load()


def test_names_are_listed_again_where_it_is_asked_for(root: Path) -> None:
    store(root).load()
    os.link(root / "train/dog/b.png", root / "train/dog/c.png")
    assert len(store(root).load().train_labels) == 4
    assert len(store(root, relist=True).load().train_labels) == 5


def test_workers_read_batches_with_transforms(root: Path) -> None:
    for name in NAMES[:2]:
        Image.new("RGB", (12, 10)).save(root / name)
    found = []
    for workers in (0, 2):
        source = store(root)
        data = UnlearnDataModule(
            source, ForgetSpec(classes=["dog"]), transforms=ImageNetTransforms(6, 8), workers=workers, eval_batch_size=2
        )
        found.append([images for images, _ in data.evaluation_batches("retain", "cpu")])
    assert [len(batch) for batch in found[0]] == [2, 1]
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    part = store(root).load_raw().train_images
    again = pickle.loads(pickle.dumps(part))
    assert torch.equal(again.read(torch.tensor([3]))[0], part.read(torch.tensor([3]))[0])


def test_what_cannot_be_read_is_one_line(root: Path, tmp_path: Path, deep_png: Callable[[int], bytes]) -> None:
    with pytest.raises(UsageError, match=r"ObjectStore cannot read .*nowhere/train"):
        store(tmp_path / "nowhere").load()
    with pytest.raises(UsageError, match="channels is 2"):
        store(root, channels=2)
    with pytest.raises(UsageError, match="image_size is 0"):
        store(root, image_size=0)
    Image.new("RGB", (4, 4)).save(root / "train/stray.png")
    with pytest.raises(UsageError, match=r"train/stray\.png lies in no class folder"):
        store(root, relist=True).load()
    (root / "train/stray.png").unlink()
    (root / "test/bird").mkdir()
    Image.new("RGB", (4, 4)).save(root / "test/bird/0.png")
    with pytest.raises(UsageError, match="classes that train has not: bird"):
        store(root, relist=True).load()
    (root / "test/bird/0.png").unlink()
    (root / "train/cat/9.PNG").write_bytes(b"no picture")
    images = store(root, relist=True).load().train_images
    with pytest.raises(UsageError, match=r"cannot decode the image cat/9\.PNG"):
        images.read(torch.tensor([1]))
    (root / "train/cat/9.PNG").write_bytes(deep_png(2))
    with pytest.raises(UsageError, match=r"cannot decode the image cat/9\.PNG: mode RGB;16B has more than 8 bits"):
        images.read(torch.tensor([1]))
    (root / "train/cat/9.PNG").unlink()
    with pytest.raises(UsageError, match=r"cannot read cat/9\.PNG"):
        images.read(torch.tensor([1]))


def test_keys_to_the_store_reach_no_record_of_a_run(root: Path, tmp_path: Path) -> None:
    for name in ("train/cat/11.png", "train/dog/c.png", "test/dog/d.png"):
        (root / name).parent.mkdir(exist_ok=True)
        os.link(root / "train/dog/b.png", root / name)
    secret = "not-for-other-eyes"
    init = {"root": str(root), "image_size": 8, "cache_dir": "cache", "options": {"aws_secret_access_key": secret}}
    backbone = {"class_path": "ResNet8", "init_args": {"num_classes": 2, "width": 4}}
    config = {
        "model": {"class_path": "FineTune", "init_args": {"backbone": backbone, "weights": "fresh"}},
        "data": {
            "source": {"class_path": "ObjectStore", "init_args": init},
            "forget": {"classes": ["dog"]},
            "workers": 0,
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "evaluation": {"retrain": "retrain.yaml"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "retrain.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 1}}))
    outcome = lit_unlearn(tmp_path, "fit", "--config", "config.yaml")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "runs/FineTune/version_0"
    outcome = lit_unlearn(tmp_path, "export", run, "--evidence", "evidence.zip")
    assert outcome.status == 0, outcome.err
    with zipfile.ZipFile(tmp_path / "evidence.zip") as archive:
        archive.extractall(tmp_path / "evidence")
    assert (tmp_path / "evidence/retrain/settings.json").is_file()
    assert yaml.safe_load((tmp_path / "evidence/config.yaml").read_text())["data"]["init_args"]["source"]
    (checkpoint,) = (run / "checkpoints").iterdir()
    with zipfile.ZipFile(checkpoint) as archive:
        archive.extractall(tmp_path / "checkpoint")
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holding == [tmp_path / "config.yaml", run / "config.yaml"]
