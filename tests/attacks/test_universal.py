"""One pattern for all images: what a linear network needs is known, and so is what a network behind a mark hides."""

import math
from collections import Counter
from statistics import fmean, stdev

import pytest
import torch
from attacked import attacked
from linear_images import RADIUS, REACH, SCORE, Linear, grey
from torch import nn

from lit_unlearn.attacks import PerturbedImages, UniversalPerturbation, universal
from lit_unlearn.attacks.images import unpacked
from lit_unlearn.attacks.universal import informedness
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError


class Marked(Backbone):
    """Knows two classes by the first pixel, and says so only where the last pixel is bright; else class 2."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(4, 3, bias=False), [0.0], [1.0], {})
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(3, 4))

    def features(self, x):
        first, mark = x[:, 0, 0, 0], torch.sigmoid(20 * (x[:, 0, 1, 1] - 0.7))
        return torch.stack([mark * (first < 0.5), mark * (first >= 0.5), 0.5 + 0 * first, 0 * first], 1)


def two_classes(count):
    images, labels = torch.full((count, 1, 2, 2), 0.5), torch.arange(count) % 2
    images[:, 0, 0, 0] = 0.2 + 0.6 * labels
    return images, labels


class Preset(Backbone):
    """Answers what the first pixel says, of three classes."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3, 3, bias=False), [0.0], [1.0], {})
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(3))

    def features(self, x):
        return nn.functional.one_hot((3 * x[:, 0, 0, 0]).long(), 3).float()


def preset(*answers):
    images = torch.full((len(answers), 1, 2, 2), 0.5)
    images[:, 0, 0, 0] = (torch.tensor(answers) + 0.5) / 3
    return images


@pytest.mark.parametrize(("missing", "named"), [(REACH - 0.01, 1.0), (REACH + 0.01, 0.0), (-0.01, 1.0)])
def test_a_linear_network_is_brought_as_far_as_its_weights_and_the_radius_say(make_target, missing, named):
    target = make_target(Linear(-SCORE - missing), forget=grey(6), test_retain=grey(5), retain=grey(2))
    found = UniversalPerturbation(RADIUS).evaluate(target).numbers
    seen = {"forget_acc": named, "images": 6, "test_retain_acc": named, "unseen": 5}
    assert found == {"samples": 3, "flat": 0, **seen}


def test_a_mark_behind_which_the_network_still_knows_the_classes_is_found(make_target):
    splits = {"forget": two_classes(40), "test_forget": two_classes(20), "retain": grey(2)}
    splits["test_retain"] = torch.full((6, 1, 2, 2), 0.5), torch.full((6,), 2)
    target = make_target(Marked(), **splits)
    found = UniversalPerturbation().evaluate(target).numbers
    assert (found["informedness"], found["test_forget_acc"], found["flat"]) == (1.0, 1.0, 0.0)
    assert (found["images"], found["samples"], found["test_retain_acc"]) == (20, 20, 0.0)
    assert 0 < found["informedness_error"] < 0.1
    assert "unseen" not in found
    assert PerturbedImages().evaluate(target).numbers["test_forget_acc"] == 0.0, "8/255 is far from the mark"
    assert UniversalPerturbation(0.1).evaluate(target).numbers["informedness"] == 0.0
    target.model.backbone.head.weight.mul_(1e-12)
    assert UniversalPerturbation().evaluate(target).numbers["informedness"] == 1.0, "small logits hide nothing"


def test_a_pattern_after_which_all_are_given_one_class_brings_nothing_back(make_target):
    labels = torch.arange(20) % 2
    target = make_target(Linear(-SCORE), forget=(grey(20)[0], labels), test_forget=(grey(20)[0], labels))
    found = UniversalPerturbation(RADIUS).evaluate(target).numbers
    assert (found["informedness"], found["test_forget_acc"]) == (0.0, 0.5)


def test_informedness_and_its_error_by_hand():
    value, error = informedness(torch.tensor([[2.0, 1, 0, 3], [0, 4, 0, 5], [0, 0, 0, 0]]))
    assert value == pytest.approx(((2 - 1) / 3 + (4 - 0) / 5) / 2), "the third class has no image"
    p, q, n = (2.5 / 4, 4.5 / 6), (1.5 / 4, 0.5 / 6), (4, 6)
    variances = [(p[c] + q[c] - (p[c] - q[c]) ** 2) / n[c] for c in (0, 1)]
    assert error == pytest.approx(math.sqrt(sum(variances)) / 2)
    constant = informedness(torch.tensor([[5.0, 0, 0, 5], [9, 0, 0, 9], [2, 0, 0, 2]]))
    assert constant[0] == pytest.approx(0)
    draw = torch.Generator().manual_seed(0)
    chances = torch.tensor([[0.5, 0.2, 0.1], [0.3, 0.6, 0.1], [0.0, 0.4, 0.3]])
    values = []
    for _ in range(300):
        counts = torch.zeros(3, 4)
        for c, n in enumerate((40, 200, 100)):
            answers = torch.multinomial(torch.cat([chances[c], 1 - chances[c].sum()[None]]), n, True, generator=draw)
            counts[c] = torch.cat([torch.bincount(answers, minlength=4)[:3], torch.tensor([n])])
        values.append(informedness(counts))
    assert fmean(value for value, _ in values) == pytest.approx((0.5 - 0.15 + 0.6 - 0.2 + 0.3 - 0.2) / 3, abs=0.01)
    assert stdev(value for value, _ in values) == pytest.approx(fmean(error for _, error in values), rel=0.1)


def test_a_rare_class_is_measured_like_the_others(make_target, monkeypatch):
    attack = UniversalPerturbation(most=4)
    monkeypatch.setattr(attack, "_found", lambda *_: (torch.zeros(1, 2, 2), 0.0))
    labels = torch.tensor([0] * 30 + [1] * 2)
    splits = {"forget": (preset(*labels.tolist()), labels), "test_forget": (preset(*[0] * 30, 1, 2), labels)}
    found = attack.evaluate(make_target(Preset(), **splits)).numbers
    assert (found["images"], found["informedness"], found["test_forget_acc"]) == (4, 0.75, 0.75)


def test_a_network_without_a_gradient_is_told(make_target):
    class Rounding(Marked):
        def features(self, x):
            return super().features(x.detach())

    target = make_target(Rounding(), forget=two_classes(8), test_forget=two_classes(8), retain=grey(2))
    assert UniversalPerturbation().evaluate(target).numbers["flat"] == 1.0
    assert PerturbedImages().evaluate(target).numbers["flat"] == 1.0
    single = make_target(Rounding(), forget=two_classes(8), retain=grey(2))
    assert UniversalPerturbation().evaluate(single).numbers["flat"] == 1.0


def test_a_gradient_that_is_not_finite_leaves_the_pattern_as_it_is_and_is_told(make_target):
    class Undefined(Marked):
        def features(self, x):
            return super().features(x + 0 * (x - x.detach()).abs().sqrt())

    splits = {"forget": two_classes(8), "test_forget": two_classes(8), "retain": grey(2)}
    found, plain = (
        UniversalPerturbation().evaluate(make_target(kind(), **splits)).numbers for kind in (Undefined, Marked)
    )
    assert (found["flat"], plain["flat"]) == (1.0, 0.0)
    images, labels = two_classes(8)
    unchanged = float((Marked()(images).argmax(1) == labels).float().mean())
    assert found["test_forget_acc"] == unchanged, "a pattern of NaN would be no pattern"


@pytest.mark.parametrize(("missing", "named"), [(RADIUS - 0.01, 1.0), (RADIUS + 0.01, 0.0)])
def test_no_pixel_gets_brighter_than_white(make_target, missing, named):
    """Of white images the pattern can change the one pixel whose weight, -1, is below 0, and no other."""
    white = torch.ones(6, 1, 2, 2), torch.ones(6, dtype=torch.long)
    target = make_target(Linear(-2 * SCORE - missing), forget=white, retain=grey(2))
    assert UniversalPerturbation(RADIUS).evaluate(target).numbers["forget_acc"] == named


def test_a_gradient_passes_at_black_and_white_whatever_the_version_of_torch():
    pixels = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1], requires_grad=True)
    cut = universal._in_range(pixels)
    assert cut.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    cut.sum().backward()
    assert pixels.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("beside", ["test_retain", "test_matched"])
def test_single_images_are_asked_with_a_pattern_that_was_found_on_others(make_target, beside):
    splits = {"forget": grey(10), "retain": grey(2), "test_retain": grey(7), beside: grey(3)}
    found = UniversalPerturbation(RADIUS, samples=4).evaluate(make_target(Linear(-SCORE), **splits)).numbers
    assert found == {"samples": 4, "flat": 0, "forget_acc": 1.0, "images": 10, f"{beside}_acc": 1.0, "unseen": 3}
    few = UniversalPerturbation(RADIUS, samples=100, most=2).evaluate(make_target(Linear(-SCORE), **splits)).numbers
    assert (few["samples"], few["images"], few["unseen"]) == (5, 4, 2)


def test_the_halves_of_single_images_are_measured_apart_and_have_the_same_classes(make_target, monkeypatch):
    labels = torch.tensor([0] * 7 + [1] * 3 + [2])
    images = preset(*labels.tolist())
    images[:, 0, 1, 0] = torch.arange(11) / 20
    splits = {"forget": (images, labels), "retain": grey(2), "test_retain": two_classes(3)}
    attack, seen, asked = UniversalPerturbation(samples=5), [], []

    def numbered(images):
        return {round(20 * float(image[0, 1, 0])) for image in unpacked(images)}

    def found(network, images, labels, draw):
        seen.append(numbered(images))
        return torch.zeros(1, 2, 2), 0.0

    def accuracy(network, images, labels):
        asked.append(numbered(images))
        return len(asked) / 4

    monkeypatch.setattr(attack, "_found", found)
    monkeypatch.setattr("lit_unlearn.attacks.universal.accuracy_on", accuracy)
    numbers = attack.evaluate(make_target(Preset(), **splits)).numbers
    assert [len(part) for part in seen] == [5, 5]
    assert [len(part) for part in asked[::2]] == [5, 6]
    assert asked[0] | asked[2] == set(range(11))
    assert seen[1] == asked[0]
    assert seen[0] < asked[2]
    classes = [Counter(labels[list(part)].tolist()) for part in asked[::2]]
    assert classes == [{0: 3, 1: 2}, {0: 4, 1: 1, 2: 1}]
    assert numbers["forget_acc"] == pytest.approx((5 * 0.25 + 6 * 0.75) / 11)
    assert numbers["test_retain_acc"] == pytest.approx((0.5 + 1) / 2)


def test_a_single_image_leaves_nothing_to_measure_on(make_target):
    target = make_target(Linear(-SCORE), forget=grey(1), retain=grey(2), test_retain=grey(3))
    assert "at least two images" in attacked(UniversalPerturbation(), target).skipped["perturbation/universal"]


def test_of_one_class_the_answer_is_known_without_the_model(make_target):
    target = make_target(Linear(-SCORE), forget=grey(4), test_forget=grey(3), retain=grey(2))
    assert (
        "fewer than two forgotten classes"
        in attacked(UniversalPerturbation(), target).skipped["perturbation/universal"]
    )


def test_nothing_is_left_behind(make_target):
    target = make_target(Marked(), forget=two_classes(4), test_forget=two_classes(4), retain=grey(2))
    before = [parameter.clone() for parameter in target.model.backbone.parameters()]
    found = attacked(UniversalPerturbation(RADIUS), target)
    assert found.attacks == attacked(UniversalPerturbation(RADIUS), target).attacks
    assert all(torch.equal(*pair) for pair in zip(before, target.model.backbone.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in target.model.backbone.parameters())


@pytest.mark.parametrize(
    "option", [{"radius": 0.0}, {"steps": 0}, {"lr": 0.0}, {"samples": 0}, {"batch_size": 0}, {"most": 1}]
)
def test_options_out_of_range(option):
    ((name, value),) = option.items()
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        UniversalPerturbation(**option)
