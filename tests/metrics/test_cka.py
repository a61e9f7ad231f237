"""Streaming CKA against the formulas that see all samples, and the whole kernels, at once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.cka import LinearCKA

both = pytest.mark.parametrize("unbiased", [False, True])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def collect(x: Tensor, y: Tensor, batch: int = 64, **settings: object) -> LinearCKA:
    metric = LinearCKA(x.shape[1], y.shape[1], **settings)  # type: ignore[arg-type]
    for start in range(0, len(x), batch):
        metric.update(x[start : start + batch], y[start : start + batch])
    return metric


def cka(x: Tensor, y: Tensor, **settings: object) -> float:
    return float(collect(x, y, **settings).compute())  # type: ignore[arg-type]


def direct(x: Tensor, y: Tensor, unbiased: bool) -> float:
    """From the n x n kernels: centred, or with an empty diagonal and HSIC_1 as it is printed."""
    n = len(x)

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        if not unbiased:
            centre = np.eye(n) - 1 / n
            return float(np.trace(centre @ k @ centre @ m))
        k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float((np.trace(k @ m) + middle - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3)))

    k, m = (np.asarray(z @ z.T) for z in (x, y))
    return float(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def related(n: int = 60) -> tuple[Tensor, Tensor]:
    """Two representations that share something, far from the origin, of 7 and 5 dimensions."""
    x = randn(n, 7)
    return x + 3, torch.tanh(x @ randn(7, 5, seed=1)) + 0.3 * randn(n, 5, seed=2) - 2


@both
@pytest.mark.parametrize("n", [4, 9, 60])
def test_equals_the_formula_on_whole_kernels(n: int, unbiased: bool) -> None:
    x, y = related(n)
    assert cka(x, y, unbiased=unbiased) == pytest.approx(direct(x, y, unbiased), abs=1e-10)
    assert 0 < abs(direct(x, y, unbiased)) < 1


@both
def test_one_for_rotations_scalings_and_shifts(unbiased: bool) -> None:
    x = randn(50, 6) * torch.tensor([3, 2, 1, 0.5, 0.1, 0.01]).double()
    rotation = torch.linalg.qr(randn(6, 6, seed=1)).Q
    assert cka(x, -17 * x @ rotation + 5, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    wide = torch.cat([x @ rotation, torch.zeros(50, 3).double()], dim=1)
    assert cka(x, wide, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    assert cka(x, x @ randn(6, 6, seed=2), unbiased=unbiased) < 0.99  # any linear map is not enough


@both
@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e5])
def test_the_scale_of_the_features_does_not_matter(scale: float, unbiased: bool) -> None:
    x, y = (z.float() for z in related())
    small = (x * scale).float()
    assert cka(small, y, unbiased=unbiased) == pytest.approx(cka(x, y, unbiased=unbiased), abs=1e-6)
    assert cka(small, x, unbiased=unbiased) == pytest.approx(1, abs=1e-6)
    assert cka(small, small, unbiased=unbiased) == pytest.approx(1, abs=1e-12)


def test_independent_features_are_small_only_without_bias() -> None:
    scores = {
        unbiased: [cka(randn(64, 512, seed=i), randn(64, 512, seed=100 + i), unbiased=unbiased) for i in range(20)]
        for unbiased in (False, True)
    }
    assert np.mean(scores[False]) == pytest.approx(0.88, abs=0.01)
    assert abs(np.mean(scores[True])) < 3 * np.std(scores[True]) / np.sqrt(20) + 1e-3
    assert np.std(scores[True]) < 0.05


def test_with_many_samples_the_two_agree() -> None:
    x, y = related(20_000)
    assert cka(x, y, unbiased=True) == pytest.approx(cka(x, y), abs=1e-3)


def test_half_of_the_coordinates_by_hand() -> None:
    # The corners of a square, and their first coordinate: ‖XᵀY‖² = 16, ‖XᵀX‖ = 4√2, ‖YᵀY‖ = 4.
    x = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    assert cka(x, x[:, :1]) == pytest.approx(2**-0.5, abs=1e-12)


@both
@pytest.mark.parametrize(("n", "batch", "width"), [(64, 64, 5), (400, 32, 64), (10_000, 10, 1), (20_000, 100, 16)])
def test_a_collapsed_set_is_undefined(n: int, batch: int, width: int, unbiased: bool) -> None:
    y = randn(n, 4)
    for point in (randn(1, width).expand(n, width), torch.zeros(n, width)):
        assert np.isnan(cka(point, y, batch=batch, unbiased=unbiased))
        assert np.isnan(cka(y, point, batch=batch, unbiased=unbiased))
    centre = randn(width)
    constant = centre.expand(n, width)
    assert np.isnan(cka(constant, y, batch=batch, unbiased=unbiased, centre_x=constant[0]))


@both
def test_what_single_precision_leaves_of_a_point_is_collapsed_and_what_exceeds_it_is_not(unbiased: bool) -> None:
    x, y = randn(500, 8), randn(8)
    noise = (y + 1e-8 * x).float()
    assert np.isnan(cka(noise, x, unbiased=unbiased, centre_x=noise.double().mean(0)))
    # Sums about 0 cannot see a variance of 1e-12: undefined where HSIC is a difference of fourth powers.
    tiny = y + 1e-6 * x
    assert cka(tiny, x, unbiased=unbiased, centre_x=tiny.mean(0)) == pytest.approx(1, abs=1e-6)
    assert np.isnan(cka(tiny, x, unbiased=True))
    small = y + 1e-4 * x
    assert cka(small, x, unbiased=unbiased, centre_x=small.mean(0)) == pytest.approx(1, abs=1e-9)


@both
def test_the_centre_changes_nothing_but_rounding(unbiased: bool) -> None:
    x, y = related()
    alone = cka(x, y, unbiased=unbiased)
    for centre in (x.mean(0), x[0], x[0] + 1):
        about = cka(x, y, unbiased=unbiased, centre_x=centre, centre_y=y.mean(0))
        assert about == pytest.approx(alone, abs=1e-12)
    far = cka(x + 1e6, y, unbiased=unbiased, centre_x=(x + 1e6).mean(0), centre_y=y.mean(0))
    assert far == pytest.approx(alone, abs=1e-9)


@both
def test_four_shards_merged_equal_one_pass(unbiased: bool) -> None:
    x, y = related(300)
    whole = collect(x, y, unbiased=unbiased)
    merged = collect(x[::4], y[::4], unbiased=unbiased)
    for rank in range(1, 4):
        merged.merge_state(collect(x[rank::4], y[rank::4], batch=17, unbiased=unbiased))
    for name in whole._defaults:
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-12)
    assert float(merged.compute()) == pytest.approx(float(whole.compute()), abs=1e-12)


def test_all_states_are_summed_across_ranks() -> None:
    x, y = related()
    metric = collect(x, y, unbiased=True)
    metric.distributed_available_fn = lambda: True
    metric.dist_sync_fn = lambda state, group: [state, state]
    together = cka(torch.cat([x, x]), torch.cat([y, y]), unbiased=True)
    assert float(metric.compute()) == pytest.approx(together, abs=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # torchmetrics, of a metric without samples
@pytest.mark.parametrize(("unbiased", "least"), [(False, 2), (True, 4)])
def test_too_few_samples_are_undefined(unbiased: bool, least: int) -> None:
    x, y = related()
    assert np.isnan(cka(x[: least - 1], y[: least - 1], unbiased=unbiased))
    assert np.isfinite(cka(x[:least], y[:least], unbiased=unbiased))
    assert np.isnan(float(LinearCKA(2, 2, unbiased=unbiased).compute()))


def test_an_empty_batch_adds_nothing() -> None:
    x, y = related()
    metric = collect(x, y)
    before = float(metric.compute())
    metric.update(x[:0], y[:0])
    assert float(metric.compute()) == before


def test_values_that_are_not_finite_are_undefined() -> None:
    x, y = related()
    x[3, 2] = torch.inf
    assert np.isnan(cka(x, y))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"num_x is 0"):
        LinearCKA(0, 3)
    with pytest.raises(UsageError, match=r"centre_y has shape \(2,\): expected \(3,\)"):
        LinearCKA(2, 3, centre_y=torch.zeros(2))
    for x, y in (
        (torch.zeros(4, 3), torch.zeros(4, 3)),
        (torch.zeros(4, 2), torch.zeros(5, 3)),
        (torch.zeros(2), torch.zeros(2, 3)),
    ):
        with pytest.raises(UsageError, match=r"x and y have shapes .*: expected \(B, 2\) and \(B, 3\)"):
            LinearCKA(2, 3).update(x, y)
