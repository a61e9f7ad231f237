"""Unseen images in the class shares of the forget set."""

import pytest
import torch

from lit_unlearn.data import ForgetSpec, make_split
from lit_unlearn.data.matching import matched

DRAW = torch.Generator().manual_seed(0)
TEST = torch.randint(0, 4, (400,), generator=DRAW)
ALL = torch.arange(len(TEST))
NAMES = ["cat", "dog", "frog", "hare"]


def counts(labels):
    return labels.bincount(minlength=4).tolist()


def test_as_many_as_there_are_in_the_shares_of_the_forget_set_at_odd_positions():
    found, lacking = matched(torch.tensor([1] * 60 + [2] * 20), TEST, ALL, seed=0)
    assert torch.equal(found, found.sort().values)
    assert (found % 2 == 1).all()
    there = counts(TEST[1::2])
    times = min(there[1] // 3, there[2])
    assert counts(TEST[found]) == [0, *(pytest.approx(share * times, abs=2) for share in (3, 1)), 0]
    assert min(there[1] - counts(TEST[found])[1], there[2] - counts(TEST[found])[2]) == 0, "no more could be had"
    assert lacking == []
    assert torch.equal(found, matched(torch.tensor([1] * 60 + [2] * 20), TEST, ALL, seed=0)[0])
    assert not torch.equal(found, matched(torch.tensor([1] * 60 + [2] * 20), TEST, ALL, seed=1)[0])


@pytest.mark.parametrize(
    "labels",
    [torch.arange(200) % 4, torch.tensor([1, 1, 2]), torch.tensor([], dtype=torch.long)],
    ids=["alike", "few", "none"],
)
def test_nothing_is_drawn_where_shares_are_alike_or_may_be_by_chance(labels):
    assert matched(labels, TEST, ALL, seed=0)[0].tolist() == []


def test_positions_are_those_among_the_unseen_images():
    unseen = ALL[ALL % 5 != 0]
    found, _ = matched(torch.ones(50, dtype=torch.long), TEST, unseen, seed=0)
    assert set(found.tolist()) == set(unseen[1::2][TEST[unseen[1::2]] == 1].tolist())


@pytest.mark.parametrize("labels", [[0] * 300, [0] * 200 + [1] * 100])
def test_a_class_that_is_only_where_attacks_learn_does_not_count_and_is_named(labels):
    test = torch.tensor([0, 1, 0, 1, 0, 2, 0, 3])
    found, lacking = matched(torch.tensor(labels), test, torch.arange(8), seed=0)
    assert found.tolist() == ([1, 3] if 1 in labels else [])
    assert lacking == [0]


def test_a_split_of_single_images_of_one_class_has_them_and_others_do_not():
    train = torch.arange(400) % 4
    one = make_split(train, TEST, ForgetSpec(classes=["dog"], fraction=0.5), 0, NAMES)
    assert set(TEST[one.test_matched].tolist()) == {1}
    assert one.counts()["test_matched"] == len(one.test_matched) == counts(TEST[1::2])[1]
    assert one.counts()["test_retain"] == len(TEST), "they stay among all others, of which accuracy is measured"
    for spec in (ForgetSpec(classes=["dog"]), ForgetSpec(fraction=0.5), None):
        assert "test_matched" not in make_split(train, TEST, spec, 0, NAMES).counts()


def test_of_a_class_without_any_test_image_one_warning_is_enough():
    test = torch.tensor([0, 1] * 20)
    made = make_split(torch.arange(90) % 3, test, ForgetSpec(classes=["frog"], fraction=0.5), 0, NAMES[:3])
    assert made.warnings == ("no test image of class 'frog': nothing is known of unseen images of it",)


def test_a_warning_says_of_which_class_no_unseen_image_is_left():
    test = torch.tensor([0, 1] * 20)
    made = make_split(torch.arange(80) % 2, test, ForgetSpec(classes=["cat"], fraction=0.5), 0, NAMES[:2])
    assert any("forget images of class 'cat' are compared with no unseen image of it" in text for text in made.warnings)
    made = make_split(torch.arange(80) % 2, test, ForgetSpec(classes=["dog"], fraction=0.5), 0, NAMES[:2])
    assert not any("compared with no unseen image" in text for text in made.warnings)
