import math

import pytest
import torch
from torch import Tensor

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.effective_rank import effective_rank
from lit_unlearn.metrics.spread import Spread


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def collect(x: Tensor, batch: int = 64) -> Spread:
    metric = Spread(x.shape[1])
    for start in range(0, len(x), batch):
        metric.update(x[start : start + batch])
    return metric


def test_equals_what_sees_all_samples_at_once() -> None:
    x = randn(200, 9) * torch.linspace(0.01, 3, 9).double() + 5
    found = collect(x).compute()
    torch.testing.assert_close(found["mean"], x.mean(0))
    torch.testing.assert_close(found["norm"], x.norm(dim=1).mean())
    torch.testing.assert_close(found["variance"], x.var(0, correction=0).sum())
    assert float(found["rank"]) == pytest.approx(float(effective_rank(x)), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_rank_of_equal_directions_is_their_number(rank: int, scale: float) -> None:
    directions = torch.linalg.qr(randn(8, rank)).Q.T
    x = scale * (torch.cat([directions, -directions]) + randn(1, 8, seed=1))
    assert float(collect(x).compute()["rank"]) == pytest.approx(rank, abs=1e-6)


def test_the_rank_by_hand() -> None:
    # Standard deviations 3 : 1, so shares 3/4 and 1/4.
    x = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert float(collect(x).compute()["rank"]) == pytest.approx(expected)
    assert float(collect(x).compute()["variance"]) == pytest.approx(10)


@pytest.mark.parametrize(("n", "batch", "width"), [(1, 1, 5), (400, 32, 64), (50_000, 10, 1), (20_000, 100, 16)])
def test_one_point_has_no_variance_and_no_rank(n: int, batch: int, width: int) -> None:
    for point in (randn(1, width), torch.zeros(1, width)):
        found = collect(point.expand(n, width), batch).compute()
        assert found["variance"] == found["rank"] == 0
        torch.testing.assert_close(found["norm"], point.norm().double())


def test_four_shards_merged_equal_one_pass() -> None:
    x = randn(300, 5) + 2
    whole, merged = collect(x), collect(x[::4])
    for rank in range(1, 4):
        merged.merge_state(collect(x[rank::4], batch=17))
    for name, value in whole.compute().items():
        torch.testing.assert_close(merged.compute()[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # torchmetrics, of a metric without samples
def test_without_samples_or_with_infinite_ones_all_is_unknown() -> None:
    assert all(value.isnan().all() for value in Spread(3).compute().values())
    x = randn(5, 3)
    x[2, 1] = torch.nan
    assert all(float(collect(x).compute()[name].isnan()) for name in ("variance", "rank", "norm"))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="num_features is 0"):
        Spread(0)
    with pytest.raises(UsageError, match=r"shape \(2, 4\): expected \(B, 3\)"):
        Spread(3).update(torch.zeros(2, 4))
