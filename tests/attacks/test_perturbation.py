import pytest
import torch
from attacked import attacked
from linear_images import RADIUS, REACH, SCORE, WEIGHTS, Linear, grey

from lit_unlearn.attacks import PerturbedImages
from lit_unlearn.errors import UsageError


@pytest.mark.parametrize(("missing", "named"), [(REACH - 0.01, 1.0), (REACH + 0.01, 0.0), (-0.01, 1.0)])
def test_a_linear_network_is_brought_as_far_as_its_weights_and_the_radius_say(make_target, missing, named):
    target = make_target(Linear(-SCORE - missing), forget=grey(5), test_forget=grey(3), retain=grey(2))
    found = PerturbedImages(RADIUS).evaluate(target).numbers
    assert found == {"forget_acc": named, "test_forget_acc": named, "images": 3, "flat": 0.0}


def test_single_images_are_tried_beside_unseen_ones(make_target):
    numbers = PerturbedImages(RADIUS, most=2).evaluate(
        make_target(Linear(-SCORE), forget=grey(5), retain=grey(2), test_retain=grey(3))
    )
    assert numbers.numbers == {"forget_acc": 1.0, "images": 2, "test_retain_acc": 1.0, "unseen": 2, "flat": 0.0}


def test_single_images_of_few_classes_are_tried_beside_unseen_ones_of_these(make_target):
    splits = {"forget": grey(5), "retain": grey(2), "test_retain": grey(3), "test_matched": grey(1)}
    numbers = PerturbedImages(RADIUS).evaluate(make_target(Linear(-SCORE), **splits)).numbers
    assert numbers == {"forget_acc": 1.0, "images": 5, "test_matched_acc": 1.0, "unseen": 1, "flat": 0.0}


@pytest.mark.parametrize(("classes", "radius"), [(True, 8 / 255), (False, 1 / 255)])
def test_around_single_images_the_ball_is_smaller(make_target, classes, radius):
    splits = {"forget": grey(5), "retain": grey(2), **({"test_forget": grey(3)} if classes else {})}
    reach = radius * float(WEIGHTS.abs().sum())
    for missing, named in ((0.99 * reach, 1.0), (1.01 * reach, 0.0)):
        found = PerturbedImages().evaluate(make_target(Linear(-SCORE - missing), **splits)).numbers
        assert found["forget_acc"] == named


def test_pixels_stay_in_range(make_target):
    """Black pixels cannot get darker: only those whose weight is positive help."""
    images = torch.zeros(1, 1, 2, 2), torch.ones(1, dtype=torch.long)
    reach = RADIUS * float(WEIGHTS.clamp(min=0).sum())
    for missing, named in ((reach - 0.01, 1.0), (reach + 0.01, 0.0)):
        found = PerturbedImages(RADIUS).evaluate(make_target(Linear(-missing), forget=images)).numbers
        assert found["forget_acc"] == named


def test_an_image_that_is_named_on_the_way_counts(make_target):
    """The first image is named at the start and never again, the second from the first step on."""

    class Once(Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (1 if self.calls == 1 else -1)

    images, labels = grey(2)
    images[1] = 0
    found = PerturbedImages(RADIUS).evaluate(make_target(Once(-0.4), forget=(images, labels))).numbers
    assert found["forget_acc"] == 1


def test_images_that_no_gradient_moves_are_counted(make_target):
    """A rounding of the pixels has a slope of 0: the model would seem to withstand."""

    class Rounded(Linear):
        def forward(self, x):
            return super().forward((255 * x).round() / 255)

    splits = {"forget": grey(5), "test_forget": grey(3), "retain": grey(2)}
    numbers = PerturbedImages(RADIUS).evaluate(make_target(Rounded(-SCORE - 0.1), **splits)).numbers
    assert numbers == {"forget_acc": 0.0, "test_forget_acc": 0.0, "images": 3, "flat": 1.0}
    named = PerturbedImages(RADIUS).evaluate(make_target(Rounded(1.0), **splits)).numbers
    assert named["flat"] == 0.0, "what is named already need not move"


def test_images_whose_gradient_is_not_finite_are_counted_as_not_moved(make_target):
    class Undefined(Linear):
        def forward(self, x):
            return super().forward(x + 0 * (x - x.detach()).abs().sqrt())

    splits = {"forget": grey(5), "test_forget": grey(3), "retain": grey(2)}
    target = make_target(Undefined(-SCORE - 0.1), **splits)
    assert PerturbedImages(RADIUS).evaluate(target).numbers["flat"] == 1.0


def test_few_images_are_tried_and_nothing_is_left_behind(make_target):
    target = make_target(Linear(-SCORE), forget=grey(9))
    seen = attacked(PerturbedImages(most=4), target)
    assert seen.attacks["perturbation/linf/images"] == 4
    assert not any(parameter.requires_grad for parameter in target.model.backbone.parameters())


@pytest.mark.parametrize("option", [{"radius": 0.0}, {"steps": 0}, {"most": 0}])
def test_options_out_of_range(option):
    ((name, value),) = option.items()
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        PerturbedImages(**option)
