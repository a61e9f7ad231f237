import math

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from torch.nn.functional import one_hot

from lit_unlearn.attacks.recovery.discriminants import linear_discriminant, nearest_mean
from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.normal_equations import NormalEquations, measure


@pytest.fixture
def data():
    """Uneven classes 0, 1, 3 of five, with a covariance of their own, far from the origin."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 50 + [1] * 80 + [3] * 30)
    centres = torch.randn(5, 6, generator=draw, dtype=torch.float64)
    spread = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    noise = torch.randn(len(labels), 6, generator=draw, dtype=torch.float64)
    return centres[labels] + noise @ spread + 10, labels


def moments(x, labels):
    return measure(x, one_hot(labels, 5))


def test_nearest_mean_is_the_nearest_centroid(data):
    x, labels = data
    reference = NearestCentroid().fit(x.numpy(), labels.numpy())
    others = x.flip(0) * 1.3 - 3
    expected = torch.from_numpy(reference.predict(others.numpy()))
    assert torch.equal(nearest_mean(moments(x, labels))(others).argmax(1), expected)
    assert len(expected.unique()) > 1


def test_linear_discriminant_is_sklearns(data):
    x, labels = data
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(x.numpy(), labels.numpy())
    expected = torch.from_numpy(reference.decision_function(x.numpy())).log_softmax(1)
    scores = linear_discriminant(moments(x, labels))(x)[:, [0, 1, 3]].log_softmax(1)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)


def test_one_dimension_by_hand():
    x, labels = torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1])
    # means 1 and 5, variance within 1, equal shares: the border is 3, with slope 4
    scores = linear_discriminant(moments(x, labels))(torch.tensor([[3.0], [4.0]]))[:, :2].diff()
    torch.testing.assert_close(scores, torch.tensor([[0.0], [4.0]]).double())
    assert nearest_mean(moments(x, labels))(torch.tensor([[2.9], [3.1]])).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("rule", [nearest_mean, linear_discriminant])
def test_a_class_without_samples_is_never_named(data, rule):
    scores = rule(moments(*data))(100 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1)))
    assert scores[:, [2, 4]].eq(-math.inf).all()
    assert scores[:, [0, 1, 3]].isfinite().all()


def test_directions_without_spread_are_left_out_or_filled_by_the_ridge():
    x, labels = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0, 1, 1])
    assert linear_discriminant(moments(x, labels)).weight[:, 1].eq(0).all()
    assert linear_discriminant(moments(x, labels), ridge=1e-6)(x).argmax(1).tolist() == labels.tolist()


@pytest.mark.parametrize("rule", [nearest_mean, linear_discriminant])
def test_four_shards_merged_equal_one_pass(data, rule):
    labels = data[1]
    x = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[:, :5] += 2 * one_hot(labels, 5)
    merged = NormalEquations(6, 5)
    merged.update(x[::4], one_hot(labels[::4], 5))
    for rank in range(1, 4):
        shard = NormalEquations(6, 5)
        shard.update(x[rank::4], one_hot(labels[rank::4], 5))
        merged.merge_state(shard)
    alone, together = rule(moments(x, labels))(x), rule(merged.compute())(x)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_fitted():
    nothing = moments(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    for rule in (nearest_mean, linear_discriminant):
        with pytest.raises(UsageError, match="calibration set is empty"):
            rule(nothing)
    with pytest.raises(UsageError, match=r"ridge is -1.0"):
        linear_discriminant(nothing, ridge=-1.0)
