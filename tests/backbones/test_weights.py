"""Weight files: every form that loads, and every complaint."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchvision import models

from lit_unlearn import shipped
from lit_unlearn.backbones import Backbone, Custom, ResNet8, Torchvision
from lit_unlearn.backbones.reading import check_checkpoint, read_state
from lit_unlearn.backbones.saving import save_weights, write_state
from lit_unlearn.backbones.weights import load_weights, resolve
from lit_unlearn.errors import UsageError


class RunsCode:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = small(1)
        self.original = small(2)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lit_unlearn"] = {"split": {"hash": "cafe", "seed": 3}}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def small(seed: int = 0, classes: int = 5, channels: int = 1, width: int = 2) -> ResNet8:
    torch.manual_seed(seed)
    return ResNet8(classes, channels, width, mean=[0.1 + 0.1 * seed] * channels)


def same(left: Backbone, right: Backbone) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def refuse(path: Path | str, said: str, backbone: Backbone | None = None) -> None:
    """Loading must fail in one line, and leave the backbone as it was."""
    backbone = backbone or small(1)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UsageError, match=said) as caught:
        load_weights(backbone, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "w.pt"
    save_weights(small(0), path, {"split": "beef", "acc": 0.5})
    return path


@pytest.fixture
def manifest(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    entry = {"file": saved.name, "sha256": digest, "backbone": {}, "split": "f00d", "test_acc": 0.9}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 1, "weights": {"digits_resnet8": entry, "gone": {"file": "gone.pt"}}}))
    monkeypatch.setattr(shipped, "CHECKPOINTS", tmp_path)
    return path


def test_save_and_load_give_the_same_backbone(saved: Path) -> None:
    backbone = small(1)
    loaded = load_weights(backbone, saved)
    assert same(backbone, small(0))
    assert loaded.source == str(saved)
    assert (loaded.path, loaded.split, loaded.entry) == (saved, "beef", {})
    assert loaded.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert read_state(saved)[1] == {"split": "beef", "acc": 0.5}


def test_a_plain_state_dict_loads(tmp_path: Path) -> None:
    torch.save(small(0).state_dict(), tmp_path / "plain.pt")
    backbone = small(1)
    loaded = load_weights(backbone, tmp_path / "plain.pt")
    assert same(backbone, small(0))
    assert (loaded.split, loaded.entry) == (None, {})


def test_a_safetensors_file_loads(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(small(0).state_dict(), tmp_path / "w.safetensors", {"lit_unlearn": '{"split": "beef"}'})
    backbone = small(1)
    assert load_weights(backbone, tmp_path / "w.safetensors").split == "beef"
    assert same(backbone, small(0))


def test_a_lightning_checkpoint_loads_its_backbone_only(tmp_path: Path) -> None:
    module = Module()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    check_checkpoint(path)
    assert any(key.startswith("original.") for key in torch.load(path)["state_dict"])
    backbone = small(0)
    assert load_weights(backbone, path).split == "cafe"
    assert same(backbone, module.backbone)


def test_batch_norm_counters_may_be_absent_as_in_old_files(tmp_path: Path) -> None:
    state = {key: value for key, value in small(0).state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pt")
    backbone = small(1)
    load_weights(backbone, tmp_path / "old.pt")
    assert same(backbone, small(0))


def test_weights_of_the_network_before_the_split_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.mobilenet_v3_small(num_classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "native.pt")
    backbone = Torchvision("mobilenet_v3_small", 4, mean=[0.2] * 3, std=[0.5] * 3).eval()
    load_weights(backbone, tmp_path / "native.pt")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(backbone(x), network((x - 0.2) / 0.5))
    save_weights(backbone, tmp_path / "own.pt", {})
    load_weights(backbone, tmp_path / "own.pt")
    torch.save({f"x.{key}": value for key, value in network.state_dict().items()}, tmp_path / "other.pt")
    refuse(tmp_path / "other.pt", "unexpected x.classifier", backbone)
    refuse(tmp_path / "native.pt", "for 4 classes, the backbone for 6", Torchvision("mobilenet_v3_small", 6))


def test_manifest_names_load_and_files_go_first(
    manifest: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = small(1)
    loaded = load_weights(backbone, "digits_resnet8")
    assert same(backbone, small(0))
    assert (loaded.source, loaded.path, loaded.split) == ("digits_resnet8", saved, "beef")
    assert loaded.entry["test_acc"] == 0.9
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_weights(small(3), "digits_resnet8", {})
    assert resolve("digits_resnet8") == Path("digits_resnet8")
    assert load_weights(backbone, "digits_resnet8").entry == {}
    assert same(backbone, small(3))


def test_the_manifest_gives_the_split_where_the_file_does_not(manifest: Path, saved: Path) -> None:
    torch.save(small(0).state_dict(), saved)
    content = json.loads(manifest.read_text())
    content["weights"]["digits_resnet8"]["sha256"] = hashlib.sha256(saved.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    assert load_weights(small(1), "digits_resnet8").split == "f00d"


def test_a_wrong_sha256_is_refused(manifest: Path, saved: Path) -> None:
    save_weights(small(4), saved, {})
    refuse("digits_resnet8", "sha256 is .* but the manifest says")


def test_unknown_names_and_missing_files_are_refused(manifest: Path, tmp_path: Path) -> None:
    refuse("digits_resnet", "unknown weights, neither a file nor a name .*did you mean 'digits_resnet8'.*gone")
    refuse("gone", "in the manifest, but their file .*gone.pt is missing")
    refuse(tmp_path, "unknown weights, neither a file")
    with pytest.raises(UsageError, match="no such weights file"):
        read_state(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        ('{"format": 2, "weights": {}}', "format 2, but"),
        ('{"format": 1, "weights": {"a": {}}}', "not a manifest"),
        ('{"format": 1, "weights": []}', "not a manifest"),
    ],
)
def test_a_bad_manifest_is_named(manifest: Path, text: str, said: str) -> None:
    manifest.write_text(text)
    refuse("digits_resnet8", f"manifest.json: {said}")


def test_no_manifest_means_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "CHECKPOINTS", tmp_path / "none")
    refuse("digits_resnet8", "allowed: none")


def damage(saved: Path, how: str) -> None:
    content = bytearray(saved.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "text":
        content = bytearray(b"hello, this is no file of weights")
    elif how == "flipped bit":
        content[content.find(b"data/12") + 200] ^= 1
    elif how == "legacy, truncated":
        torch.save(small(0).state_dict(), saved, _use_new_zipfile_serialization=False)
        content = bytearray(saved.read_bytes()[:2000])
    saved.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "flipped bit", "legacy, truncated"])
def test_a_damaged_file_is_refused(saved: Path, how: str) -> None:
    damage(saved, how)
    refuse(saved, "w.pt: corrupt, or no file of weights")
    with pytest.raises(UsageError, match="corrupt"):
        check_checkpoint(saved)


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"short")
    refuse(tmp_path / "w.safetensors", "corrupt, or no file of weights")


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"state_dict": small(0).state_dict(), "x": RunsCode(canary)}, tmp_path / "zip.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(RunsCode(canary)))
    refuse(tmp_path / "zip.pt", r"refused: it holds posix\.mkdir")
    refuse(tmp_path / "pickle.pt", "refused")
    with pytest.raises(UsageError, match="refused"):
        check_checkpoint(tmp_path / "zip.pt")
    torch.save(small(0), tmp_path / "module.pt")
    refuse(tmp_path / "module.pt", "refused: it holds lit_unlearn.backbones")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list, not a dictionary"),
        ({}, "holds no weights"),
        ({"a": 3}, "'a' is a int, not a tensor"),
        ({"state_dict": 3}, "its state_dict is a int"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    refuse(tmp_path / "w.pt", said)


def changed(tmp_path: Path, **changes: Tensor | None) -> Path:
    state = {**small(0).state_dict(), **{key.replace("__", "."): value for key, value in changes.items()}}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


def test_wrong_keys_are_named(tmp_path: Path) -> None:
    refuse(changed(tmp_path, head__bias=None, head__extra=torch.ones(1)), "missing head.bias; unexpected head.extra$")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    refuse(tmp_path / "linear.pt", r"missing encoder\.\S+, encoder\.\S+, encoder\.\S+ and \d+ more; unexpected bias")


def test_wrong_shapes_are_named(tmp_path: Path, saved: Path) -> None:
    refuse(saved, r"w.pt: the file is for 5 classes, the backbone for 7 \(head.bias is \(5,\)", small(1, classes=7))
    refuse(saved, "the file is for 1-channel images, the backbone for 3", small(1, channels=3))
    wide = changed(tmp_path, encoder__stem__conv__weight=torch.ones(2, 1, 5, 5))
    refuse(wide, r"encoder.stem.conv.weight is \(2, 1, 5, 5\) in the file and \(2, 1, 3, 3\) in the backbone")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    tensor = torch.zeros(2, 1, 3, 3)
    tensor[1, 0, 2, 2] = value
    refuse(changed(tmp_path, encoder__stem__conv__weight=tensor), "encoder.stem.conv.weight has values that are not")


def test_a_mask_of_minus_infinity_is_loaded_as_any_buffer(tmp_path: Path) -> None:
    class Masked(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(4, 3))
            self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))

    torch.save(Masked().state_dict(), tmp_path / "masked.pt")
    load_weights(Custom(Masked(), in_channels=1), tmp_path / "masked.pt")
    torch.save({**Masked().state_dict(), "mask": torch.full((3, 3), float("nan"))}, tmp_path / "masked.pt")
    refuse(tmp_path / "masked.pt", "mask has values that are not finite", Custom(Masked(), in_channels=1))


def test_a_file_that_may_not_be_read_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", fail)
    refuse(saved, r"cannot read .*w\.pt: Permission denied")


def test_a_network_of_ones_own_may_have_a_part_called_backbone(tmp_path: Path) -> None:
    state = {"backbone.encoder.weight": torch.ones(1), "classifier.weight": torch.ones(2)}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    assert read_state(tmp_path / "w.pt")[0].keys() == state.keys()


def test_saving_is_all_or_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(content: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UsageError, match=r"cannot write .*w.pt: No space left"):
        save_weights(small(1), saved, {})
    assert saved.read_bytes() == before
    assert sorted(saved.parent.iterdir()) == [saved]


def test_whoever_reads_while_a_file_is_replaced_sees_the_old_one_whole(saved: Path) -> None:
    before = saved.read_bytes()
    with saved.open("rb") as reader:
        save_weights(small(1), saved, {})
        assert reader.read() == before
    assert saved.read_bytes() != before


def test_saving_refuses_what_could_not_be_read_again(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"w\.pt: thing is .*object"):
        save_weights(small(0), tmp_path / "w.pt", {"thing": object()})
    with pytest.raises(UsageError, match=r"w\.npz: weights are written as .pt or .safetensors, not as .npz"):
        write_state(tmp_path / "w.npz", {}, {})
    with pytest.raises(UsageError, match="cannot write"):
        save_weights(small(0), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_saving_turns_numbers_of_numpy_into_plain_ones(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    save_weights(small(0), tmp_path / "new" / "w.pt", {"acc": numpy.float64(0.5), "classes": (1, 2)})
    assert read_state(tmp_path / "new" / "w.pt")[1] == {"acc": 0.5, "classes": [1, 2]}


def test_check_checkpoint_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such checkpoint: nothing.ckpt"):
        check_checkpoint("nothing.ckpt")
    torch.save({"epoch": 3}, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=r"a.ckpt: not a Lightning checkpoint, it holds no state_dict"):
        check_checkpoint(tmp_path / "a.ckpt")
