import math

import pytest
import torch

from lit_unlearn.metrics import answer_statistics, auc


def test_the_statistics_by_hand():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]])
    found = answer_statistics(features, logits)
    assert found["feature_norm"].tolist() == [5, 0]
    assert found["logit_norm"].tolist() == pytest.approx([math.log(3), 50**0.5])
    assert found["confidence"].tolist() == pytest.approx([0.75, 0.5])
    expected = [-0.75 * math.log(0.75) - 0.25 * math.log(0.25), math.log(2)]
    assert found["entropy"].tolist() == pytest.approx(expected)
    assert all(value.dtype == torch.float64 for value in found.values())


def test_a_certain_answer_has_no_entropy_and_not_nan():
    found = answer_statistics(torch.zeros(1, 2), torch.tensor([[1e4, 0.0]]))
    assert found["entropy"].item() == 0
    assert found["confidence"].item() == 1


def test_the_area_counts_pairs():
    assert auc(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0])) == 0.75
    assert auc(torch.tensor([2.0, 2.0]), torch.tensor([2.0])) == 0.5
    assert auc(torch.tensor([1000.0]), torch.tensor([999.0])) == 1  # no sigmoid in between
    draw = torch.Generator().manual_seed(0)
    high, low = torch.randint(5, (2, 40), generator=draw).double()
    pairs = (high[:, None] > low).double() + 0.5 * (high[:, None] == low)
    assert auc(high, low) == pytest.approx(float(pairs.mean()))
    assert auc(low, high) == pytest.approx(1 - auc(high, low))


@pytest.mark.parametrize("group", [[], [math.nan], [math.inf]])
def test_what_cannot_be_ranked_is_undefined(group):
    assert math.isnan(auc(torch.tensor(group), torch.tensor([1.0])))
    assert math.isnan(auc(torch.tensor([1.0]), torch.tensor(group)))
