import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lit_unlearn.attacks.recovery.scaling import NormGate, Standardiser, unit_norm
from lit_unlearn.errors import UsageError


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(metric, x: Tensor, batch: int = 16):
    for part in x.split(batch):
        metric.update(part)
    return metric.compute()


def merged(make, x: Tensor):
    whole = make()
    whole.update(x[::4])
    for rank in range(1, 4):
        shard = make()
        shard.update(x[rank::4])
        whole.merge_state(shard)
    return whole


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e-200, 1e200])
def test_unit_norm_forgets_the_scale_and_nothing_else(scale: float) -> None:
    x = randn(20, 6)
    expected = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit_norm(x * scale), expected, rtol=1e-14, atol=0)


def test_unit_norm_of_small_floats_and_of_zeros() -> None:
    x = randn(20, 6).float()
    torch.testing.assert_close(unit_norm(x * 1e-30), unit_norm(x), rtol=1e-6, atol=1e-9)
    assert unit_norm(x).dtype == torch.float64
    assert unit_norm(torch.zeros(2, 3)).eq(0).all()


def test_standardising_equals_sklearn() -> None:
    x = randn(300, 5) * torch.tensor([1.0, 1e-5, 1e5, 3.0, 1.0]) + torch.tensor([0.0, 1e-4, 1.0, -7.0, 2.0])
    x[:, 4] = 0.3  # dead
    scaled = fitted(Standardiser(5), x)(x)
    expected = torch.from_numpy(StandardScaler().fit_transform(x[:, :4].numpy()))
    torch.testing.assert_close(scaled[:, :4], expected, rtol=1e-9, atol=1e-9)
    assert scaled[:, 4].eq(0).all()
    assert fitted(Standardiser(5), x)(x + 5)[:, 4].eq(0).all()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_standardising_no_samples() -> None:
    with pytest.raises(UsageError, match="calibration set is empty"):
        Standardiser(3).compute()


def two_groups() -> tuple[Tensor, Tensor]:
    """Long samples, and short ones with the same spread of lengths; both with directions of their own."""
    long = unit_norm(randn(40, 4)) * torch.linspace(1, 2, 40)[:, None]
    short = 1e-3 * unit_norm(randn(20, 4, seed=1)) * torch.linspace(1, 2, 20)[:, None]
    return long, short


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e4])
def test_the_gate_brings_short_samples_to_the_length_of_the_others(scale: float) -> None:
    long, short = (scale * group for group in two_groups())
    gate = fitted(NormGate(), torch.cat([long, short]))
    assert torch.equal(gate(long), long)
    ratio = long.norm(dim=1).log().mean().exp() / short.norm(dim=1).log().mean().exp()
    torch.testing.assert_close(gate(short), short * ratio, rtol=1e-12, atol=0)
    middle = long[:1] / long[0].norm() * (short.norm(dim=1).max() * long.norm(dim=1).min()).sqrt()
    torch.testing.assert_close(gate(1.05 * middle), 1.05 * middle)  # the cut is the middle of the empty valley
    torch.testing.assert_close(gate(0.95 * middle), 0.95 * middle * ratio)


@pytest.mark.parametrize(
    "x",
    [randn(500, 8), torch.rand(500, 1).exp2() * torch.ones(1, 3), torch.ones(10, 3), torch.zeros(10, 3)],
    ids=["normal", "uniform in the logarithm", "constant", "zeros"],
)
def test_the_gate_leaves_one_group_alone(x: Tensor) -> None:
    assert torch.equal(fitted(NormGate(), x)(x), x.double())


def test_zeros_belong_to_no_group() -> None:
    long, short = two_groups()
    zeros = torch.zeros(30, 4, dtype=torch.float64)
    with_zeros = fitted(NormGate(), torch.cat([long, zeros, short]))
    assert torch.equal(with_zeros(short), fitted(NormGate(), torch.cat([long, short]))(short))
    assert with_zeros(zeros).eq(0).all()


@pytest.mark.parametrize("make", [NormGate, lambda: Standardiser(4)])
def test_four_shards_merged_equal_one_pass(make) -> None:
    x = torch.cat(two_groups())
    torch.testing.assert_close(merged(make, x).compute()(x), fitted(make(), x)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [NormGate, lambda: Standardiser(4)])
def test_memory_does_not_grow_with_the_samples(make) -> None:
    def held(count: int) -> int:
        metric = make()
        fitted(metric, randn(count, 4))
        return sum(getattr(metric, name).nbytes for name in metric._defaults)

    assert held(16) == held(1600)
