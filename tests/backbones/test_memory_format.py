"""The probe for a memory format: what it decides, and that it leaves nothing behind."""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from safetensors import safe_open
from torch import nn

from lit_unlearn.backbones import Custom, ResNet8, memory_format, save_weights
from lit_unlearn.backbones.memory_format import (
    check_memory_format,
    faster_format,
    memory_format_of,
    set_memory_format,
)
from lit_unlearn.backbones.saving import network_state, tensors_sha256
from lit_unlearn.errors import UsageError

SHAPE = (3, 8, 8)
CPU = torch.device("cpu")


class Viewing(nn.Module):
    """A network that works on contiguous feature maps alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(256, 4)

    def forward(self, x):
        return self.last(self.norm(self.conv(x)).view(len(x), -1))


def custom(*layers, features=4):
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 4)]
    return Custom(nn.Sequential(nn.Conv2d(3, 4, 3), *layers, *pool))


def network():
    torch.manual_seed(0)
    return ResNet8(num_classes=4, in_channels=3, width=4)


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    monkeypatch.setattr(memory_format, "_found", {})


@pytest.fixture
def seconds(monkeypatch):
    """Sets how long a step takes in either format, in place of the real time."""

    def takes(contiguous, last):
        monkeypatch.setattr(memory_format, "_in_turn", lambda steps, images: [contiguous, last])

    return takes


def chosen(backbone, precision=None, batch_size=4):
    return faster_format(backbone, SHAPE, batch_size, CPU, precision or Precision())


def test_a_format_is_a_property_of_the_kernels():
    backbone = network()
    before = list(backbone.parameters())
    for name in ("contiguous", "channels_last", "contiguous"):
        set_memory_format(backbone, name)
        assert memory_format_of(backbone) == name
    assert all(one is two for one, two in zip(before, backbone.parameters(), strict=True))
    assert memory_format_of(nn.Linear(2, 2)) == "contiguous"


@pytest.mark.parametrize(("contiguous", "expected"), [(1.04, "contiguous"), (1.06, "channels_last")])
def test_channels_last_has_to_be_faster_by_a_clear_margin(seconds, contiguous, expected):
    seconds(contiguous, 1.0)
    assert chosen(network()) == expected


@pytest.mark.parametrize("refuse", [Viewing, lambda: custom(nn.Dropout(0.5)).to_network()])
def test_a_network_that_fails_or_draws_otherwise_stays_contiguous(seconds, refuse):
    seconds(2.0, 1.0)
    assert chosen(Custom(refuse())) == "contiguous"
    assert chosen(custom(nn.ReLU())) == "channels_last"


def test_a_network_without_kernels_is_not_tried(monkeypatch):
    monkeypatch.setattr(memory_format, "_probe", None)
    assert chosen(Custom(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))) == "contiguous"


def test_the_same_question_is_tried_once(monkeypatch):
    asked = []
    monkeypatch.setattr(memory_format, "_probe", lambda *given: asked.append(given[2]) or "channels_last")
    assert {chosen(network()) for _ in range(3)} == {"channels_last"}
    chosen(network(), batch_size=8)
    chosen(network(), MixedPrecision("bf16-mixed", "cpu"))
    chosen(ResNet8(num_classes=4, in_channels=3, width=8))
    assert asked == [4, 8, 4, 4]


@pytest.mark.parametrize("precision", [Precision(), MixedPrecision("bf16-mixed", "cpu")])
def test_a_probe_takes_times_and_leaves_nothing_behind(monkeypatch, precision):
    taken = []
    in_turn = memory_format._in_turn
    monkeypatch.setattr(memory_format, "_in_turn", lambda *given: taken.append(in_turn(*given)) or taken[-1])
    backbone = Custom(nn.Sequential(network().encoder, nn.Dropout(0.5), nn.Linear(16, 4))).eval()
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    with torch.inference_mode():
        chosen(backbone, precision)
    assert len(taken) == 1
    assert min(taken[0]) > 0
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.testing.assert_close(backbone.state_dict(), state, rtol=0, atol=0)
    assert not any(module.training for module in backbone.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert memory_format_of(backbone) == "contiguous"


def test_what_was_asked_for_and_cannot_be_is_told_in_a_line():
    for name in ("auto", "contiguous", "channels_last"):
        torch.manual_seed(3)
        backbone, drawn = network(), torch.get_rng_state()
        check_memory_format(name, backbone, SHAPE, CPU)
        assert torch.equal(torch.get_rng_state(), drawn)
    check_memory_format("contiguous", Custom(Viewing()), SHAPE, CPU)
    with pytest.raises(UsageError, match=r"^memory_format channels_last: the network cannot take it: view size"):
        check_memory_format("channels_last", Custom(Viewing()), SHAPE, CPU)
    with pytest.raises(UsageError, match="'nchw', but must be one of auto, contiguous, channels_last"):
        check_memory_format("nchw", network(), SHAPE, CPU)


def test_a_network_that_would_crash_in_channels_last_stays_contiguous(monkeypatch):
    narrow, wide, photograph = ResNet8(4, width=8), ResNet8(4, width=16), (3, 64, 64)
    monkeypatch.setattr(memory_format, "_probe", lambda *given: "channels_last")
    for backbone, shape, device, expected in (
        (narrow, photograph, CPU, "contiguous"),
        (narrow, (3, 40, 40), CPU, "channels_last"),
        (wide, photograph, CPU, "channels_last"),
        (narrow, photograph, torch.device("meta"), "channels_last"),
    ):
        assert faster_format(backbone, shape, 4, device, Precision()) == expected
    with pytest.raises(
        UsageError, match=r"channels_last: PyTorch would crash at encoder\.\S+ on a CPU: take contiguous"
    ):
        check_memory_format("channels_last", narrow, photograph, CPU)


def test_saved_weights_do_not_show_the_format(tmp_path):
    digests = set()
    for name in ("contiguous", "channels_last"):
        backbone = network()
        set_memory_format(backbone, name)
        digests.add(tensors_sha256(network_state(backbone)))
        save_weights(backbone, tmp_path / f"{name}.pt", {})
        save_weights(backbone, tmp_path / f"{name}.safetensors", {})
    assert len(digests) == 1
    one, two = (torch.load(tmp_path / f"{name}.pt")["state_dict"] for name in ("contiguous", "channels_last"))
    torch.testing.assert_close(one, two, rtol=0, atol=0, check_stride=True)
    with safe_open(tmp_path / "channels_last.safetensors", "pt") as file:
        assert tensors_sha256({key: file.get_tensor(key) for key in file.keys()}) in digests  # noqa: SIM118
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("contiguous", "channels_last")]
    assert files[0] == files[1]
