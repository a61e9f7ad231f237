import copy
import statistics
import weakref
from pathlib import Path

import pytest
import relearn_jobs
import torch
from attacked import attacked
from processes import together
from relearn_jobs import QUICK
from torch import nn
from torch.nn.functional import cross_entropy

from lit_unlearn.attacks import AdaptiveRelearn, Relearn, fine_tuning
from lit_unlearn.attacks.fine_tuning import EvalSubset, Measured, UnitHead, balanced, cycled
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.gate import add_gate
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.data import Digits, ForgetSpec, UnlearnDataModule
from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.evaluation import SplitAccuracy

CPU = torch.device("cpu")


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def forgetful(vectors, classes=(0, 1)):
    """A network that keeps its features and never names some classes."""
    net = vectors(layer := nn.Linear(5, 5), 5, 4, seed=2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(5))
        layer.bias.zero_()
        net.head.bias[list(classes)] -= 6
    return net


@pytest.mark.parametrize("count", [1, 4, 7, 12, 50])
def test_the_held_samples_are_spread_over_the_classes(count):
    labels = torch.tensor([3] * 20 + [5] * 6 + [8] * 20)[torch.randperm(46, generator=draw())]
    held = balanced(labels, count, draw(1))
    assert len(held.unique()) == len(held) == min(count, 23)
    counts = [int((labels[held] == label).sum()) for label in (3, 5, 8)]
    most = max(counts)
    assert all(found >= min(most - 1, there) for found, there in zip(counts, (20, 6, 20), strict=True))
    assert torch.equal(held, balanced(labels, count, draw(1)))


def test_beside_the_network_in_training_only_the_best_is_kept(make_target, vectors, four_splits, monkeypatch):
    copies, living = [], []
    copy_of, measure = Relearn._copy, EvalSubset.measure

    def copied(*given):
        copies.append(weakref.ref(network := copy_of(*given)))
        return network

    def measured(*given):
        living.append(sum(each() is not None for each in copies))
        return measure(*given)

    monkeypatch.setattr(Relearn, "_copy", copied)
    monkeypatch.setattr(EvalSubset, "measure", measured)
    Relearn(samples=4, steps=2, learning_rates=[0.1, 0.01, 0.001]).evaluate(
        make_target(forgetful(vectors), **four_splits)
    )
    assert len(copies) >= 7
    assert max(living) == 2


def test_one_image_to_forget_is_left_to_be_measured():
    assert len(balanced(torch.tensor([3]), 30, draw())) == 0


def test_every_sample_comes_once_before_any_comes_twice():
    drawn = cycled(5, 13, draw())
    assert len(drawn) == 13
    assert [sorted(part.tolist()) for part in drawn.split(5)[:2]] == [[0, 1, 2, 3, 4]] * 2
    assert drawn[:5].tolist() != drawn[5:10].tolist()
    assert len(cycled(0, 0, draw())) == 0


def test_a_fresh_head_knows_nothing_and_does_not_see_lengths():
    head, features = UnitHead(5, 4), torch.randn(3, 5, generator=draw())
    assert not head(features).any()
    nn.init.normal_(head.linear.weight, generator=draw())
    expected = features / features.norm(dim=1, keepdim=True) * 5**0.5 @ head.linear.weight.T
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(1e-5 * features), head(features))
    assert not head(torch.zeros(1, 5)).any()


def test_of_classes_what_is_got_is_the_lower_accuracy_of_single_images_the_lead(vectors):
    net = vectors(nn.Identity(), 2, 2)
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(2))
        net.head.bias.zero_()
    points = torch.eye(2)
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 1])
    all_right, half_right = (points, right), (points, wrong)
    for decisive, images, useful, got in (
        ("test_forget", [all_right, half_right], 0.5, 0.5),
        ("test_forget", [half_right, all_right], 0.5, 0.5),
        ("forget", [all_right, half_right], 0.5, 0.5),
        ("forget", [half_right, all_right], 0.5, -0.5),
        ("forget", [all_right, all_right], 1, 0),
        ("forget", [half_right], 0.5, 0.5),
        ("forget", [all_right, half_right, all_right], 0.5, 0),
    ):
        sets = dict(zip((decisive, "test_retain", "test_matched"), images, strict=False))
        found = EvalSubset(decisive, sets, dict.fromkeys(sets, 2)).measure(net)
        assert (found.useful, found.got) == (useful, got)


@pytest.mark.parametrize("whole_classes", [True, False])
@pytest.mark.parametrize("make", [Relearn, AdaptiveRelearn])
def test_the_run_counts_that_gets_most(make_target, vectors, four_splits, monkeypatch, make, whole_classes):
    """The rate of .1 has the higher useful accuracy, that of .01 the larger lead of forget images over unseen ones."""
    if not whole_classes:
        del four_splits["test_forget"]
    measured = {0.1: (0.8, 0.7), 0.01: (0.9, 0.4)}  # of forgotten and of unseen images

    def train(self, network, optimizer, batches, eval_subset, ticks):
        (group,) = optimizer.param_groups
        for _ in ticks[1:]:
            sides = zip((eval_subset.decisive, "test_retain"), measured[group["lr"]], strict=True)
            yield Measured(eval_subset.decisive, dict(sides))

    monkeypatch.setattr(Relearn, "_train", train)
    options = {"learning_rates": list(measured), "heads": ["kept"], "steps": 100}
    found = make(**options).evaluate(make_target(forgetful(vectors), **four_splits)).numbers
    assert found["learning_rate"] == (0.1 if whole_classes else 0.01)
    assert found["after_100"] == (0.7 if whole_classes else 0.4)
    assert found["auc"] == pytest.approx(found["after_100"], abs=0.02)
    means = {name: value for name, value in found.items() if name.startswith("mean_")}
    expected = {} if whole_classes else {"mean_forget_acc": 0.9, "mean_test_retain_acc": 0.4}
    assert means == pytest.approx(expected, abs=0.02)
    assert ("unseen" in found) == (not whole_classes)


@pytest.mark.parametrize("make", [Relearn, AdaptiveRelearn])
def test_the_lead_of_single_images_of_few_classes_is_over_unseen_ones_of_these(make_target, vectors, four_splits, make):
    alike = four_splits.pop("test_forget")
    options = {"learning_rates": [0.01], "heads": ["kept"], "steps": 100, "measured": 2}
    numbers = make(**options).evaluate(make_target(forgetful(vectors), **four_splits, test_matched=alike)).numbers
    assert {"mean_forget_acc", "mean_test_matched_acc", "test_matched_acc"} <= set(numbers)
    assert "mean_test_retain_acc" not in numbers
    assert (numbers["images"], numbers["unseen"]) == (2, 6)


@pytest.mark.parametrize("make", [Relearn, AdaptiveRelearn])
def test_of_single_images_a_run_that_breaks_on_its_way_does_not_count(
    make_target, vectors, four_splits, monkeypatch, make
):
    """The rate of .3 leads for a moment, and its end shows no lead, since it broke the network."""
    del four_splits["test_forget"]
    courses = {0.3: [0.0, 0.0, 0.8] + 98 * [0.0], 0.01: 101 * [0.5]}

    def train(self, network, optimizer, batches, eval_subset, ticks):
        (group,) = optimizer.param_groups
        for lead in courses[group["lr"]][: len(ticks) - 1]:
            yield Measured("forget", {"forget": 0.1 + lead, "test_retain": 0.1})

    monkeypatch.setattr(Relearn, "_train", train)
    options = {"learning_rates": list(courses), "heads": ["kept"], "steps": 100}
    found = make(**options).evaluate(make_target(forgetful(vectors), **four_splits)).numbers
    assert found["learning_rate"] == 0.01
    assert found["mean_forget_acc"] - found["mean_test_retain_acc"] == pytest.approx(0.5, abs=0.02)


def test_whoever_calls_everything_forgotten_relearnt_nothing(make_target, vectors, four_splits):
    only = {name: (x[y != 1], y[y != 1]) for name, (x, y) in four_splits.items()}
    found = (
        Relearn(**QUICK | {"retain_share": 0, "learning_rates": [1.0]})
        .evaluate(make_target(forgetful(vectors, [0]), **only))
        .numbers
    )
    assert found["test_forget_acc"] == 1
    assert found["auc"] < 0.1
    assert found["steps_above"] == 6


def test_it_is_gradient_descent_on_the_held_and_the_retained(make_target, vectors, four_splits):
    """With each sample once in every batch the order is of no account, and a plain loop says what must come out."""
    net, steps, rate = vectors(nn.Linear(5, 5), 5, 4, seed=2), 30, 0.2
    held = balanced(four_splits["forget"][1], 10, draw())
    x = torch.cat([four_splits["forget"][0][held], four_splits["retain"][0]])
    y = torch.cat([four_splits["forget"][1][held], four_splits["retain"][1]])
    plain = copy.deepcopy(net).double()
    momentum = [torch.zeros_like(p) for p in plain.parameters()]
    for step in range(steps):
        loss = cross_entropy(plain(x.double()), y)
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        falling = rate * (1 - (1 - 1 / steps) * step / steps)
        with torch.no_grad():
            for p, m, g in zip(plain.parameters(), momentum, gradients, strict=True):
                m.mul_(0.9).add_(g)
                p.sub_(falling * m)
    found = (
        Relearn(
            samples=10,
            steps=steps,
            batch_size=len(y),
            retain_share=40 / len(y),
            learning_rates=[rate],
            heads=["kept"],
        )
        .evaluate(make_target(net, **four_splits))
        .numbers
    )

    def accuracy(name, kept=slice(None)):
        points, labels = (tensor[kept] for tensor in four_splits[name])
        return float((plain(points.double()).argmax(1) == labels).double().mean())

    left = [position for position in range(30) if position not in held.tolist()]
    assert found["forget_acc"] == accuracy("forget", left)
    assert found["test_forget_acc"] == accuracy("test_forget")
    assert found["test_retain_acc"] == accuracy("test_retain")
    assert found["samples"] == 10
    assert found["after_30"] > found["after_0"] + 0.1  # that is, something was learnt


@pytest.mark.parametrize("whole_classes", [True, False])
def test_the_curve_ends_where_the_accuracies_are(make_target, vectors, four_splits, whole_classes):
    if not whole_classes:
        del four_splits["test_forget"]
    found = Relearn(**QUICK).evaluate(make_target(forgetful(vectors), **four_splits)).numbers
    forgotten = found["test_forget_acc" if whole_classes else "forget_acc"]
    assert found["after_6"] == min(forgotten, found["test_retain_acc"])
    assert found["after_0"] == 0
    assert [name for name in found if name.startswith("after")] == ["after_0", "after_2", "after_4", "after_6"]
    ends = (found["after_0"] + found["after_6"]) / 2
    assert found["auc"] == pytest.approx((ends + found["after_2"] + found["after_4"]) / 3)
    assert ("test_forget_acc" in found) == whole_classes


def test_the_measured_samples_are_no_more_than_asked_for(make_target, vectors, four_splits):
    found = Relearn(**QUICK, measured=2).evaluate(make_target(forgetful(vectors), **four_splits)).numbers
    assert all(value in (0, 0.5, 1) for name, value in found.items() if name.startswith("after"))
    assert found["images"] == 2


def test_the_end_is_measured_on_a_bounded_number_of_samples(make_target, vectors, four_splits, monkeypatch):
    seen, target = [], make_target(forgetful(vectors), **four_splits)

    class Counted(SplitAccuracy):
        def update(self, logits, labels):
            seen.append(len(labels))
            super().update(logits, labels)

    def ends(most):
        monkeypatch.setattr(fine_tuning, "AT_END", most)
        seen.clear()
        found = Relearn(**QUICK, measured=1).evaluate(target).numbers
        return {name: found[name] for name in ("forget_acc", "test_forget_acc", "test_retain_acc")}, sum(seen)

    monkeypatch.setattr(fine_tuning, "SplitAccuracy", Counted)
    sizes = [len(four_splits[split][1]) for split in ("forget", "test_forget", "test_retain")]
    whole, images = ends(10_000)
    few, fewer = ends(3)
    assert images - fewer == sum(sizes) - QUICK["samples"] - 3 * 3
    assert ends(3)[0] == few
    assert all(round(3 * value, 6) in (0, 1, 2, 3) for value in few.values())
    assert ends(max(sizes))[0] == whole


def test_a_learning_rate_of_zero_changes_nothing(make_target, vectors, four_splits):
    net = vectors(nn.Linear(5, 5), 5, 4)
    target = make_target(net, **four_splits)
    found = Relearn(**QUICK | {"learning_rates": [0.0], "heads": ["kept"]}).evaluate(target).numbers
    as_is = target.accuracies(lambda batch: batch.logits)
    assert found["test_forget_acc"] == as_is["test_forget_acc"]
    assert found["test_retain_acc"] == as_is["test_retain_acc"]
    assert {value for name, value in found.items() if name.startswith("after")} == {found["after_0"]}


def test_steps_are_counted_against_the_original(make_target, vectors, four_splits):
    four_splits = {name: (x + 4 * torch.eye(4, 5)[y], y) for name, (x, y) in four_splits.items()}
    original = vectors(nn.Linear(5, 5), 5, 4, seed=2)
    attack = Relearn(**QUICK | {"learning_rates": [1.0]})
    exact = attack.evaluate(make_target(forgetful(vectors), forgetful(vectors), **four_splits)).numbers
    assert exact["steps"] != exact["steps"]  # nothing to come back to: undefined
    taught = copy.deepcopy(original)
    optimizer = torch.optim.SGD(taught.parameters(), 0.3)
    x, y = (torch.cat([four_splits[name][i] for name in four_splits]) for i in (0, 1))
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(taught(x), y).backward()
        optimizer.step()
    assert attack.evaluate(make_target(taught, taught, **four_splits)).numbers["steps"] == 0
    shallow = copy.deepcopy(taught)
    with torch.no_grad():
        shallow.head.bias[:2] -= 6
    level = make_target(taught, **four_splits).accuracies(lambda batch: batch.logits)
    level = min(level["test_forget_acc"], level["test_retain_acc"])
    one = QUICK | {"samples": 15, "batch_size": 32, "learning_rates": [0.05], "steps": 30, "heads": ["kept"]}
    found = Relearn(**one).evaluate(make_target(shallow, taught, **four_splits)).numbers
    first = next(n for n in range(0, 31, 2) if found[f"after_{n}"] >= 0.9 * level)
    assert found["steps"] == first > 0
    assert "steps_above" not in found


def test_what_does_not_come_back_is_said_to_take_more_steps(make_target, vectors, four_splits):
    attack = Relearn(**QUICK | {"learning_rates": [1e-6], "heads": ["kept"]})
    seen = attacked(attack, make_target(forgetful(vectors), **four_splits))
    assert seen.attacks["relearn/few/steps_above"] == 6
    assert "relearn/few/steps" not in seen.attacks
    assert not seen.skipped


def test_the_best_run_counts_and_is_named(make_target, vectors, four_splits):
    target = make_target(forgetful(vectors), **four_splits)
    alone = {
        (rate, head): Relearn(**QUICK | {"learning_rates": [rate], "heads": [head]}).evaluate(target).numbers
        for rate in (0.01, 0.3)
        for head in ("kept", "fresh")
    }
    found = Relearn(**QUICK).evaluate(target).numbers
    (rate, head), best = max(alone.items(), key=lambda item: item[1]["auc"])
    assert (found["learning_rate"], found["fresh_head"]) == (rate, head == "fresh")
    assert found == best


def test_from_retained_samples_alone(make_target, vectors, four_splits):
    # One way, since all get nothing: the first of several would be told, which may have learnt little.
    one = QUICK | {"samples": 0, "learning_rates": [0.1], "heads": ["fresh"]}
    found = Relearn(**one).evaluate(make_target(forgetful(vectors), **four_splits)).numbers
    assert found["samples"] == found["test_forget_acc"] == found["auc"] == 0
    assert found["test_retain_acc"] >= 0.7  # two classes out of two that are clusters


def test_a_learning_rate_that_is_far_too_high_is_no_crash(make_target, vectors, four_splits):
    found = (
        Relearn(**QUICK | {"learning_rates": [1e30]}).evaluate(make_target(forgetful(vectors), **four_splits)).numbers
    )
    assert found["auc"] == 0


def test_it_leaves_no_trace_and_is_a_function_of_its_seed(make_backbone, make_data):
    net, original = (make_backbone(seed).eval().requires_grad_(False) for seed in (4, None))
    before = [copy.deepcopy(network.state_dict()) for network in (net, original)]
    data = make_data()
    target = Target(EncodedData(net, data, CPU), EncodedData(original, data, CPU), data, 4)
    quick = QUICK | {"steps": 2, "measured": 12}
    found = [Relearn(**quick, seed=seed).evaluate(target).numbers for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for backbone, state in zip((net, original), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
        assert not any(module.training for module in backbone.modules())


@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_that_are_integers_do_not_learn(make_target, vectors, four_splits, frozen):
    net = vectors(nn.Identity(), 5, 4)
    net.encoder.places = nn.Parameter(torch.arange(3), requires_grad=False)
    found = []
    for network in (net, vectors(nn.Identity(), 5, 4)):
        attack = Relearn(**QUICK | {"steps": 2}, freeze_encoder=frozen)
        found.append(attack.evaluate(make_target(network, **four_splits)).numbers)
    assert found[0] == found[1]


def test_a_frozen_encoder_keeps_its_statistics(make_backbone, make_data, monkeypatch):
    net, data = make_backbone().eval().requires_grad_(False), make_data()
    trained = []
    measure = EvalSubset.measure
    monkeypatch.setattr(EvalSubset, "measure", lambda own, network: trained.append(network) or measure(own, network))
    for frozen in (True, False):
        target = Target(EncodedData(net, data, CPU), None, data, 4)
        Relearn(**QUICK | {"steps": 1, "learning_rates": [0.1], "heads": ["kept"]}, freeze_encoder=frozen).evaluate(
            target
        )
        state, same = trained[-1].encoder.state_dict(), net.encoder.state_dict()
        assert all(torch.equal(state[name], same[name]) for name in state) == frozen
        assert not torch.equal(trained[-1].head.weight, net.head.weight)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"samples": -1}, "samples is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"every": 0}, "every is 0"),
        ({"measured": 0}, "measured is 0"),
        ({"retain_share": 1.5}, "retain_share is 1.5"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"recovered": 0.0}, "recovered is 0.0"),
        ({"learning_rates": []}, r"learning_rates are \[\]"),
        ({"learning_rates": [0.1, float("nan")]}, r"learning_rates are \[0.1, nan\]"),
        ({"heads": ["fersh"]}, "unknown head 'fersh'; did you mean 'fresh'.*allowed: fresh, kept"),
        ({"heads": []}, "unknown head 'none'"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UsageError, match=message):
        Relearn(**option)


def digits(weights):
    network = ResNet8(num_classes=10, in_channels=1)
    load_weights(network, weights)
    return network.eval().requires_grad_(False)


def test_the_controls_on_digits_relearn_faster_than_retrain():
    data = UnlearnDataModule(Digits(), ForgetSpec(classes=[0, 1, 2]))
    original = EncodedData(digits("digits_resnet8"), data, CPU)
    head_only, rescale = digits("digits_resnet8"), digits("digits_resnet8")
    head_only.head.bias[:3] -= 30
    add_gate(rescale, [0, 1, 2], 1e-5)
    nets = {
        "retrain": digits("digits_resnet8_retrain_classes_0_1_2"),
        "head only": head_only,
        "rescale": rescale.eval().requires_grad_(False),
    }
    found = {
        name: Relearn(learning_rates=[0.1], heads=["fresh"], steps=16)
        .evaluate(Target(EncodedData(net, data, CPU), original, data, 10))
        .numbers
        for name, net in nets.items()
    }
    steps = {name: numbers.get("steps", numbers.get("steps_above", 0) + 1) for name, numbers in found.items()}
    for name in ("head only", "rescale"):
        assert found[name]["after_0"] <= 0.02
        assert steps[name] <= 8 < steps["retrain"]
        assert found[name]["test_forget_acc"] >= 0.95
        assert found[name]["auc"] > found["retrain"]["auc"] + 0.05


@pytest.mark.parametrize("name", ["whole classes", "share"])
def test_two_processes_find_what_one_finds(vectors, four_splits, tmp_path: Path, name):
    if name == "share":
        del four_splits["test_forget"]
    torch.save(four_splits, tmp_path / relearn_jobs.SPLITS)
    torch.save(forgetful(vectors).state_dict(), tmp_path / relearn_jobs.WEIGHTS)
    (alone,) = together(relearn_jobs.relearned, tmp_path, 1)
    assert together(relearn_jobs.relearned, tmp_path, 2) == [alone, alone]


def test_several_repeats_are_averaged_and_show_their_deviation(make_target, vectors, four_splits):
    target = make_target(forgetful(vectors), **four_splits)
    alone = [Relearn(**QUICK, seed=seed).evaluate(target).numbers for seed in (3, 4, 5)]
    found = Relearn(**QUICK, seed=3, repeats=3).evaluate(target).numbers
    aucs = [numbers["auc"] for numbers in alone]
    assert len(set(aucs)) > 1
    assert found["auc"] == pytest.approx(sum(aucs) / 3)
    assert found["auc_std"] == pytest.approx(statistics.stdev(aucs))
    assert found["test_forget_acc"] == pytest.approx(sum(numbers["test_forget_acc"] for numbers in alone) / 3)
    strongest = max(alone, key=lambda numbers: numbers["auc"])
    assert found["learning_rate"] == strongest["learning_rate"]
    assert ("steps" in found) == all("steps" in numbers for numbers in alone)
    assert "auc_std" not in alone[0]
    with pytest.raises(UsageError, match="repeats is 0"):
        Relearn(repeats=0)
