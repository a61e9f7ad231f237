"""Networks that start from pretrained weights: files, torchvision's enumeration, timm's names, the hub; all offline."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.transforms import v2

from lit_unlearn.backbones import Custom, ResNet8, Timm, Torchvision, load_weights, save_weights
from lit_unlearn.data import PretrainedTransforms
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune
from lit_unlearn.recipes import timm_recipe, torchvision_recipe

SHA = "0" * 40


def small(classes: int = 7) -> Any:
    torch.manual_seed(3)
    return models.shufflenet_v2_x0_5(num_classes=classes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"state_dict": {f"module.{k}": v for k, v in small().state_dict().items()}}, tmp_path / "own.pth")
    return tmp_path / "own.pth"


def test_a_file_gives_the_body_and_a_fitting_head(file: Path) -> None:
    state = small().state_dict()
    for classes in (7, 4):
        backbone = Torchvision("shufflenet_v2_x0_5", classes, pretrained=str(file))
        assert torch.equal(backbone.encoder.conv1[0].weight, state["conv1.0.weight"])
        assert backbone.num_classes == classes
        assert (classes == 7) == (
            backbone.head.weight.shape == state["fc.weight"].shape
            and torch.equal(backbone.head.weight, state["fc.weight"])
        )
        assert re.fullmatch(r"own\.pth \(sha256 [0-9a-f]{64}\)", str(backbone.describe()["pretrained"]))
    grey = Torchvision("shufflenet_v2_x0_5", 4, in_channels=1, pretrained=str(file))
    torch.testing.assert_close(grey.encoder.conv1[0].weight, state["conv1.0.weight"].sum(1, keepdim=True))
    own = Custom(models.shufflenet_v2_x0_5(num_classes=4), 4, pretrained=str(file))
    assert torch.equal(own.encoder.conv1[0].weight, state["conv1.0.weight"])


def test_files_of_this_package_give_it_too(tmp_path: Path) -> None:
    backbone = Torchvision("shufflenet_v2_x0_5", 7)
    for name in ("a.pt", "a.safetensors"):
        save_weights(backbone, tmp_path / name, {})
        again = Torchvision("shufflenet_v2_x0_5", 4, pretrained=str(tmp_path / name))
        assert torch.equal(again.encoder.conv1[0].weight, backbone.encoder.conv1[0].weight)


def test_a_file_of_another_network_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of another network: missing"):
        Torchvision("mobilenet_v3_small", 4, pretrained=str(file))
    state = small().state_dict()
    state["conv5.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(UsageError, match="not finite"):
        Torchvision("shufflenet_v2_x0_5", 4, pretrained=str(tmp_path / "broken.pt"))
    with pytest.raises(UsageError, match="no such weights file"):
        Torchvision("shufflenet_v2_x0_5", 4, pretrained="nowhere.pt")
    with pytest.raises(UsageError, match=r"unknown weights of torchvision's shufflenet.*IMAGENET1K_V1"):
        Torchvision("shufflenet_v2_x0_5", 4, pretrained="IMAGENET1K_V7")
    with pytest.raises(UsageError, match="ResNet50_Weights"):
        Torchvision("resnet18", 4, pretrained="ResNet50_Weights.IMAGENET1K_V1")


@pytest.mark.parametrize("member", ["IMAGENET1K_V1", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1", True])
def test_a_member_of_the_enumeration_brings_its_recipe(member: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state, asked = small(1000).state_dict(), []
    monkeypatch.setattr(models._api, "load_state_dict_from_url", lambda url, **_: asked.append(url) or state)
    backbone = Torchvision("shufflenet_v2_x0_5", 4, pretrained=member)
    assert asked == [models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url]
    assert torch.equal(backbone.encoder.conv1[0].weight, state["conv1.0.weight"])
    assert backbone.describe()["pretrained"] == "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert backbone.recipe == torchvision_recipe("shufflenet_v2_x0_5")


def test_recipes_are_those_of_the_libraries() -> None:
    second = torchvision_recipe("resnet50", "IMAGENET1K_V2")
    assert (second.size, second.resize, second.interpolation) == (224, 232, "bilinear")
    assert torchvision_recipe("resnet50", "IMAGENET1K_V1").resize == 256
    swin = torchvision_recipe("swin_v2_t")
    assert (swin.size, swin.resize, swin.interpolation) == (256, 260, "bicubic")
    pytest.importorskip("timm")
    vit = timm_recipe("test_vit")
    assert (vit.size, vit.interpolation, vit.mean) == (160, "bicubic", (0.5, 0.5, 0.5))
    assert vit.resize == round(160 / 0.95)
    dino = timm_recipe("vit_small_patch14_dinov2.lvd142m")
    assert (dino.size, dino.resize) == (518, 518)
    with pytest.raises(UsageError, match="unknown timm classifier"):
        timm_recipe("resnot")
    with pytest.raises(UsageError, match="unknown torchvision classifier"):
        torchvision_recipe("resnot")


def test_transforms_of_a_recipe() -> None:
    made = PretrainedTransforms("swin_v2_t")
    crop, flip = made.train
    assert (crop.size, crop.interpolation) == ((256, 256), v2.InterpolationMode.BICUBIC)
    assert isinstance(flip, v2.RandomHorizontalFlip)
    resize, centre = made.evaluation
    assert (resize.size, resize.interpolation, centre.size) == ([260], v2.InterpolationMode.BICUBIC, (256, 256))
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    assert made.of(training=True)(image).shape == made.of(training=False)(image).shape == (3, 256, 256)
    with pytest.raises(UsageError, match="in their name"):
        PretrainedTransforms("timm/test_vit", "IMAGENET1K_V1")


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    """A folder in the form of timm's on the hub: config.json and model.safetensors."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    network = timm.create_model("test_vit", num_classes=6, img_size=32)
    folder = tmp_path / "vit"
    folder.mkdir()
    config = {
        "architecture": "test_vit",
        "num_classes": 6,
        "model_args": {"img_size": 32},
        "pretrained_cfg": {
            **{"input_size": [3, 32, 32], "interpolation": "bilinear", "crop_pct": 0.8, "num_classes": 6},
            **{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "first_conv": "patch_embed.proj", "classifier": "head"},
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def hub(vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository in the cache of the hub, without a net; its name."""
    constants = pytest.importorskip("huggingface_hub.constants")
    repository = tmp_path / "hub" / "models--acme--vit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(SHA)
    (repository / "snapshots").mkdir()
    vit_folder.rename(repository / "snapshots" / SHA)
    for name, value in {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return "acme/vit"


@pytest.mark.parametrize("place", ["local-dir", "hf-hub"])
def test_timm_finds_weights_in_a_folder_and_in_the_cache_of_the_hub(place: str, request: pytest.FixtureRequest) -> None:
    where = request.getfixturevalue("vit_folder" if place == "local-dir" else "hub")
    name = f"{place}:{where}"
    pretrained = Timm(name, 6, pretrained=True)
    assert pretrained.recipe is not None
    assert (pretrained.recipe.size, pretrained.recipe.resize, pretrained.recipe.interpolation) == (32, 40, "bilinear")
    torch.testing.assert_close(pretrained.normalise.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    again = Timm(name, 4, pretrained=True, train="head")
    assert torch.equal(again.encoder.blocks[0].attn.qkv.weight, pretrained.encoder.blocks[0].attn.qkv.weight)
    assert again.head.weight.shape == (4, pretrained.num_features)
    assert [name for name, p in again.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    fresh = Timm(name, 6)
    assert fresh.recipe is None and fresh.pretrained is None  # noqa: PT018
    assert not torch.equal(fresh.encoder.blocks[0].attn.qkv.weight, pretrained.encoder.blocks[0].attn.qkv.weight)
    resize, _ = PretrainedTransforms(f"timm/{name}").evaluation
    assert (resize.size, resize.interpolation) == ([40], v2.InterpolationMode.BILINEAR)


def test_a_file_gives_timms_networks_their_weights(vit_folder: Path) -> None:
    file = vit_folder / "model.safetensors"
    backbone = Timm("test_vit", 4, in_channels=1, pretrained=str(file), options={"img_size": 32})
    whole = Timm(f"local-dir:{vit_folder}", 6, pretrained=True)
    assert torch.equal(backbone.encoder.blocks[0].attn.qkv.weight, whole.encoder.blocks[0].attn.qkv.weight)
    assert backbone.encoder.patch_embed.proj.weight.shape[1] == 1


def test_a_vision_transformer_with_a_linear_head_learns_in_the_head_alone() -> None:
    pytest.importorskip("timm")
    options = {"img_size": 28, "depth": 5, "embed_dim": 24, "num_heads": 2}
    backbone = Timm("vit_small_patch14_dinov2", 3, train="head", options=options)
    backbone.check((3, 28, 28), 3)
    assert len(backbone.stages) == 5
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == 3 * backbone.num_features + 3


@pytest.mark.parametrize("suffix", ["", "@main", "/model.safetensors", "@main/model.safetensors"])
def test_original_weights_lie_on_the_hub(hub: str, suffix: str) -> None:
    backbone = Timm(f"hf-hub:{hub}", 6)
    found = load_weights(backbone, f"hf-hub:{hub}{suffix}")
    assert found.source == f"hf-hub:{hub}{suffix}"
    assert re.fullmatch("[0-9a-f]{64}", found.sha256)
    whole = Timm(f"hf-hub:{hub}", 6, pretrained=True)
    assert torch.equal(backbone.head.weight, whole.head.weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:acme", "must be hf-hub:owner/repository"),
        ("hf-hub:acme/other", "cannot get hf-hub:acme/other"),
        ("hf-hub:acme/vit/missing.pt", "cannot get hf-hub:acme/vit/missing.pt"),
    ],
)
def test_what_the_hub_has_not_is_one_line(hub: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_weights(ResNet8(), name)
    assert "\n" not in str(caught.value)


def test_timms_other_mistakes(vit_folder: Path) -> None:
    for name, pretrained, message in (
        ("hf-hub-acme", False, "unknown timm classifier"),
        ("local-dir:nowhere", False, "cannot make timm's local-dir:nowhere"),
        ("test_vit", "true ", "must be true, false or a file"),
        ("test_vit", str(vit_folder / "other.pt"), "no such weights file"),
    ):
        with pytest.raises(UsageError, match=message):
            Timm(name, 3, pretrained=pretrained)


def test_images_of_another_size_than_the_recipes_are_told(fit: Any, make_data: Any, make_backbone: Any) -> None:
    backbone = make_backbone()
    backbone.recipe = torchvision_recipe("resnet18")
    with pytest.warns(UserWarning, match="pretrained on 224x224 pixels, but images have 8x8"):
        fit(FineTune(backbone), make_data(), limit_val_batches=0, limit_train_batches=1)


def test_a_first_convolution_that_is_no_plain_one_is_read_for_three_channels_alone(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_nfnet").state_dict(), tmp_path / "own.pth")
    assert Timm("test_nfnet", 4, pretrained=str(tmp_path / "own.pth")).num_classes == 4
    said = r"in_channels is 1, but the first convolution of the file in pretrained is a ScaledStdConv2d"
    with pytest.raises(UsageError, match=said):
        Timm("test_nfnet", 4, in_channels=1, pretrained=str(tmp_path / "own.pth"))
