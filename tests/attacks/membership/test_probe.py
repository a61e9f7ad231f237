"""A mark on the forget set in a direction that the head does not read, and none."""

import math

import pytest
import torch
from attacked import attacked
from torch import nn

from lit_unlearn.attacks import MembershipProbe, ThresholdMembership
from lit_unlearn.errors import UsageError


def samples(count, seed, mark=0.0):
    """Vectors whose last entry is a mark, with noise."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.randn(count, 6, generator=draw)
    found[:, -1] = 0.2 * found[:, -1] + mark
    return found, torch.arange(count) % 3


@pytest.fixture
def target(make_target, vectors):
    def make(mark, classes=False, forget=200):
        network = vectors(nn.Sequential(nn.Identity()), 6, 3)
        with torch.no_grad():
            network.head.weight[:, -1] = 0
        splits = {"forget": samples(forget, 1, mark), "retain": samples(50, 2), "test_retain": samples(500, 3)}
        return make_target(network, **splits, **({"test_forget": samples(300, 4)} if classes else {}))

    return make


@pytest.mark.parametrize("classes", [False, True])
def test_a_mark_that_no_answer_shows_is_found(target, classes):
    marked, plain = (attacked(MembershipProbe(), target(mark, classes)).attacks for mark in (1.0, 0.0))
    assert marked["membership/probe/auc"] > 0.95
    assert abs(plain["membership/probe/auc"] - 0.5) < 0.12
    answers = ThresholdMembership().evaluate(target(1.0, classes)).numbers["auc"]
    assert abs(answers - 0.5) < 0.12


def test_it_is_scored_on_images_that_it_was_not_fitted_on(target):
    """With as many directions as samples all those that were fitted on could be separated."""
    few = target(0.0, forget=12)
    assert MembershipProbe(penalty=1e-6, most=12).evaluate(few).numbers["auc"] < 0.95


def test_half_of_one_image_is_none(target):
    assert math.isnan(MembershipProbe().evaluate(target(0.0, forget=1)).numbers["auc"])


@pytest.mark.parametrize(("option", "says"), [({"penalty": 0}, "penalty is 0"), ({"most": 1}, "most is 1")])
def test_options_out_of_range(option, says):
    with pytest.raises(UsageError, match=says):
        MembershipProbe(**option)
