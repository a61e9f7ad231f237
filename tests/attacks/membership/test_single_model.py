"""Membership attacks on a network that memorised noisy labels of digits, and on one that never saw the forget set."""

import math

import numpy as np
import pytest
import torch
from attacked import Keeps, attacked
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import nn

from lit_unlearn.attacks import Evaluation, SVCEfficacy, Target, ThresholdMembership
from lit_unlearn.attacks.membership import MembershipAttack
from lit_unlearn.attacks.membership.signals import SIGNALS, Scores, class_balanced, held_out_attack
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.data import Digits
from lit_unlearn.errors import UsageError
from lit_unlearn.methods import FineTune, Pretrain
from lit_unlearn.reports.report import Report

TRAINED = 400
SCORES = list(SIGNALS)


@pytest.fixture(scope="module")
def noisy_digits():
    """Digits in random order, half of them with a random label."""
    draw = torch.Generator().manual_seed(0)
    pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=draw)
    chance = torch.randint(0, 10, labels.shape, generator=draw)
    labels = torch.where(torch.rand(len(labels), generator=draw) < 0.5, chance, labels)
    return (pixels / 16).float()[order], labels[order]


@pytest.fixture(scope="module")
def weights_by_heart(noisy_digits):
    """Of a network that knows the labels of the first 400 digits by heart."""
    images, labels = (part[:TRAINED] for part in noisy_digits)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    return [parameter.detach() for parameter in network.parameters()]


@pytest.fixture
def memorised(vectors, weights_by_heart):
    network = vectors(nn.Sequential(nn.Linear(64, 256), nn.ReLU()), 256, 10)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), weights_by_heart, strict=True):
            parameter.copy_(value)
    return network


def parts(digits, forget, test="test_retain"):
    """Splits of the noisy digits of which ``forget`` is a slice; all beyond 800 are unseen."""
    images, labels = digits
    ranges = {"forget": forget, "retain": slice(200, TRAINED), test: slice(800, None)}
    return {name: (images[part], labels[part]) for name, part in ranges.items()}


@pytest.mark.parametrize("score", SCORES)
def test_what_was_learnt_by_heart_is_found_and_what_was_not_is_not(make_target, memorised, noisy_digits, score):
    attack = ThresholdMembership(score)
    seen = attack.evaluate(make_target(memorised, **parts(noisy_digits, slice(0, 200)))).numbers
    fresh = attack.evaluate(make_target(memorised, **parts(noisy_digits, slice(400, 800)))).numbers
    assert seen["direction"] == 1
    if score == "entropy":  # without the label a wrong answer looks as sure as a right one
        assert seen["auc"] > 0.6
    else:
        assert seen["auc"] > 0.8
        assert seen["balanced_accuracy"] > 0.7
        assert seen["tpr_at_1pct"] > 0
    assert math.isnan(seen["tpr_at_0.1pct"])  # fewer than 1,000 unseen samples
    noise = math.sqrt((1 / 200 + 1 / 300) / 12)
    assert abs(fresh["auc"] - 0.5) < 3 * noise
    assert abs(fresh["balanced_accuracy"] - 0.5) < 3 * noise


def test_answers_that_are_worse_than_on_unseen_images_give_the_forget_set_away_too(
    make_target, memorised, noisy_digits
):
    splits = parts(noisy_digits, slice(0, 200))
    with torch.no_grad():
        memorised.head.weight.mul_(-1)
        memorised.head.bias.mul_(-1)
    found = ThresholdMembership("margin").evaluate(make_target(memorised, **splits)).numbers
    assert found["direction"] == -1
    assert found["auc"] > 0.8


def test_halves_and_classes_by_hand(make_target, vectors):
    """Unseen images of a class that was not forgotten would be told apart by their class; they are not used."""
    x = torch.tensor([[9.0, 0, 0], [8, 0, 0], [7, 0, 0], [6, 0, 0]])
    unseen = torch.tensor([[5.0, 0, 0], [4, 0, 0], [8.5, 0, 0], [7.5, 0, 0], [0, 0, 99], [0, 0, 99]])
    network = vectors(nn.Identity(), 3, 3)
    with torch.no_grad():
        network.head.weight.copy_(torch.eye(3))
        network.head.bias.zero_()
    labels = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 0, 0, 2, 2])
    splits = {"forget": (x, labels[0]), "retain": (x, labels[0]), "test_retain": (unseen, labels[1])}
    # Even positions: 9, 7 against 5, 8.5; odd ones: 8, 6 against 4, 7.5.
    even, odd = Scores(x[[0, 2], 0], unseen[[0, 2], 0]), Scores(x[[1, 3], 0], unseen[[1, 3], 0])
    for score in ("margin", "loss", "confidence"):
        found = ThresholdMembership(score).evaluate(make_target(network, **splits)).numbers
        assert {k: v for k, v in found.items() if v == v} == {
            k: v for k, v in held_out_attack(even, odd).items() if v == v
        }
    assert found["auc"] == 0.75


def test_whole_classes_are_compared_with_their_own_test_images(make_target, nets_of_four, four_splits):
    found = ThresholdMembership().evaluate(make_target(nets_of_four, **four_splits)).numbers
    retained = four_splits["test_retain"]
    changed = {**four_splits, "test_retain": (retained[0] * 50, retained[1])}
    assert ThresholdMembership().evaluate(make_target(nets_of_four, **changed)).numbers == pytest.approx(
        found, nan_ok=True
    )
    assert 0 <= found["auc"] <= 1


@pytest.fixture
def nets_of_four(vectors):
    torch.manual_seed(1)
    return vectors(nn.Sequential(nn.Linear(5, 6), nn.ReLU()), 6, 4, seed=1)


def probabilities(network, samples):
    with torch.no_grad():
        return network.head(network.features(samples[0])).softmax(1), samples[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_efficacy_is_scikit_learns_machine_on_confidences(make_target, nets_of_four, four_splits, seed):
    p = {}
    for name, samples in four_splits.items():
        given, labels = probabilities(nets_of_four, samples)
        p[name] = given.double().gather(1, labels[:, None]).numpy()
    draw = torch.Generator().manual_seed(seed)
    torch.randperm(20, generator=draw)
    members = p["retain"][class_balanced(four_splits["retain"][1], 20, draw)]
    assert len(members) == len(p["test_retain"]) == 20
    machine = SVC(C=3, gamma="auto").fit(np.concatenate([p["test_retain"], members]), [0] * 20 + [1] * 20)
    expected = 1 - machine.predict(p["forget"]).mean()
    assert 0 < expected < 1
    found = SVCEfficacy(seed=seed).evaluate(make_target(nets_of_four, **four_splits)).numbers
    assert found == {"efficacy": pytest.approx(expected, abs=1e-12)}


def test_members_are_balanced_and_few_samples_can_be_asked_for(make_target, nets_of_four, four_splits, monkeypatch):
    used = []
    monkeypatch.setattr(
        "lit_unlearn.attacks.membership.single_model.svc_non_member_share", lambda *x: used.append(x) or 0.5
    )
    images, labels = four_splits["retain"]
    skewed = torch.cat([(labels == 2).nonzero().flatten(), (labels == 3).nonzero().flatten()[:7]])
    splits = {**four_splits, "retain": (images[skewed], labels[skewed])}
    for limit, sizes in ((None, (20, 20, 30)), (8, (8, 8, 30)), (1000, (20, 20, 30))):
        assert SVCEfficacy(max_samples=limit).evaluate(make_target(nets_of_four, **splits)).numbers == {"efficacy": 0.5}
        assert tuple(len(side) for side in used[-1]) == sizes
    few = {**splits, "retain": tuple(part[::2] for part in splits["retain"])}
    for legacy in (False, True):
        SVCEfficacy(legacy=legacy).evaluate(make_target(nets_of_four, **few))
        assert tuple(len(side) for side in used[-1]) == (len(skewed[::2]), len(skewed[::2]), 30)
    confidence = SIGNALS["confidence"]
    with torch.no_grad():
        every = confidence(nets_of_four.head(nets_of_four.features(splits["retain"][0])), splits["retain"][1])
    taken = (every[:, None] - used[0][0]).abs().min(1).values < 1e-6
    assert splits["retain"][1][taken].bincount().tolist() == [0, 0, 13, 7]


def test_legacy_is_the_published_definition(make_target, nets_of_four, four_splits):
    by_class = four_splits["retain"][1].argsort(stable=True)
    four_splits["retain"] = tuple(part[by_class] for part in four_splits["retain"])
    sides = {name: probabilities(nets_of_four, four_splits[name]) for name in ("retain", "test_retain", "forget")}
    sides["retain"] = tuple(part[:20] for part in sides["retain"])  # the first, whatever their classes

    def column(p, labels, signal):
        row, own = np.arange(len(labels)), labels.numpy()
        p = p.numpy().astype(np.float64)
        swapped = np.where(np.isin(np.arange(4), own), 1 - p, p)
        return {
            "correctness": (p.argmax(1) == own).astype(float),
            "confidence": p[row, own],
            "entropy": -(p * np.log(p)).sum(1),
            "m_entropy": -(swapped * np.log(p)).sum(1),
            "prob": p,
        }[signal].reshape(len(own), -1)

    found = SVCEfficacy(legacy=True).evaluate(make_target(nets_of_four, **four_splits)).numbers
    assert list(found) == ["correctness", "confidence", "entropy", "m_entropy", "prob"]
    for signal, value in found.items():
        members, others, forget = (column(*side, signal) for side in sides.values())
        machine = SVC(C=3, kernel="rbf", gamma="auto").fit(np.concatenate([members, others]), [1] * 20 + [0] * 20)
        assert value == pytest.approx(1 - machine.predict(forget).mean(), abs=1e-12), signal
    ours = SVCEfficacy().evaluate(make_target(nets_of_four, **four_splits)).numbers
    assert ours["efficacy"] not in (found["confidence"], found["m_entropy"])


def test_legacy_takes_what_there_is_of_a_small_training_set(make_target, nets_of_four, four_splits):
    images, labels = four_splits["retain"]
    splits = {**four_splits, "retain": (images[:6], labels[:6])}
    assert all(
        0 <= value <= 1
        for value in SVCEfficacy(legacy=True).evaluate(make_target(nets_of_four, **splits)).numbers.values()
    )


@pytest.mark.parametrize(
    ("attack", "gone", "reason"),
    [
        (ThresholdMembership(), ["forget"], "it needs samples in forget"),
        (ThresholdMembership(), ["test_forget", "test_retain"], "it needs samples in test_retain"),
        (SVCEfficacy(), ["retain", "test_retain"], "it needs samples in retain and test_retain"),
    ],
)
def test_without_its_samples_an_attack_is_left_out(make_target, nets_of_four, four_splits, attack, gone, reason):
    target = make_target(nets_of_four, **{name: split for name, split in four_splits.items() if name not in gone})
    seen = attacked(attack, target)
    assert seen.skipped == {attack.title: reason}
    assert seen.attacks == {}


def test_a_class_without_unseen_images_leaves_the_numbers_undefined(make_target, nets_of_four, four_splits):
    del four_splits["test_forget"]  # classes 0 and 1, of which the rest of the test set has none
    attack = ThresholdMembership()
    seen = attacked(attack, make_target(nets_of_four, **four_splits))
    assert seen.attacks == {}
    assert "membership/margin/auc" in seen.skipped[attack.title]


def test_options_out_of_range():
    with pytest.raises(UsageError, match=r"unknown membership score 'margins'; did you mean 'margin'.*allowed: conf"):
        ThresholdMembership("margins")
    for limit in (0, -3):
        with pytest.raises(UsageError, match=f"max_samples is {limit}"):
            SVCEfficacy(max_samples=limit)


def test_each_score_has_a_name_of_its_own():
    titles = [ThresholdMembership(score).title for score in SCORES] + [SVCEfficacy().title]
    assert titles == [f"membership/{score}" for score in SCORES] + ["membership/svc"]
    assert ThresholdMembership("loss", name="mine").title == "membership/mine"
    assert issubclass(SVCEfficacy, MembershipAttack)


def test_original_and_unlearned_are_attacked_alike_and_twice_the_same(make_backbone, make_data, fit):
    rows = []
    for _ in range(2):
        report = Report(page=False)
        suite = [SVCEfficacy(), SVCEfficacy(legacy=True, name="legacy"), ThresholdMembership("entropy")]
        fit(FineTune(make_backbone()), make_data(fraction=0.25), Evaluation(), *suite, report)
        rows.append([row.attacks for row in report.rows])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2
    expected = {"membership/svc/efficacy", "membership/legacy/confidence", "membership/entropy/direction"}
    assert all(expected <= attacks.keys() for attacks in rows[0])


def test_a_run_that_forgets_nothing_has_no_membership(make_backbone, make_data, fit):
    attack, keeps = ThresholdMembership(), Keeps()
    fit(Pretrain(make_backbone(seed=1)), make_data(forget=None), attack, keeps)
    assert keeps.results.models["unlearned"].skipped == {attack.title: "it needs samples in forget"}


def test_on_the_digits_the_fields_score_goes_from_nought_to_one_and_unseen_images_tell_nothing(make_data):
    """Retrain never saw the digits 0 to 2; the original generalises to them: memory is not what sets them apart."""
    data = make_data(source=Digits(), classes=[0, 1, 2], eval_batch_size=500)
    found = {}
    for weights in ("digits_resnet8", "digits_resnet8_retrain_classes_0_1_2"):
        network = ResNet8(num_classes=10, in_channels=1)
        load_weights(network, weights)
        encoded = EncodedData(network.eval().requires_grad_(False), data, torch.device("cpu"))
        target = Target(encoded, None, data, 10)
        found[weights] = (
            SVCEfficacy().evaluate(target).numbers["efficacy"],
            ThresholdMembership().evaluate(target).numbers["auc"],
        )
    original, retrain = found.values()
    assert original[0] < 0.1
    assert retrain[0] > 0.9
    allowed = 3 * math.sqrt((1 / 215 + 1 / 53) / 12)
    assert abs(original[1] - 0.5) < allowed
    assert abs(retrain[1] - 0.5) < allowed
