"""Weights that go home: under the user's own names, into the plain network, without this package."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_networks import Own
from safetensors import safe_open
from torch import nn

from lit_unlearn.backbones import Backbone, Custom, ResNet8, Timm, Torchvision
from lit_unlearn.backbones.saving import network_state, save_weights, tensors_sha256, write_state
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.errors import UsageError

SCRIPT = Path(__file__).resolve().parents[1] / "plain_networks.py"
MEAN, STD = [0.48, 0.45, 0.4063], [0.229, 0.2241, 0.2256789]


def make(name: str, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    if name == "own":
        return Custom(Own(), mean=MEAN, std=STD)
    if name == "resnet8":
        return ResNet8(5, 3, width=4, mean=MEAN, std=STD)
    if name == "torchvision":
        return Torchvision("resnet18", 5)
    return Timm("vit_tiny_patch16_224", 5, options={"img_size": 32, "patch_size": 8})


NAMES = ("own", "resnet8", "torchvision", "timm")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of four networks and the answers that a process without this package got of them."""
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("home")
    torch.save(torch.rand(100, 3, 32, 32), folder / "images.pt")
    for name in NAMES:
        backbone = make(name).train()
        with torch.no_grad():
            backbone(torch.rand(8, 3, 32, 32))  # running statistics that are nobody's default
        said = {"network": backbone.describe()}
        write_state(folder / f"{name}.safetensors", network_state(backbone), said)
        with torch.no_grad():
            torch.save(backbone.eval()(torch.load(folder / "images.pt")), folder / f"{name}.ours.pt")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_network_loads_them_strictly_and_answers_as_ours_does(home: Path, name: str) -> None:
    theirs, ours = (torch.load(home / f"{name}.{kind}.pt") for kind in ("logits", "ours"))
    assert theirs.shape == (100, 5)
    assert float((theirs - ours).abs().max()) <= 1e-6 * max(1.0, float(ours.abs().max()))


@pytest.mark.parametrize("name", ["own", "resnet8", "torchvision"])
def test_they_come_back_with_mean_and_deviation(tmp_path: Path, name: str) -> None:
    backbone = make(name)
    with torch.no_grad():
        backbone.normalise.mean.add_(0.01234567)
    save_weights(backbone, tmp_path / "w.safetensors", {"network": backbone.describe(), "split": "beef", "method": "X"})
    other = make(name, seed=1)
    loaded = load_weights(other, tmp_path / "w.safetensors")
    assert (loaded.split, loaded.left_out, loaded.method) == ("beef", None, "X")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_two_files_of_equal_weights_are_equal_and_the_tensors_have_one_name_in_any_format(tmp_path: Path) -> None:
    state = network_state(make("own"))
    said: dict[str, Any] = {"network": {"head": "x"}, "method": "OPC", "forgotten": [{"request": "1"}]}
    digests = {write_state(tmp_path / f"{number}.safetensors", state, said) for number in range(6)}
    assert len(digests) == 1
    assert digests == {hashlib.sha256((tmp_path / "0.safetensors").read_bytes()).hexdigest()}
    write_state(tmp_path / "w.pt", state, said)
    plain = torch.load(tmp_path / "w.pt", weights_only=True)
    Own().load_state_dict(plain, strict=True)
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["lit_unlearn"])["tensors_sha256"] == tensors_sha256(plain)
    plain["scale"] += 1e-7
    assert tensors_sha256(plain) != tensors_sha256(state)


def test_tied_weights_are_kept_under_both_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first
            self.last = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(x.flatten(1))))

    backbone = Custom(Tied(), in_channels=1)
    write_state(tmp_path / "w.safetensors", network_state(backbone), {})
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        again = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    Tied().load_state_dict(again, strict=True)


@pytest.mark.parametrize("name", ["own", "resnet8"])
def test_the_description_says_where_the_head_is_and_who_normalises(name: str) -> None:
    said = make(name).describe()
    assert (said["mean"], said["std"]) == (MEAN, STD)
    assert said["network"] == ("plain_networks.Own" if name == "own" else "lit_unlearn.backbones.small_resnet.ResNet8")
    assert (said["head"], said["normalises"]) == (("answer.last", False) if name == "own" else ("head", True))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "module.model."])
@pytest.mark.parametrize("below", [None, "state_dict", "model_state_dict", "model", "net"])
def test_wrapped_weights_are_unwrapped_with_a_line(
    tmp_path: Path, prefix: str, below: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"{prefix}{key}": value for key, value in network_state(make("own")).items()}
    torch.save(state if below is None else {below: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    other = make("own", seed=1)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        load_weights(other, tmp_path / "w.pt")
    assert all(torch.equal(value, network_state(other)[key]) for key, value in network_state(make("own")).items())
    assert f"without their prefix {prefix!r}" in caplog.text
    assert (f"below {below!r}" in caplog.text) == (below is not None)


def test_a_prefix_that_belongs_to_the_network_stays(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Own()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model(images)

    backbone = Custom(Wrapped())
    torch.save(Wrapped().state_dict(), tmp_path / "w.pt")
    load_weights(backbone, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="another backbone"):
        load_weights(make("resnet8"), tmp_path / "w.pt")
