from dataclasses import replace

import pytest
import torch

from lit_unlearn.attacks import TransformedRecovery, WorstRecovery
from lit_unlearn.attacks.recovery import TRANSFORMS
from lit_unlearn.attacks.recovery.transformed import _of_one_size
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import ResNet8
from lit_unlearn.errors import UsageError


class Turned(ResNet8):
    """Sees the transposed picture: what transposed kernels make of a network."""

    def features(self, x):
        return super().features(x.transpose(2, 3))


@pytest.fixture(scope="module")
def turned(digits):
    network = Turned(num_classes=10, in_channels=1)
    original = digits("original")
    network.load_state_dict(original.model.backbone.state_dict())
    encoded = EncodedData(network.eval().requires_grad_(False), original.data, original.device)
    return replace(original, model=encoded)


def test_each_transform_does_what_its_name_says():
    image = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]])[None, None]
    wanted = {
        "transpose": [[0.0, 0.3], [0.1, 0.4], [0.2, 0.5]],
        "flip": [[0.2, 0.1, 0.0], [0.5, 0.4, 0.3]],
        "rotate90": [[0.2, 0.5], [0.1, 0.4], [0.0, 0.3]],
        "rotate180": [[0.5, 0.4, 0.3], [0.2, 0.1, 0.0]],
        "rotate270": [[0.3, 0.0], [0.4, 0.1], [0.5, 0.2]],
        "invert": [[1.0, 0.9, 0.8], [0.7, 0.6, 0.5]],
    }
    assert list(TRANSFORMS) == list(wanted)
    for name, change in TRANSFORMS.items():
        torch.testing.assert_close(change(image)[0, 0], torch.tensor(wanted[name]))
        assert _of_one_size(change)(image).shape == image.shape


def test_a_network_that_sees_transposed_pictures_is_found_on_them(digits, turned):
    """It names what it should have forgotten as the original does, without any readout; on plain images it does not."""
    attack = TransformedRecovery(["transpose", "flip"])
    found = attack.evaluate(turned).numbers
    original = digits("original")
    plain = original.accuracies(lambda batch: batch.logits)
    assert {key.removeprefix("transpose/answers/"): value for key, value in found.items() if "e/answers/t" in key} == {
        key: value for key, value in plain.items() if key.startswith("test")
    }
    assert turned.accuracies(lambda batch: batch.logits)["test_forget_acc"] < 0.6
    members = [m for m in WorstRecovery()._suite(["test_forget"]) if not m.needs_original]
    read = WorstRecovery([m for m in members if m.group in ("", "stages")]).evaluate(original)
    for group, name in (("", "features"), ("stages/", "stages")):
        ours = found[f"transpose/{name}/test_forget_acc"]
        assert ours == pytest.approx(read.numbers[f"{group}test_forget_acc"], abs=0.02)
        assert found[f"transpose/{name}/images"] == 106
    assert found["flip/answers/test_forget_acc"] < found["transpose/answers/test_forget_acc"]


def test_the_readouts_are_named_and_single_images_are_read_by_what_was_fitted_on_all_others(turned):
    found = TransformedRecovery(["invert"], most=100).evaluate(turned)
    assert set(found.notes) == {"invert/features/strongest", "invert/stages/strongest"}
    assert found.numbers["invert/answers/images"] == 100
    assert {member.calibration for member in TransformedRecovery()._suite("rest").members} == {"rest"}


def test_options_are_checked():
    for wrong, said in (
        ({"transforms": ["turn"]}, "unknown transform 'turn'"),
        ({"transforms": []}, r"transforms are \[\], but must be one or more, each once"),
        ({"transforms": ["flip", "flip"]}, "each once"),
        ({"most": 0}, "most is 0"),
        ({"calibration": "trian"}, "unknown calibration set 'trian'"),
    ):
        with pytest.raises(UsageError, match=said):
            TransformedRecovery(**wrong)
