import copy
import math
from dataclasses import replace

import pytest
import torch
from attacked import attacked
from torch import nn
from torch.nn.functional import cross_entropy

from lit_unlearn.attacks import Distance, Grafting, Target
from lit_unlearn.attacks.representation import distance
from lit_unlearn.attacks.representation.distance import barrier, losses_between, misfit, recalibrate
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.backbones.memory_format import set_memory_format
from lit_unlearn.errors import UsageError

BARRIERS = [f"barrier_{other}/{kind}" for other in ("original", "retrain") for kind in ("forgotten", "retained")]
FEW = {"points": 3, "images": 40}


def norm_of(net):
    return math.sqrt(sum(float(p.double().square().sum()) for p in net.parameters()))


def copied(net):
    return copy.deepcopy(net.backbone)


def beside(target, retrain):
    return replace(target, retrain=retrain)


def test_identical_weights_are_0_everywhere(digits):
    for net in (digits.original, copied(digits.original)):
        numbers = Distance(**FEW).evaluate(beside(digits.make_target(net), digits.make_target(net).model)).numbers
        assert list(numbers) == ["distance", "relative_distance", "retrain_ratio", *BARRIERS]
        assert math.isnan(numbers.pop("retrain_ratio"))  # this Retrain is Original
        assert set(numbers.values()) == {0.0}


def test_retrain_is_as_far_as_itself_and_behind_a_barrier(digits):
    shared = Shared()
    retrain, original = (
        Distance(**FEW).evaluate(replace(digits.make_target(net), shared=shared)).numbers
        for net in (digits.retrain, digits.original)
    )
    assert retrain["retrain_ratio"] == 1
    assert retrain["barrier_retrain/forgotten"] == retrain["barrier_retrain/retained"] == 0
    assert retrain["barrier_original/retained"] == original["barrier_retrain/retained"] > 0.5
    assert original["distance"] == original["retrain_ratio"] == 0


def test_the_distance_is_of_all_parameters_and_of_no_running_statistics(digits):
    moved = copied(digits.original)
    for statistics in (moved.encoder.stem.bn, moved.encoder.stage3[0].bn2):
        statistics.running_mean += 1
    numbers = Distance(**FEW).evaluate(digits.make_target(moved)).numbers
    assert numbers["distance"] == 0
    moved.encoder.stem.bn.bias += 3.0
    moved.head.weight += 4 * math.sqrt(moved.encoder.stem.bn.bias.numel() / moved.head.weight.numel())
    numbers = Distance(**FEW).evaluate(digits.make_target(moved)).numbers
    assert numbers["distance"] == pytest.approx(5 * math.sqrt(16), rel=1e-5)
    assert numbers["relative_distance"] == pytest.approx(20 / norm_of(digits.original.backbone), rel=1e-5)
    own = digits.retrain.backbone.state_dict()
    gap = sum(float((v - own[n]).double().square().sum()) for n, v in digits.original.backbone.named_parameters())
    assert numbers["retrain_ratio"] == pytest.approx(20 / math.sqrt(gap), rel=1e-5)


def test_a_loss_that_is_convex_in_the_weights_has_no_barrier(make_target, vectors, four_splits):
    one, two = (vectors(nn.Identity(), 5, 4, seed) for seed in (0, 1))
    numbers = Distance(points=7).evaluate(make_target(one, two, **four_splits)).numbers
    assert numbers["distance"] > 1
    assert numbers["barrier_original/forgotten"] == numbers["barrier_original/retained"] == 0


def test_between_networks_with_another_order_of_units_the_barrier_is_that_of_the_formula(
    make_target, vectors, four_splits
):
    one = vectors(nn.Sequential(nn.Linear(5, 8), nn.ReLU()), 8, 4)
    x, y = (torch.cat(parts) for parts in zip(*four_splits.values(), strict=True))
    optimizer = torch.optim.Adam(one.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(one(x), y).backward()
        optimizer.step()
    two = copy.deepcopy(one)
    with torch.no_grad():
        for parameter, axis in ((two.encoder[0].weight, 0), (two.encoder[0].bias, 0), (two.head.weight, 1)):
            parameter.copy_(parameter.flip(axis))
    numbers = Distance(points=5).evaluate(make_target(one, two, **four_splits)).numbers
    for split, kind in (("test_forget", "forgotten"), ("test_retain", "retained")):
        x, y = four_splits[split]
        losses = []
        for share in (0, 0.25, 0.5, 0.75, 1):
            pairs = zip(one.parameters(), two.parameters(), strict=True)
            w, b, v, c = ((1 - share) * p + share * q for p, q in pairs)
            losses.append(float(cross_entropy((x @ w.T + b).relu() @ v.T + c, y)))
        assert losses[-1] == pytest.approx(losses[0], rel=1e-4)
        assert max(losses) > losses[0] + 0.01
        assert numbers[f"barrier_original/{kind}"] == pytest.approx(max(losses) - losses[0], rel=1e-4)


def test_the_barrier_is_above_the_line_between_the_ends():
    assert barrier(torch.tensor([1.0, 3.0, 3.0])) == 1
    assert barrier(torch.tensor([1.0, 0.0, 3.0])) == 0
    assert barrier(torch.tensor([0.1, 0.1, 0.1], dtype=torch.float64)) == 0


def test_weights_and_statistics_are_interpolated_and_the_ends_are_the_two_networks(digits):
    images, labels = next(digits.data.evaluation_batches("test_retain", torch.device("cpu")))
    one, two = digits.original.backbone, digits.retrain.backbone
    losses = losses_between(one, two, [(images, labels)], 3).squeeze(1)
    middle = copy.deepcopy(one)
    middle.load_state_dict(
        {n: (v + two.state_dict()[n]) / 2 if v.is_floating_point() else v for n, v in one.state_dict().items()}
    )
    expected = [float(cross_entropy(net(images), labels)) for net in (one, middle, two)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-4)


def test_recalibration_measures_the_statistics_of_batch_norm(digits):
    images = next(digits.data.evaluation_batches("retain", torch.device("cpu")))[0][:300]
    network = copied(digits.original)
    stem, weights = network.encoder.stem, [p.clone() for p in network.parameters()]
    recalibrate(network, images)
    batches = [stem.conv(network.normalise(part)) for part in images.split(150)]
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variance = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(stem.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stem.bn.running_var, variance, rtol=1e-4, atol=1e-5)
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(p, kept) for p, kept in zip(network.parameters(), weights, strict=True))


def test_recalibration_lowers_the_barrier_between_networks_trained_apart(digits):
    target = digits.make_target(digits.retrain)
    plain, measured = (
        Distance(**FEW, recalibrate=count).evaluate(target).numbers["barrier_original/retained"] for count in (0, 100)
    )
    assert 0 < measured < plain
    same = Distance(**FEW, recalibrate=50).evaluate(digits.make_target(copied(digits.original))).numbers
    assert same["barrier_original/forgotten"] == same["barrier_original/retained"] == 0


def test_no_more_images_than_asked_for_are_measured_and_the_seed_chooses_them(digits, monkeypatch):
    seen, given = [], distance.losses_between
    monkeypatch.setattr(distance, "losses_between", lambda *args: seen.append(args[2]) or given(*args))
    for seed in (0, 1):
        Distance(**FEW, seed=seed).evaluate(beside(digits.make_target(digits.retrain), None))
    assert [[len(labels) for _, labels in sets] for sets in seen] == [[40, 40]] * 2
    assert not torch.equal(seen[0][0][0], seen[1][0][0])
    assert all(bool((labels < 3).all()) for labels in (seen[0][0][1], seen[1][0][1]))


def test_without_retrain_or_with_another_network_it_is_undefined(digits):
    narrow = ResNet8(num_classes=10, in_channels=1, width=8).eval().requires_grad_(False)
    for retrain in (None, digits.make_target(narrow).model):
        seen = attacked(Distance(**FEW), beside(digits.make_target(copied(digits.original)), retrain))
        names = ("retrain_ratio", "barrier_retrain/forgotten", "barrier_retrain/retained")
        undefined = ", ".join(f"representation/distance/{name}" for name in names)
        assert seen.skipped == {"representation/distance": f"undefined: {undefined}"}


def test_another_network_is_left_out_with_the_reason(digits, make_target, vectors, four_splits):
    gated, narrow = copied(digits.original), ResNet8(num_classes=10, in_channels=1, width=8)
    add_gate(gated, [0], 0.1)
    assert misfit(gated, digits.original.backbone) == "it has weights 'gate.factors', which Original has not"
    assert misfit(digits.original.backbone, gated) == "Original has weights 'gate.factors', which it has not"
    seen = attacked(Distance(), digits.make_target(narrow))
    assert "'encoder.stem.conv.weight' are of shape (8, 1, 3, 3)" in seen.skipped["representation/distance"]
    alone = make_target(vectors(nn.Identity(), 5, 4), **four_splits)
    assert "needs the original" in Distance().lacks(alone)


@pytest.mark.parametrize("attack", [Distance(**FEW, recalibrate=50), Grafting()])
def test_in_channels_last_the_numbers_are_the_same_but_for_rounding(digits, attack):
    nets = [digits.original, digits.retrain]
    plain, last = ([EncodedData(copied(net), digits.data, net.device) for net in nets] for _ in range(2))
    for net in last:
        set_memory_format(net.backbone, "channels_last")
    one, two = (
        attack.evaluate(Target(retrain, original, digits.data, 10, retrain)).numbers
        for original, retrain in (plain, last)
    )
    assert two == pytest.approx(one, rel=1e-3, abs=0.01)


def test_half_precision_weights_are_measured_in_single_precision(digits):
    half = copied(digits.original).bfloat16()
    numbers = Distance(**FEW).evaluate(digits.make_target(half)).numbers
    assert 0 < numbers["relative_distance"] < 0.01
    assert numbers["barrier_original/retained"] < 0.01


@pytest.mark.parametrize(("option", "value"), [("points", 2), ("images", 0), ("recalibrate", -1), ("recalibrate", 1)])
def test_options_out_of_range(option, value):
    with pytest.raises(UsageError, match=f"{option} is {value}"):
        Distance(**{option: value})
