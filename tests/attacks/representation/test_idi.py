import copy
import math
from dataclasses import replace

import pytest
import torch
from attacked import attacked
from torch import nn

from lit_unlearn.attacks import IDI, Target
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.errors import UsageError


@pytest.fixture(scope="module")
def found(digits):
    """What the attack says of Original, Retrain and the controls on the digits."""
    attack = IDI(steps=100)
    head_only = copy.deepcopy(digits.original.backbone)
    nn.init.normal_(head_only.head.weight, generator=torch.Generator().manual_seed(0))
    rescaled = copy.deepcopy(digits.original.backbone)
    add_gate(rescaled, [0, 1, 2], 1e-5)
    nets = {"original": digits.original, "retrain": digits.retrain, "head_only": head_only, "rescale": rescaled}
    seen = {
        name: attacked(attack, digits.make_target(net)) for name, net in (nets | {"fresh": digits.network()}).items()
    }
    assert not any(each.skipped for each in seen.values())
    return {
        subject: {name.removeprefix("representation/idi/"): value for name, value in each.attacks.items()}
        for subject, each in seen.items()
    }


def test_original_is_one_and_retrain_zero(found):
    assert (found["original"]["index"], found["original"]["error"]) == (1, 0)
    assert found["retrain"]["index"] == 0


@pytest.mark.parametrize("control", ["head_only", "rescale"])
def test_what_leaves_the_encoder_alone_is_one(found, control):
    assert found[control]["index"] == pytest.approx(1, abs=1e-6)


def test_a_network_that_learned_nothing_tells_no_more_than_retrain(found):
    assert found["fresh"]["index"] < 2 * found["fresh"]["error"]


def test_the_index_is_the_ratio_of_the_bits(found):
    sums = {name: sum(v for k, v in numbers.items() if k.endswith("/bits")) for name, numbers in found.items()}
    expected = (sums["fresh"] - sums["retrain"]) / (sums["original"] - sums["retrain"])
    assert found["fresh"]["index"] == pytest.approx(expected, abs=1e-9)
    errors = {"error", "lead_error"}
    assert set(found["fresh"]) == {"index", *errors, *(f"{s}/bits" for s in ("stem", "stage1", "stage2", "stage3"))}
    assert 0 < found["fresh"]["lead_error"] == found["original"]["lead_error"] < 0.5, (
        "of Original, whatever is measured"
    )
    assert all(0 < value <= 1 for numbers in found.values() for k, value in numbers.items() if k.endswith("/bits"))


def test_known_networks_are_measured_once_and_the_same_options_give_the_same_numbers(digits, monkeypatch):
    attack, measured = IDI(steps=5), []
    given = attack._measure
    monkeypatch.setattr(attack, "_measure", lambda net: measured.append(net) or given(net))
    shared = Shared()
    nets = digits.original, digits.retrain, digits.original
    first = [attack.evaluate(replace(digits.make_target(net), shared=shared)).numbers for net in nets]
    assert measured == [digits.original, digits.retrain]
    assert first[0] == first[2]
    fresh = copy.deepcopy(digits.original.backbone)
    assert attack.evaluate(digits.make_target(fresh)).numbers == first[0]


class Mixed(nn.Module):
    """Keeps a share of the first coordinate, which tells the forgotten from the rest."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        return torch.cat([self.share * x[:, :1], x[:, 1:]], dim=1)


@pytest.fixture
def mixed(make_target, vectors):
    draw = torch.Generator().manual_seed(0)
    splits = {
        name: (torch.randn(count, 5, generator=draw), torch.full((count,), label))
        for name, count, label in (("forget", 150, 0), ("retain", 300, 2), ("test_retain", 20, 2))
    }
    splits["forget"][0][:, 0] += 4

    def make(share, original=1.0, retrain=0.0, **chosen):
        target = make_target(vectors(Mixed(share), 5, 4), vectors(Mixed(original), 5, 4), **(splits | chosen))
        retrained = EncodedData(vectors(Mixed(retrain), 5, 4).eval().requires_grad_(False), target.data, target.device)
        return Target(target.model, target.original, target.data, 4, retrained)

    return make


def test_a_shrunken_coordinate_is_all_there_and_a_deleted_one_is_gone(mixed):
    attack = IDI(steps=100)
    assert attack.evaluate(mixed(1e-4)).numbers["index"] == pytest.approx(1, abs=0.01)
    assert attack.evaluate(mixed(0.0)).numbers["index"] == pytest.approx(0, abs=1e-9)
    assert set(attack.evaluate(mixed(1.0)).numbers) == {
        "index",
        "error",
        "lead_error",
        "features/bits",
    }  # without stages, the features


def test_a_denominator_within_noise_is_undefined(mixed):
    for original, retrain in ((1.0, 1.0), (0.0, 0.0), (0.0, 1.0)):
        found = IDI(steps=100).evaluate(mixed(0.5, original, retrain)).numbers
        assert math.isnan(found["index"])
        assert math.isfinite(found["features/bits"])
        assert "error" not in found


@pytest.mark.parametrize("seed", range(4))
def test_features_that_say_nothing_have_no_information_and_no_index(make_target, vectors, seed):
    draw = torch.Generator().manual_seed(seed)
    splits = {
        name: (torch.randn(count, 32, generator=draw), torch.full((count,), label))
        for name, count, label in (("forget", 30, 0), ("retain", 300, 2), ("test_retain", 20, 2))
    }
    full, narrow = nn.Identity(), Mixed(0.0)
    target = make_target(vectors(full, 32, 4), vectors(narrow, 32, 4), **splits)
    retrained = EncodedData(vectors(full, 32, 4).eval().requires_grad_(False), target.data, target.device)
    found = IDI(steps=100).evaluate(Target(target.model, target.original, target.data, 4, retrained)).numbers
    assert found["features/bits"] == 0, "a critic that learnt noise by heart is below 0"
    assert math.isnan(found["index"])


def test_without_a_retrained_the_index_is_undefined(mixed):
    target = mixed(1.0)
    for original, retrain in ((None, target.retrain), (target.original, None)):
        attack = IDI(steps=5)
        seen = attacked(attack, Target(target.model, original, target.data, 4, retrain))
        assert seen.skipped[attack.title] == "undefined: representation/idi/index"
        assert set(seen.attacks) == {"representation/idi/features/bits"}


def test_too_few_forget_images_leave_it_undefined(mixed):
    few = torch.randn(3, 5), torch.zeros(3, dtype=torch.int64)
    found = IDI(steps=5).evaluate(mixed(1.0, forget=few)).numbers
    assert list(found) == ["index"]
    assert math.isnan(found["index"])


def test_the_images_are_chosen_by_the_seed_and_no_more_than_asked_for(mixed):
    found = {seed: IDI(samples=40, steps=5, seed=seed).information(mixed(1.0).model, Shared()) for seed in (0, 1)}
    assert found[0].bits.shape == (1, 80)
    assert found[0].forget == 40
    assert not torch.equal(found[0].bits, found[1].bits)


@pytest.mark.parametrize(("option", "least"), [("samples", 4), ("width", 1), ("steps", 1)])
def test_options_out_of_range(option, least):
    with pytest.raises(UsageError, match=f"{option} is 0"):
        IDI(**{option: 0})
