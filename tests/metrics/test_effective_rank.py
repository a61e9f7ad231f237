import math

import pytest
import torch

from lit_unlearn.metrics.effective_rank import effective_rank


def test_effective_rank_of_equal_directions() -> None:
    # The corners of a simplex spread equally over 5 directions, whatever their offset and scale.
    corners = torch.eye(6)
    for h in (corners, corners * 1e-3 + 1, corners.repeat(7, 2)):
        assert effective_rank(h).item() == pytest.approx(5, abs=1e-3)


def test_effective_rank_by_hand() -> None:
    h = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 10
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(h).item() == pytest.approx(expected)
    assert effective_rank(h[:2]).item() == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("samples", [0, 1, 2, 257])
def test_effective_rank_of_one_point_is_zero(samples: int, scale: float) -> None:
    point = scale * torch.arange(33, dtype=torch.float64).sqrt()
    assert effective_rank(point.expand(samples, 33)) == 0


def test_effective_rank_says_when_values_are_not_finite() -> None:
    assert effective_rank(torch.tensor([[1.0], [math.inf]])).isnan()
    assert effective_rank(torch.tensor([[1.0], [math.nan]])).isnan()
