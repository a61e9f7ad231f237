"""The three parts of a backbone, its taps and its check."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lit_unlearn.backbones import Backbone, Custom, Normalise, ResNet8, ResNet18, ResNet20
from lit_unlearn.backbones.taps import pool
from lit_unlearn.errors import UsageError


class Fussy(nn.Module):
    """An encoder with a stage of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pair = Pair()
        self.unused = nn.Linear(2, 2)
        self.flat = nn.Linear(4, 6)
        self.relu = nn.ReLU(inplace=True)
        self.tokens = Tokens()

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.pair(self.conv(x))
        x = self.tokens(x).mean(dim=1)
        return self.relu(self.flat(x))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


def fussy() -> Backbone:
    torch.manual_seed(0)
    names = ["conv", "pair", "unused", "flat", "tokens"]
    return Backbone(Fussy(), nn.Linear(6, 5), [0.5] * 3, [0.25] * 3, {name: name for name in names})


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_normalise_is_per_channel_and_saved() -> None:
    normalise = Normalise([0.1, 0.2], [0.5, 2.0])
    x = torch.rand(3, 2, 4, 4)
    torch.testing.assert_close(normalise(x)[:, 0], (x[:, 0] - 0.1) / 0.5)
    torch.testing.assert_close(normalise(x)[:, 1], (x[:, 1] - 0.2) / 2.0)
    assert {key: tuple(value.shape) for key, value in normalise.state_dict().items()} == {
        "mean": (2, 1, 1),
        "std": (2, 1, 1),
    }


@pytest.mark.parametrize(("mean", "std"), [([], []), ([0.1], [1.0, 1.0]), ([0.1, 0.1], [1.0, 0.0])])
def test_normalise_refuses_bad_statistics(mean: list[float], std: list[float]) -> None:
    with pytest.raises(UsageError, match="std"):
        Normalise(mean, std)


@pytest.mark.parametrize(
    ("kind", "width", "parameters", "stages"),
    [(ResNet8, 16, 78_042, 3), (ResNet20, 16, 272_474, 3), (ResNet18, 64, 11_173_962, 4)],
)
def test_small_resnets_have_the_size_of_the_field(
    kind: type[ResNet8], width: int, parameters: int, stages: int
) -> None:
    backbone = kind()
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert backbone.stages == ("stem", *(f"stage{number}" for number in range(1, stages + 1)))
    assert backbone.num_features == width * 2 ** (stages - 1)
    assert not any(module.inplace for module in backbone.modules() if isinstance(module, nn.ReLU))
    assert torch.all(backbone.normalise.mean == 0.5)
    assert torch.all(backbone.normalise.std == 0.25)


def test_small_resnet_keeps_resolution_in_the_stem_and_halves_it_twice(images: Tensor) -> None:
    encoder = ResNet8(width=2).encoder
    sizes = []
    for name, part in encoder.named_children():
        images = part(images)
        if name.startswith("st"):
            sizes.append(images.shape[-1])
    assert sizes == [8, 8, 4, 2]


def test_every_layer_draws_its_weights_anew_as_it_drew_them_first() -> None:
    torch.manual_seed(0)
    backbone = ResNet8(width=32)
    first = {name: value.clone() for name, value in backbone.named_parameters() if value.dim() > 1}
    for module in backbone.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, value in backbone.named_parameters():
        if name in first:
            assert not torch.equal(value, first[name])
            assert value.std().item() == pytest.approx(first[name].std().item(), rel=0.1)
    weight = backbone.encoder.stage2[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def test_a_block_adds_its_shortcut(images: Tensor) -> None:
    encoder = ResNet8(width=4).eval().encoder
    for block in (encoder.stage1[0], encoder.stage2[0]):
        nn.init.zeros_(block.bn2.weight)
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        assert torch.equal(block(x), block.shortcut(x).relu())
    assert isinstance(encoder.stage1[0].shortcut, nn.Identity)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"width": -1}, "width is -1"),
        ({"in_channels": 1, "mean": [0.1, 0.2, 0.3]}, "need 1 values each"),
    ],
)
def test_small_resnet_refuses_bad_sizes(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ResNet8(**arguments)  # type: ignore[arg-type]


def test_forward_is_head_of_features_of_pixels(images: Tensor) -> None:
    backbone = ResNet8(7, width=4, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]).eval()
    assert (backbone.num_classes, backbone.num_features, backbone.in_channels) == (7, 16, 3)
    logits = backbone(images)
    assert logits.shape == (4, 7)
    assert torch.equal(logits, backbone.head(backbone.features(images)))
    assert torch.equal(backbone.features(images), backbone.encoder(backbone.normalise(images)))


def test_taps_are_the_pooled_activations_of_one_pass(images: Tensor) -> None:
    backbone = ResNet8(width=4).eval()
    passes = []
    handle = backbone.encoder.register_forward_hook(lambda *_: passes.append(1))
    taps = backbone.taps(images, ["logits", "stage2", "features", "stem"])
    handle.remove()
    assert passes == [1]
    assert list(taps) == ["logits", "stage2", "features", "stem"]
    encoder = backbone.encoder
    stem = encoder.stem(backbone.normalise(images))
    stage2 = encoder.stage2(encoder.stage1(stem))
    torch.testing.assert_close(taps["stem"], stem.mean(dim=(2, 3)))
    torch.testing.assert_close(taps["stage2"], stage2.mean(dim=(2, 3)))
    torch.testing.assert_close(taps["features"], backbone.features(images))
    torch.testing.assert_close(taps["logits"], backbone(images))


def test_taps_of_several_cells_are_averages_of_parts_side_by_side(images: Tensor) -> None:
    backbone = ResNet8(10, 3).eval()
    maps = backbone.encoder.stem(backbone.normalise(images))
    taps = backbone.taps(images, ["stem", "features"], cells=2)
    half = maps.shape[2] // 2
    parts = [maps[:, :, row : row + half, column : column + half] for row in (0, half) for column in (0, half)]
    wanted = torch.stack([part.mean((2, 3)) for part in parts], 2).flatten(1)
    torch.testing.assert_close(taps["stem"], wanted)
    torch.testing.assert_close(taps["features"], backbone.features(images))


def test_cells_of_tokens_are_a_map_behind_the_first_ones_and_small_maps_are_read_at_each_position() -> None:
    tokens = torch.arange(2 * 18 * 3.0).view(2, 18, 3)  # two tokens, then 4 × 4
    tiled = pool(tokens, cells=2)
    first, square = tokens[:, :2].mean(1), tokens[:, 2:].view(2, 4, 4, 3)
    torch.testing.assert_close(tiled[:, :3], first)
    torch.testing.assert_close(tiled[:, 3:].view(2, 3, 2, 2)[:, :, 0, 1], square[:, :2, 2:].mean((1, 2)))
    maps = torch.rand(2, 5, 3, 2)
    assert torch.equal(pool(maps, cells=4), maps.flatten(1))
    assert torch.equal(pool(maps.permute(0, 2, 3, 1), channels_last=True, cells=4), maps.flatten(1))
    assert torch.equal(pool(maps.mean((2, 3)), cells=4), maps.mean((2, 3)))


@pytest.mark.parametrize("name", ["stage1", "features"])
def test_taps_let_gradients_flow_and_leave_no_hooks(images: Tensor, name: str) -> None:
    backbone = ResNet8(width=4)
    backbone.taps(images, [name])[name].square().sum().backward()
    gradient = backbone.encoder.stem.conv.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert hooks(backbone) == 0


def test_taps_of_tokens_and_vectors(images: Tensor) -> None:
    backbone = fussy()
    taps = backbone.taps(images, ["conv", "tokens", "flat", "features"])
    torch.testing.assert_close(taps["tokens"], taps["conv"])
    torch.testing.assert_close(taps["flat"], backbone.encoder.flat(taps["tokens"]))
    assert (taps["flat"] < 0).any(), "the ReLU that works in place must not change what was tapped"


def test_pool_of_channels_last() -> None:
    x = torch.rand(2, 5, 6, 3)
    torch.testing.assert_close(pool(x, channels_last=True), x.mean(dim=(1, 2)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stage9", "unknown stage 'stage9'.*conv.*features.*logits"),
        ("unused", "'unused' does not run"),
        ("pair", "'pair' gives a tuple"),
    ],
)
def test_taps_refuse_and_remove_their_hooks(images: Tensor, name: str, said: str) -> None:
    backbone = fussy()
    with pytest.raises(UsageError, match=said):
        backbone.taps(images, ["conv", name])
    assert hooks(backbone) == 0


def test_taps_remove_their_hooks_when_the_pass_fails() -> None:
    backbone = fussy()
    with pytest.raises(RuntimeError):
        backbone.taps(torch.rand(2, 5, 8, 8), ["conv"])
    assert hooks(backbone) == 0


def test_a_copy_taps_itself(images: Tensor) -> None:
    backbone = ResNet8(width=4).eval()
    before = backbone.taps(images, ["stage1"])["stage1"]
    copy = deepcopy(backbone)
    with torch.no_grad():
        copy.encoder.stem.conv.weight.zero_()
    assert copy.stages == backbone.stages
    assert not torch.equal(copy.taps(images, ["stage1"])["stage1"], before)
    assert torch.equal(backbone.taps(images, ["stage1"])["stage1"], before)


def test_a_backbone_refuses_bad_parts() -> None:
    with pytest.raises(UsageError, match="a Conv2d has no in_features"):
        Backbone(nn.Flatten(), nn.Conv2d(1, 1, 1), [0.5], [0.5], {})
    with pytest.raises(UsageError, match="unknown stage 'convv'; did you mean 'conv'"):
        Backbone(Fussy(), nn.Linear(6, 5), [0.5], [0.5], {"a": "convv"})
    with pytest.raises(UsageError, match="may not be called 'features'"):
        Backbone(Fussy(), nn.Linear(6, 5), [0.5], [0.5], {"features": "conv"})


def test_num_classes_follows_a_head_that_is_replaced() -> None:
    backbone = ResNet8(width=4)
    backbone.head = nn.Linear(16, 11)
    assert backbone.num_classes == 11


@pytest.mark.parametrize("backbone", [ResNet8(width=4), fussy()], ids=["resnet8", "fussy"])
def test_check_changes_nothing(backbone: Backbone) -> None:
    backbone.train()
    backbone.encoder.get_submodule(backbone.stages and next(iter(backbone._stages.values()))).eval()
    modes = [module.training for module in backbone.modules()]
    state = deepcopy(backbone.state_dict())
    random = torch.get_rng_state()
    backbone.check((3, 8, 8), backbone.num_classes)
    assert [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("shape", "classes", "said"),
    [
        ((1, 8, 8), 10, "3-channel images but the data has 1 channels: set the backbone's in_channels=1"),
        ((3, 8, 8), 7, "has 10 classes but the data has 7: set the backbone's num_classes=7"),
    ],
)
def test_check_says_what_to_set(shape: tuple[int, int, int], classes: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ResNet8(width=4).check(shape, classes)


def test_check_says_that_weights_are_of_another_precision_than_images() -> None:
    backbone = ResNet8(width=4)
    backbone.encoder.half()
    said = r"^encoder\.\S+ is torch.float16, but images are torch.float32: .* \.float\(\)"
    with pytest.raises(UsageError, match=said):
        backbone.check((3, 8, 8), 10)


def test_check_says_that_the_image_size_does_not_fit() -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten())
    backbone = Backbone(encoder, nn.Linear(8, 3), [0.5], [0.5], {})
    backbone.train()
    backbone.check((1, 6, 6), 3)
    with pytest.raises(UsageError, match=r"cannot take images of 1×3×3: .*[Kk]ernel") as caught:
        backbone.check((1, 3, 3), 3)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"images of 1×7×7 the encoder gives \(2, 18\), but the head needs .*\(2, 8\)"):
        backbone.check((1, 7, 7), 3)
    assert all(module.training for module in backbone.modules())


class Verbose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("\n  odd size\nand a page of explanations")


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize(("encoder", "said"), [(Verbose(), "odd size"), (Silent(), "AssertionError")])
def test_check_repeats_a_complaint_in_one_line(encoder: nn.Module, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Backbone(encoder, nn.Linear(8, 3), [0.5], [0.5], {}).check((1, 4, 5), 3)
    assert str(caught.value) == f"the backbone cannot take images of 1×4×5: {said}"


class Viewing(nn.Module):
    """A network whose view cannot take an empty batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        out: Tensor = self.fc(x.view(x.size(0), -1))
        return out


def test_an_empty_batch_never_reaches_the_network_in_eval_mode(images: Tensor) -> None:
    backbone = Custom(Viewing(), num_classes=5).eval()
    none = images[:0].requires_grad_()
    names = [*backbone.stages, "features", "logits"]
    assert len(names) > 2
    for cells in (1, 2):
        found, wanted = (backbone.taps(x, names, cells) for x in (none, images))
        assert {name: (0, *value.shape[1:]) for name, value in wanted.items()} == {
            name: tuple(value.shape) for name, value in found.items()
        }
    assert (backbone(none).shape, backbone.features(none).shape) == ((0, 5), (0, 36))
    (gradient,) = torch.autograd.grad(backbone(none).sum(), none)
    assert gradient.shape == none.shape
    assert all(not value.any() for value in torch.autograd.grad(backbone(none).sum(), list(backbone.parameters())))
    assert len(backbone.double()(none.double())) == 0
    with pytest.raises(RuntimeError):
        backbone.float().train()(none)
