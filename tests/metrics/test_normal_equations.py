"""Streaming least squares against the solvers that see all samples at once."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.normal_equations import LinearMap, Moments, NormalEquations, WideLeastSquares, solve


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def collect(x: Tensor, y: Tensor, batch: int = 64) -> NormalEquations:
    metric = NormalEquations(x.shape[1], y.shape[1])
    for start in range(0, len(x), batch):
        metric.update(x[start : start + batch], y[start : start + batch])
    return metric


def lstsq(x: Tensor, y: Tensor, bias: bool) -> LinearMap:
    """The minimum-norm reference on all samples, by singular values and not by normal equations."""
    mean_x, mean_y = (x.mean(0), y.mean(0)) if bias else (torch.zeros(x.shape[1]), torch.zeros(y.shape[1]))
    weight = torch.from_numpy(np.linalg.lstsq((x - mean_x).numpy(), (y - mean_y).numpy(), rcond=1e-9)[0]).T
    return LinearMap(weight, mean_y.double() - weight @ mean_x.double())


def design(kind: str) -> Tensor:
    """Features of 300 samples (or 12, fewer than features) with an offset and a known defect."""
    x = randn(300, 20)
    if kind == "ill-conditioned":
        left, _, right = torch.linalg.svd(x, full_matrices=False)
        return (left * torch.logspace(0, -5, 20, dtype=torch.float64)) @ right * 17
    if kind == "rank-deficient":
        return x[:, :7] @ randn(7, 20, seed=1) + 1
    return x[:12] + 3 if kind == "wide" else x + 3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["random", "ill-conditioned", "rank-deficient", "wide"])
def test_equals_lstsq(kind: str, bias: bool) -> None:
    x = design(kind)
    y = x @ randn(20, 3, seed=2) + 0.1 * randn(len(x), 3, seed=3) + 5
    fitted, reference = collect(x, y).solve(bias=bias), lstsq(x, y, bias)
    assert torch.linalg.norm(fitted.weight - reference.weight) <= 1e-6 * torch.linalg.norm(reference.weight)
    torch.testing.assert_close(fitted(x), reference(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [1e-6, 0.3])
def test_equals_sklearn_ridge(ridge: float, bias: bool) -> None:
    x, y = design("random"), randn(300, 3, seed=4) + 5
    centred = x - x.mean(0) if bias else x
    alpha = ridge * float(centred.square().sum()) / x.shape[1]
    reference = Ridge(alpha=alpha, fit_intercept=bias, solver="svd").fit(x.numpy(), y.numpy())
    fitted = collect(x, y).solve(ridge=ridge, bias=bias)
    torch.testing.assert_close(fitted.weight, torch.from_numpy(reference.coef_), rtol=0, atol=1e-10)
    torch.testing.assert_close(fitted(x), torch.from_numpy(reference.predict(x.numpy())), rtol=0, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
@pytest.mark.parametrize(("n", "batch", "width"), [(1, 1, 5), (400, 32, 64), (50_000, 10, 1), (20_000, 100, 16)])
def test_constant_features_give_the_mean(n: int, batch: int, width: int, ridge: float) -> None:
    # Sums of a constant drift by their rounding, which must not pass for variance.
    x, y = randn(1, width).expand(n, width), randn(n, 2)
    fitted = collect(x, y, batch).solve(ridge=ridge)
    assert fitted.weight.eq(0).all()
    torch.testing.assert_close(fitted(x[:1] + 7), y.mean(0, keepdim=True), rtol=0, atol=1e-12)


def test_zero_features_without_bias_give_zero() -> None:
    fitted = collect(torch.zeros(8, 3), randn(8, 2)).solve(bias=False)
    assert fitted(torch.ones(4, 3)).eq(0).all()


def test_dead_columns_get_no_weight() -> None:
    x = torch.cat([randn(100, 3), torch.zeros(100, 2, dtype=torch.float64)], dim=1)
    fitted = collect(x, x[:, :1] * 2 + 1).solve()
    torch.testing.assert_close(fitted.weight, torch.tensor([[2.0, 0, 0, 0, 0]]).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(fitted.bias, torch.ones(1).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_of_the_features_does_not_matter(scale: float) -> None:
    x, y = design("random"), randn(300, 2, seed=5)
    for ridge in (0.0, 0.1):
        expected = collect(x, y).solve(ridge=ridge)(x)
        torch.testing.assert_close(collect(x * scale, y).solve(ridge=ridge)(x * scale), expected, rtol=0, atol=1e-10)


def test_four_shards_merged_equal_one_pass() -> None:
    x, y = design("random"), randn(300, 3, seed=6)
    whole, merged = collect(x, y), collect(x[::4], y[::4])
    for rank in range(1, 4):
        merged.merge_state(collect(x[rank::4], y[rank::4], batch=17))
    for name in ("n", "sum_x", "sum_y", "xtx", "xty"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.solve()(x), whole.solve()(x), rtol=0, atol=1e-12)


def test_all_states_are_summed_across_ranks() -> None:
    x, y = design("random"), randn(300, 3, seed=6)
    alone, metric = collect(x, y).compute(), collect(x, y)
    metric.distributed_available_fn = lambda: True
    metric.dist_sync_fn = lambda state, group: [state, 2 * state]
    together = metric.compute()
    for name in ("n", "sum_x", "sum_y", "xtx", "xty"):
        torch.testing.assert_close(getattr(together, name), 3 * getattr(alone, name))
    assert metric.n == 300


def test_float32_is_raised_before_the_products() -> None:
    x, y = design("ill-conditioned").float(), randn(300, 3, seed=7).float()
    metric = collect(x, y)
    assert torch.equal(metric.compute().xtx, collect(x.double(), y.double()).compute().xtx)
    reference = lstsq(x.double(), y.double(), bias=True)
    torch.testing.assert_close(metric.solve()(x), reference(x), rtol=0, atol=1e-6)


def test_states_stay_float64_when_the_owner_becomes_half() -> None:
    x, y = design("random"), randn(300, 2, seed=8)
    metric = NormalEquations(20, 2)
    torch.nn.ModuleList([metric]).to(torch.bfloat16)
    metric.update(x, y)
    torch.testing.assert_close(metric.solve()(x), collect(x, y, 300).solve()(x), rtol=0, atol=1e-12)


def test_inference_tensors_can_be_mixed_with_others() -> None:
    x, y = design("random"), randn(300, 2, seed=9)
    metric = NormalEquations(20, 2)
    with torch.inference_mode():
        metric.update(x[:150] * 1, y[:150] * 1)
    metric.update(x[150:].requires_grad_(), y[150:])
    assert not metric.xtx.requires_grad
    torch.testing.assert_close(metric.solve()(x.detach()), collect(x.detach(), y).solve()(x.detach()))


def test_one_sample_and_empty_batches() -> None:
    metric = NormalEquations(3, 2)
    metric.update(torch.zeros(0, 3), torch.zeros(0, 2))
    metric.update(torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([[4, 5]]))
    metric.update(torch.zeros(0, 3), torch.zeros(0, 2))
    assert metric.n == 1
    assert metric.solve()(torch.randn(2, 3)).tolist() == [[4, 5], [4, 5]]
    through_origin = metric.solve(bias=False)
    torch.testing.assert_close(
        through_origin(torch.tensor([[1.0, -2.0, 3.0]])), torch.tensor([[4.0, 5.0]]).double(), rtol=0, atol=1e-12
    )


def test_one_feature_and_one_target_keep_their_shapes() -> None:
    x = torch.arange(5.0)[:, None]
    metric = collect(x, 2 * x + 1)
    moments = metric.compute()
    assert moments.xtx.shape == moments.xty.shape == (1, 1)
    assert moments.sum_x.shape == (1,)
    torch.testing.assert_close(metric.solve()(torch.tensor([[10.0]])), torch.tensor([[21.0]]).double())


def test_one_hot_targets_give_class_means() -> None:
    labels = torch.arange(30) % 3
    x = randn(30, 4)
    moments = collect(x, torch.nn.functional.one_hot(labels)).compute()
    expected = torch.stack([x[labels == label].mean(0) for label in range(3)])
    torch.testing.assert_close((moments.xty / moments.sum_y).T, expected)


def test_a_fit_leaves_the_sums_alone_and_can_go_on() -> None:
    x, y = design("random"), randn(300, 2, seed=10)
    metric = collect(x[:100], y[:100])
    metric.solve()
    metric.update(x[100:], y[100:])
    torch.testing.assert_close(metric.solve()(x), collect(x, y).solve()(x))
    metric.reset()
    assert metric.n == 0


def test_no_samples_is_an_error() -> None:
    metric = NormalEquations(3, 2)
    metric.update(torch.zeros(0, 3), torch.zeros(0, 2))
    with pytest.raises(UsageError, match="calibration set is empty"):
        metric.solve()


@pytest.mark.parametrize("ridge", [-1e-9, math.nan, math.inf])
def test_bad_ridge_is_an_error(ridge: float) -> None:
    with pytest.raises(UsageError, match=f"ridge is {ridge}"):
        collect(randn(5, 2), randn(5, 1)).solve(ridge=ridge)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_an_error(value: float) -> None:
    x, y = randn(5, 2), randn(5, 1)
    with pytest.raises(UsageError, match="not finite"):
        collect(torch.full_like(x, value), y).solve()
    with pytest.raises(UsageError, match="not finite"):
        collect(x, torch.full_like(y, value)).solve()


def test_wrong_shapes_are_an_error() -> None:
    metric = NormalEquations(3, 2)
    with pytest.raises(UsageError, match=r"features have shape \(4, 2\): expected \(4, 3\)"):
        metric.update(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(UsageError, match=r"targets have shape \(4,\): expected \(4, 2\)"):
        metric.update(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(UsageError, match=r"targets have shape \(1, 2\): expected \(4, 2\)"):
        metric.update(torch.zeros(4, 3), torch.zeros(1, 2))
    with pytest.raises(UsageError, match="num_features is 0"):
        NormalEquations(0, 2)


def test_solve_is_a_pure_function_of_the_moments() -> None:
    moments = Moments(*(torch.tensor(value).double() for value in (2.0, [2.0], [6.0], [[4.0]], [[10.0]])))
    fitted = solve(moments)
    assert fitted.weight.item() == pytest.approx(2)
    assert fitted.bias.item() == pytest.approx(1)
    assert moments.solve(bias=False).weight.item() == pytest.approx(2.5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.01, 0.3])
@pytest.mark.parametrize("kind", ["random", "rank-deficient", "wide", "constant"])
def test_from_the_samples_the_same_map_is_found_as_from_the_sums(kind: str, ridge: float, bias: bool) -> None:
    x = torch.full((12, 20), 3.0).double() if kind == "constant" else design(kind)
    y = randn(len(x), 3, seed=3) + 5
    samples = WideLeastSquares()
    for start in range(0, len(x), 5):
        samples.update(x[start : start + 5], y[start : start + 5])
    sums, dual = collect(x, y).solve(ridge, bias), samples.solve(ridge, bias)
    torch.testing.assert_close(dual.weight, sums.weight, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(dual(x), sums(x), rtol=0, atol=1e-8)


def test_samples_that_cannot_be_fitted_are_refused_as_sums_are() -> None:
    for x, said in ((torch.empty(0, 20), "to no samples"), (torch.full((3, 20), math.inf), "not finite")):
        samples = WideLeastSquares()
        samples.update(x, torch.zeros(len(x), 2))
        with pytest.raises(UsageError, match=said):
            samples.solve()
    with pytest.raises(UsageError, match="ridge is -1"):
        samples.solve(-1)
