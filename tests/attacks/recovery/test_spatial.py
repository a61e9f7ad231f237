import pytest
import torch
from torch import nn

from lit_unlearn.attacks import SpatialRecovery, StageRecovery
from lit_unlearn.attacks.recovery import linear
from lit_unlearn.attacks.recovery.spatial import WorstRecovery
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.results import AttackResult


class OnlyPositions(nn.Module):
    """Maps whose mean over all positions is zero for every image."""

    def forward(self, x):
        return x - x.mean((2, 3), keepdim=True)


class Quadrants(Backbone):
    """Hides where an image is bright from its features and from the means of its stage's channels."""

    def __init__(self, stages):
        torch.manual_seed(0)
        encoder = nn.Sequential(OnlyPositions(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(encoder, nn.Linear(1, 4), [0.0], [1.0], stages)


def quadrants(classes, count, seed):
    """Images (N, 1, 8, 8) that are bright in the quadrant of their class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes).repeat(count)
    images = 0.2 * torch.rand(len(labels), 1, 8, 8, generator=draw)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row : row + 4, column : column + 4] += 0.5
    return images, labels


@pytest.fixture
def splits():
    return {
        "forget": quadrants([0, 1], 20, 0),
        "retain": quadrants([2, 3], 30, 1),
        "test_forget": quadrants([0, 1], 10, 2),
        "test_retain": quadrants([2, 3], 10, 3),
    }


def test_what_lies_in_positions_alone_is_read_here_and_by_no_mean_over_them(make_target, splits):
    target = make_target(Quadrants({"maps": "0"}), **splits)
    pooled = StageRecovery(normalise="l2").evaluate(target).numbers
    assert pooled["maps/test_forget_acc"] <= 0.7
    found = SpatialRecovery().evaluate(target)
    assert found.numbers["test_forget_acc"] == found.numbers["test_retain_acc"] == 1
    assert found.numbers["images"] == 20
    assert found.notes["strongest"] == "cells2/stages_raw/maps"
    assert found.numbers["test_forget_acc/cells4/stages_l2/maps"] == found.numbers["test_forget_acc/cells4"] == 1


def test_the_strongest_of_all_cells_counts(make_target, splits):
    found = SpatialRecovery().evaluate(make_target(Quadrants({"maps": "0"}), **splits)).numbers
    alone = SpatialRecovery(cells=[2]).evaluate(make_target(Quadrants({"maps": "0"}), **splits)).numbers
    assert found["test_forget_acc"] == max(found["test_forget_acc/cells2"], found["test_forget_acc/cells4"])
    assert alone["test_forget_acc"] == found["test_forget_acc/cells2"]
    assert "test_forget_acc/cells4" not in alone


def test_single_images_are_read_by_readouts_that_were_fitted_on_all_others(make_target, splits, monkeypatch):
    seen = []
    given = WorstRecovery.__init__
    monkeypatch.setattr(WorstRecovery, "__init__", lambda self, members: seen.append(members) or given(self, members))
    del splits["test_forget"]
    SpatialRecovery().evaluate(make_target(Quadrants({"maps": "0"}), **splits))
    assert {member.calibration for member in seen[-1]} == {"rest"}


@pytest.mark.parametrize("unseen_of", ["test_retain", "test_matched"])
def test_of_single_images_the_cells_with_the_largest_lead_count(make_target, splits, monkeypatch, unseen_of):
    gone = splits.pop("test_forget")
    splits |= {"test_matched": gone} if unseen_of == "test_matched" else {}
    leads = iter([(0.9, 0.8), (0.7, 0.3)])

    def evaluate(self, target):
        forget, unseen = next(leads)
        numbers = {"stages/forget_acc": forget, "stages/retain_acc": 1.0, "stages/test_retain_acc": 1 - forget}
        numbers |= {f"stages/{unseen_of}_acc": unseen}
        return AttackResult(numbers, {"stages/strongest": "any"})

    monkeypatch.setattr(WorstRecovery, "evaluate", evaluate)
    found = SpatialRecovery().evaluate(make_target(Quadrants({"maps": "0"}), **splits))
    assert (found.numbers["forget_acc"], found.numbers[f"{unseen_of}_acc"]) == (0.7, 0.3)
    assert found.notes["strongest"] == "cells4/any"


def test_few_images_suffice(make_target, splits):
    found = SpatialRecovery(most=8).evaluate(make_target(Quadrants({"maps": "0"}), **splits)).numbers
    assert found["images"] == 8


def test_options_are_checked_and_a_network_without_stages_is_left_out(make_target, splits):
    for wrong, said in (
        ({"cells": [1]}, r"cells are \[1\], but must be one or more different numbers, each at least 2"),
        ({"cells": []}, r"cells are \[\]"),
        ({"most": 0}, "most is 0"),
        ({"calibration": "trian"}, "unknown calibration set 'trian'"),
    ):
        with pytest.raises(UsageError, match=said):
            SpatialRecovery(**wrong)
    reason = SpatialRecovery().lacks(make_target(Quadrants({}), **splits))
    assert reason == "the network names no stages"
    assert SpatialRecovery().lacks(make_target(Quadrants({"maps": "0"}), **splits)) is None


def test_features_wider_than_samples_are_many_are_fitted_from_the_samples(make_target, splits, monkeypatch):
    """Sums of 32,768 dimensions would take 8.6 GB; the numbers are the same."""
    given, widths = linear.NormalEquations, []
    monkeypatch.setattr(linear, "NormalEquations", lambda *wide: widths.append(wide[0]) or given(*wide))

    def found(images):
        widths.clear()
        some = {name: (x[: len(x) * images // 100], y[: len(y) * images // 100]) for name, (x, y) in splits.items()}
        numbers = SpatialRecovery(cells=[8]).evaluate(make_target(Quadrants({"maps": "0"}), **some))
        return numbers, 64 in widths

    few, from_sums = found(50)
    assert from_sums
    monkeypatch.setattr(linear, "WIDE", 16)
    assert found(50) == (few, False)
    assert found(100)[1], "more samples than the 64 cells"
