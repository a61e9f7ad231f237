import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lit_unlearn.attacks import AdaptiveRelearn, Relearn, adaptive_relearn, relearn
from lit_unlearn.attacks.adaptive_relearn import _draw_anew
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.errors import UsageError

CPU = torch.device("cpu")
QUICK = {"share": 0.4, "steps": 100, "batch_size": 8, "resets": [0], "measured": 20}


def forgetful(vectors):
    """A network that keeps its features and never names two classes."""
    net = vectors(nn.Linear(5, 5), 5, 4, seed=2)
    with torch.no_grad():
        net.head.bias[:2] -= 6
    return net


def test_with_one_way_it_is_relearning_with_this_share(make_target, vectors, four_splits):
    target = make_target(forgetful(vectors), **four_splits)
    one = {"learning_rates": [0.1], "heads": ["kept"]}
    found = AdaptiveRelearn(**QUICK, **one).evaluate(target).numbers
    same = Relearn(samples=12, steps=100, batch_size=8, measured=20, every=1, **one).evaluate(target).numbers
    assert {name: value for name, value in found.items() if name.startswith("after")} == {
        f"after_{tick}": same[f"after_{tick}"] for tick in (0, 1, 2, 4, 10, 20, 50, 100)
    }
    for name in ("test_forget_acc", "test_retain_acc", "forget_acc", "samples", "images"):
        assert found[name] == same[name]
    points = [(math.log(tick), found[f"after_{tick}"]) for tick in (1, 2, 4, 10, 20, 50, 100)]
    area = sum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(points))
    assert found["auc"] == pytest.approx(area / math.log(100))


def test_the_best_quarter_goes_on_and_then_the_best(make_target, vectors, four_splits, monkeypatch):
    steps = []
    monkeypatch.setattr(relearn, "cross_entropy", lambda z, y: steps.append(1) or cross_entropy(z, y))
    rates = [1e-9, 1e-8, 1e-7, 0.3]
    attack = AdaptiveRelearn(**QUICK, learning_rates=rates)
    found = attack.evaluate(make_target(forgetful(vectors), **four_splits)).numbers
    assert len(steps) == 8 * 4 + 2 * 16 + 80
    assert (found["learning_rate"], found["reset"]) == (0.3, 0)
    assert found["auc"] > 0.3


def test_one_way_is_on_the_device_at_a_time_and_the_others_wait_on_the_cpu(
    make_target, vectors, four_splits, monkeypatch
):
    given, where, momenta = adaptive_relearn._move, {}, set()

    def move(way, device):
        given(way, device)
        where[id(way.network)] = device
        momenta.update(name for state in way.optimizer.state.values() for name in state)
        assert list(where.values()).count(computes) <= 1

    monkeypatch.setattr(adaptive_relearn, "_move", move)
    made = make_target(forgetful(vectors), **four_splits)
    computes = torch.device("cpu", 0)
    target = Target(EncodedData(made.model.backbone, made.data, computes), None, made.data, made.num_classes)
    found = AdaptiveRelearn(**QUICK, learning_rates=[0.01, 0.1]).evaluate(target).numbers
    assert (len(where), momenta) == (4, {"momentum_buffer"})
    assert found == AdaptiveRelearn(**QUICK, learning_rates=[0.01, 0.1]).evaluate(made).numbers


def test_the_last_stages_are_drawn_anew_alike_and_the_others_stay(make_backbone):
    one, other, start = make_backbone(), make_backbone(), make_backbone()
    for network in (one, other):
        _draw_anew(network, 1, seed=3)
    assert len(start.stages) > 1
    for name in start.stages:
        last = name == start.stages[-1]
        changed = [
            not torch.equal(value, start.stage(name).state_dict()[key])
            for key, value in one.stage(name).state_dict().items()
            if key.endswith("weight") and value.dim() > 1
        ]
        assert all(changed) == any(changed) == last
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    _draw_anew(one, 99, seed=3)  # all of them


def test_a_damaged_last_stage_is_relearnt_by_drawing_it_anew(make_backbone, make_data):
    """Weights that no rate moves: only who draws them anew gets anywhere."""
    network, data = make_backbone(), make_data()
    with torch.no_grad():
        for parameter in network.stage(network.stages[-1]).parameters():
            parameter.fill_(float("nan"))
    target = Target(EncodedData(network.eval().requires_grad_(False), data, CPU), None, data, 4)
    quick = QUICK | {"resets": [0, 1], "learning_rates": [0.05], "heads": ["fresh"], "batch_size": 12}
    found = AdaptiveRelearn(**quick).evaluate(target).numbers
    assert found["reset"] == 1


def test_options_out_of_range_are_refused_and_without_stages_nothing_is_drawn_anew(make_target, vectors, four_splits):
    for wrong, said in (
        ({"share": 0.6}, "share is 0.6, but must be at most 0.5"),
        ({"steps": 99}, "steps is 99"),
        ({"resets": []}, r"resets are \[\]"),
        ({"resets": [-1]}, r"resets are \[-1\]"),
        ({"learning_rates": []}, r"learning_rates are \[\]"),
    ):
        with pytest.raises(UsageError, match=said):
            AdaptiveRelearn(**wrong)
    found = AdaptiveRelearn(**QUICK | {"resets": [1]}).evaluate(make_target(forgetful(vectors), **four_splits))
    assert found.numbers["reset"] == 0
