"""Networks of torchvision, timm and one's own: split, they give the logits they gave whole."""

import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import pytest
import torch
from jsonargparse import ArgumentParser, set_parsing_settings
from torch import Tensor, nn
from torchvision import models

from lit_unlearn.backbones import Backbone, Custom, Timm, Torchvision
from lit_unlearn.backbones.library import IMAGENET, IMAGENET_GREY, _replace_stem
from lit_unlearn.backbones.split import SplitBackbone, default_stages, find_head, name_stages
from lit_unlearn.errors import UsageError


def normalised(backbone: Backbone, x: Tensor) -> Tensor:
    return backbone.normalise(x)


def agrees(backbone: SplitBackbone, network: nn.Module, size: int) -> None:
    """The split backbone, given the network's weights, gives the network's logits; every stage can be tapped."""
    backbone.eval()
    network.eval()
    head = backbone.head_path
    state = network.state_dict()
    backbone.encoder.load_state_dict({key: value for key, value in state.items() if not key.startswith(f"{head}.")})
    backbone.head.load_state_dict({key: state[f"{head}.{key}"] for key in ("weight", "bias")})
    x = torch.rand(2, backbone.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(normalised(backbone, x))
        torch.testing.assert_close(backbone(x), logits)
        assert logits.std() > 0
        taps = backbone.taps(x, [*backbone.stages, "features", "logits"])
    assert all(tap.dim() == 2 for tap in taps.values())
    assert taps["features"].shape == (2, backbone.num_features)
    backbone.check((backbone.in_channels, size, size), backbone.num_classes)


@pytest.mark.parametrize(
    ("name", "size", "head", "stages"),
    [
        ("resnet18", 32, "fc", ("bn1", "layer1", "layer2", "layer3", "layer4")),
        ("vgg11", 32, "classifier.6", ("features.3", "features.8", "features.13", "features.18", "classifier")),
        (
            "mobilenet_v3_small",
            32,
            "classifier.3",
            ("features.2", "features.5", "features.8", "features.11", "classifier"),
        ),
        ("shufflenet_v2_x0_5", 32, "fc", ("conv1", "stage2", "stage3", "stage4", "conv5")),
    ],
)
def test_torchvision_agrees(name: str, size: int, head: str, stages: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    backbone = Torchvision(name, 6)
    assert backbone.head_path == head
    assert backbone.stages == stages
    torch.testing.assert_close(backbone.normalise.mean.flatten(), torch.tensor(IMAGENET[0]))
    torch.testing.assert_close(backbone.normalise.std.flatten(), torch.tensor(IMAGENET[1]))
    agrees(backbone, models.get_model(name, num_classes=6), size)


@pytest.mark.parametrize(
    ("of", "name", "stages"),
    [
        (models.get_model, "resnet50", ["bn1", "layer1", "layer2", "layer3", "layer4"]),
        (models.get_model, "resnet101", ["bn1", "layer1", "layer2", "layer3", "layer4"]),
        (models.get_model, "efficientnet_b0", [f"features.{number}" for number in (1, 3, 5, 7, 8)]),
        (models.get_model, "convnext_tiny", [*(f"features.{number}" for number in (1, 3, 5, 7)), "classifier"]),
        (
            models.get_model,
            "vit_b_16",
            [*(f"encoder.layers.encoder_layer_{number}" for number in (1, 4, 7, 10)), "encoder.ln"],
        ),
        ("timm", "efficientnet_b0", ["blocks.0", "blocks.2", "blocks.4", "blocks.6", "bn2"]),
        ("timm", "vit_small_patch14_dinov2", ["blocks.1", "blocks.4", "blocks.7", "blocks.10", "norm"]),
        ("timm", "swin_tiny_patch4_window7_224", ["layers.0", "layers.1", "layers.2", "layers.3", "norm"]),
    ],
)
def test_the_stages_of_a_deep_network_are_its_blocks_in_five_groups(of: Any, name: str, stages: list[str]) -> None:
    if of == "timm":
        of = pytest.importorskip("timm").create_model
    with torch.device("meta"):
        network = of(name, num_classes=4)
    network.set_submodule(find_head(network, 4), nn.Identity())
    assert default_stages(network) == stages


def test_a_container_is_opened_only_where_it_holds_nearly_all() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())

    deep = nn.ModuleDict({"stem": block(), "body": nn.Sequential(*(block() for _ in range(7))), "neck": block()})
    assert default_stages(deep) == ["body.0", "body.2", "body.4", "body.6", "neck"]
    even = nn.ModuleDict({name: nn.Sequential(block(), block()) for name in "abcd"})
    assert default_stages(even) == ["a", "b", "c", "d"]
    assert default_stages(nn.Sequential(nn.ReLU())) == []
    alone = nn.ModuleDict({"only": nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1), "norm": nn.BatchNorm2d(1)})})
    assert default_stages(alone) == ["only"], "a block is not taken apart"


def tiny_convnext() -> nn.Module:
    setting = [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)]
    return models.ConvNeXt(setting, num_classes=5)


def tiny_vit() -> nn.Module:
    vit = models.VisionTransformer(16, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)
    nn.init.normal_(vit.heads.head.weight)
    return vit


@pytest.mark.parametrize(("make", "size", "head"), [(tiny_convnext, 16, "classifier.2"), (tiny_vit, 16, "heads.head")])
def test_own_networks_agree(make: Any, size: int, head: str) -> None:
    torch.manual_seed(0)
    network = make()
    backbone = Custom(network, 5, mean=[0.1] * 3, std=[0.3] * 3)
    assert backbone.head_path == head
    agrees(backbone, network, size)


def test_a_swin_transformer_is_pooled_over_positions() -> None:
    torch.manual_seed(0)
    backbone = Torchvision("swin_t", 4).eval()
    x = torch.rand(1, 3, 32, 32)
    maps: list[Tensor] = []
    handle = backbone.encoder.norm.register_forward_hook(lambda *values: maps.append(values[2]))
    tap = backbone.taps(x, ["norm"])["norm"]
    handle.remove()
    assert tap.shape == (1, 768)
    torch.testing.assert_close(tap, maps[0].mean(dim=(1, 2)))


def test_timm_vit_agrees() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"img_size": 32, "depth": 2}
    backbone = Timm("vit_tiny_patch16_224", 5, options=options)
    assert backbone.head_path == "head"
    assert backbone.stages == ("patch_embed", "blocks.0", "blocks.1", "norm")
    assert torch.all(backbone.normalise.mean == 0.5), "the statistics it was trained with, not ImageNet's"
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5, **options)
    nn.init.normal_(network.head.weight)
    agrees(backbone, network, 32)
    with pytest.raises(UsageError, match=r"cannot take images of 3×40×40: Input height \(40\)"):
        backbone.check((3, 40, 40), 5)


def test_timm_takes_channels_and_stages_and_names_mistakes() -> None:
    pytest.importorskip("timm")
    backbone = Timm("resnet10t", 5, in_channels=1, stages=["layer1", "layer3.0"])
    backbone.check((1, 32, 32), 5)
    assert backbone.stages == ("layer1", "layer3.0")
    torch.testing.assert_close(backbone.normalise.mean.flatten(), torch.tensor([IMAGENET_GREY[0]]))
    with pytest.raises(UsageError, match=r"unknown timm classifier 'resnet10tt'; did you mean 'resnet10t'"):
        Timm("resnet10tt", 5)
    with pytest.raises(UsageError, match=r"cannot make timm's resnet10t: .*depthh"):
        Timm("resnet10t", 5, options={"depthh": 2})


def test_timm_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'lit_unlearn\[timm\]'"):
        Timm("resnet18", 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "resnet81"}, "unknown torchvision classifier 'resnet81'; did you mean 'resnet18'"),
        ({"name": "squeezenet1_1"}, "SqueezeNet has no linear layer inside"),
        ({"name": "resnet18", "options": {"depth": 3}}, "cannot make torchvision's resnet18: .*'depth'"),
        ({"name": "resnet18", "stages": ["layer9"]}, "unknown stage 'layer9'; did you mean 'layer"),
        ({"name": "resnet18", "mean": [0.5]}, "mean and std need 3 values each"),
        ({"name": "googlenet", "options": {"init_weights": False}}, "GoogLeNet gives auxiliary logits.*aux_logits"),
    ],
)
def test_torchvision_names_mistakes(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Torchvision(num_classes=5, **arguments)


def test_torchvision_says_that_the_images_are_too_small() -> None:
    with pytest.raises(UsageError, match=r"the backbone cannot take images of 3×8×8: .*too small"):
        Torchvision("vgg11", 5).check((3, 8, 8), 5)


def test_a_replaced_stem_responds_to_grey_images_as_before() -> None:
    torch.manual_seed(0)
    colour = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2, padding=2))
    for channels in (1, 2):
        grey = deepcopy(colour)
        _replace_stem(grey, channels)
        x = torch.rand(2, 1, 9, 9)
        torch.testing.assert_close(grey(x.expand(-1, channels, -1, -1)), colour(x.expand(-1, 3, -1, -1)))
    backbone = Torchvision("resnet18", 5, in_channels=1)
    backbone.check((1, 32, 32), 5)
    assert backbone.encoder.conv1.stride == (2, 2)


@pytest.mark.parametrize("classes", [5, 1000])
def test_pretrained_keeps_the_encoder_and_a_fitting_head(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    state = models.shufflenet_v2_x0_5().state_dict()
    monkeypatch.setattr(models._api, "load_state_dict_from_url", lambda *_, **__: state)
    backbone = Torchvision("shufflenet_v2_x0_5", classes, pretrained=True)
    assert backbone.num_classes == classes
    assert torch.equal(backbone.encoder.conv1[0].weight, state["conv1.0.weight"])
    assert (classes == 1000) == (backbone.head.weight.shape == (1000, 1024))
    if classes == 1000:
        assert torch.equal(backbone.head.weight, state["fc.weight"])


class After(nn.Module):
    """A network whose last linear layer is followed by something."""

    def __init__(self, after: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
        self.last = nn.Linear(6, 6)
        self.after = after
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.last(self.body(x)))
        return out


class Aids(nn.Module):
    """A network with dropout that may return more than logits in training."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.body, self.last, self.more = nn.Sequential(nn.Flatten(), nn.Dropout()), nn.Linear(12, 6), more

    def forward(self, x: Tensor) -> object:
        logits = self.last(self.body(x))
        return (logits, logits) if self.more and self.training else logits


class Middle(nn.Module):
    """A network that defines its last layer first."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Linear(8, 4)
        self.bottom = nn.Linear(12, 8)
        self.spare = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.top(self.bottom(x.flatten(1)).relu())
        return out


class Boxed(nn.Module):
    """Puts what a network returns into something else."""

    def __init__(self, box: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.box = box

    def forward(self, x: Tensor) -> object:
        return self.box(x)


class Answer(NamedTuple):
    mask: None
    scores: Tensor


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (Boxed(lambda x: (x, x)), r"returns a tuple of 2, .*whose forward returns network\(images\)\[0\]"),
        (Boxed(lambda x: Answer(None, x)), r"returns a Answer of 2, .*network\(images\)\[1\]"),
        (
            Boxed(lambda x: {"loss": x.sum(), "logits": x}),
            r"returns a dict with 'loss', 'logits', but must return logits alone: .*network\(images\)\['logits'\]",
        ),
        (Boxed(lambda x: None), "returns a NoneType, but must return logits alone"),
        (nn.Softmax(dim=1), "returns probabilities .*rows that sum to 1.*, but must return logits: take the softmax"),
        (nn.LogSoftmax(dim=1), "returns logarithms of probabilities, but must return logits: take the log_softmax"),
        (nn.Sigmoid(), "returns numbers between 0 and 1, but must return logits: take the sigmoid"),
    ],
)
def test_check_says_what_a_network_returns_in_place_of_logits(after: nn.Module, said: str) -> None:
    with pytest.raises(UsageError, match=f"^After {said}"):
        Custom(After(after)).check((3, 2, 2), 6)


def test_check_finds_auxiliary_outputs_of_training_and_draws_nothing() -> None:
    plain, auxiliary = Custom(Aids(False)), Custom(Aids(True))
    state = torch.get_rng_state()
    plain.check((3, 2, 2), 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert plain.training
    with pytest.raises(UsageError, match=r"^Aids returns a tuple in training, but must return logits alone"):
        auxiliary.check((3, 2, 2), 6)


@pytest.mark.parametrize("after", [nn.ReLU(), nn.Linear(6, 6)])
def test_check_finds_what_comes_after_the_head(after: nn.Module) -> None:
    backbone = Custom(After(after), head="last")
    with pytest.raises(UsageError, match=r"the head 'last' is not the last operation of the network.*argument head"):
        backbone.check((3, 2, 2), 6)
    assert isinstance(backbone.encoder.get_submodule("last"), nn.Identity)
    Custom(After(nn.Identity())).check((3, 2, 2), 6)


@pytest.mark.parametrize("head", ["spare", "bottom"])
def test_check_finds_a_head_that_is_not_one(head: str) -> None:
    backbone = Custom(Middle(), head=head)
    with pytest.raises(UsageError, match=f"the head '{head}' is not the last operation"):
        backbone.check((3, 2, 2), backbone.num_classes)


def test_a_named_head_is_taken() -> None:
    torch.manual_seed(0)
    network = Middle()
    backbone = Custom(network, 4, head="top")
    assert backbone.num_features == 8
    backbone.check((3, 2, 2), 4)
    x = torch.rand(3, 3, 2, 2)
    torch.testing.assert_close(backbone(x), network(x))


def test_own_network_is_left_as_it_was_and_sees_plain_pixels() -> None:
    network = Middle()
    backbone = Custom(network, head="top", in_channels=3)
    assert isinstance(network.top, nn.Linear)
    x = torch.rand(2, 3, 2, 2)
    assert torch.equal(backbone.normalise(x), x)
    with torch.no_grad():
        backbone.head.weight.zero_()
    assert network.top.weight.abs().sum() > 0


def test_head_is_the_last_linear_layer_that_fits() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 6))
    assert find_head(network, None) == "2"
    assert find_head(network, 5) == "1"
    assert find_head(network, 4, "0") == "0"
    for arguments, said in [
        ((network, 9), "no linear layer of Sequential has num_classes=9 outputs; the last one, '2', has 6"),
        ((network, 9, "0"), "the head '0' has 4 outputs, but num_classes=9"),
        ((network, 4, "7"), "unknown head, not a linear layer of the network: '7' .*0, 1, 2"),
        ((nn.Linear(3, 4), 4), "Linear has no linear layer inside"),
    ]:
        with pytest.raises(UsageError, match=said):
            find_head(*arguments)


def test_stages_are_the_children_with_parameters() -> None:
    parts = {"features": nn.Linear(2, 2), "relu": nn.ReLU(), "top": nn.Sequential(nn.Linear(2, 2))}
    network = nn.Sequential()
    for name, part in parts.items():
        network.add_module(name, part)
    assert name_stages(network, None) == {"encoder.features": "features", "top": "top"}
    assert name_stages(network, ["top.0", "relu"]) == {"top.0": "top.0", "relu": "relu"}


def test_a_stage_that_does_not_run_is_named() -> None:
    backbone = Custom(Middle(), head="top")
    assert backbone.stages == ("bottom", "spare")
    with pytest.raises(UsageError, match="'spare' does not run"):
        backbone.taps(torch.rand(1, 3, 2, 2), backbone.stages)


def test_custom_refuses_bad_arguments() -> None:
    with pytest.raises(UsageError, match=r"'resnet18', but must be an import path, module\.Class; a network of torch"):
        Custom("resnet18")
    with pytest.raises(UsageError, match=r"'torch\.nn\.Lin' cannot be made: AttributeError"):
        Custom("torch.nn.Lin")
    with pytest.raises(
        UsageError, match=r"'subprocess\.Popen' cannot be made: TypeError: it is no class of torch modules"
    ):
        Custom({"class_path": "subprocess.Popen", "init_args": {"args": ["false"]}})
    with pytest.raises(UsageError, match="network must be a torch module or its class path, got '7'"):
        Custom(7)
    with pytest.raises(UsageError, match="need 1 values each"):
        Custom(Middle(), in_channels=1, mean=[0.1, 0.2])


def test_a_copy_can_be_checked() -> None:
    backbone = deepcopy(Custom(Middle(), head="top"))
    backbone.check((3, 2, 2), 4)
    assert backbone.head_path == "top"


def test_a_config_can_name_each_backbone() -> None:
    set_parsing_settings(instantiate_subclass_spec_in_any=False)  # as the command line does
    parser = ArgumentParser()
    parser.add_argument("--backbone", type=Backbone)
    vision = {"image_size": 16, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    network = {
        "class_path": "torchvision.models.VisionTransformer",
        "init_args": vision | {"num_classes": 5},
    }
    for kind, arguments in [
        ("ResNet8", {"num_classes": 5, "width": 2}),
        ("lit_unlearn.backbones.Torchvision", {"name": "resnet18", "num_classes": 5}),
        ("lit_unlearn.backbones.Custom", {"network": network, "num_classes": 5}),
    ]:
        given = {"class_path": kind, "init_args": arguments}
        backbone = parser.instantiate(parser.parse_object({"backbone": given})).backbone
        assert isinstance(backbone, Backbone)
        backbone.check((3, 16, 16), 5)
