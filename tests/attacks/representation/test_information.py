import math

import pytest
import torch
from torch import Tensor

from lit_unlearn.attacks.representation.information import balanced_mean, pointwise_information
from lit_unlearn.errors import UsageError


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits(yes: Tensor, no: Tensor, **settings: int) -> float:
    return float(balanced_mean(pointwise_information([yes], [no], **settings)[0], len(yes))[0])


def test_sets_apart_tell_all_and_equal_sets_tell_nothing() -> None:
    assert bits(randn(200, 4) + 9, randn(400, 4, seed=1)) == pytest.approx(1, abs=0.01)
    assert abs(bits(randn(2000, 4), randn(2000, 4, seed=1))) < 0.02


def test_a_coordinate_that_tells_half_of_the_time_tells_half_a_bit() -> None:
    # yes is at 1 or 2, no at 0 or 1, each half of the time: at 1 nothing is known, elsewhere all is.
    coin = (randn(4000, 1) > 0).float()
    assert bits(coin[:2000] + 1, coin[2000:]) == pytest.approx(0.5, abs=0.03)


def test_two_normal_sets_reach_the_exact_information() -> None:
    # z = ±1 + noise: 1 - E log₂(1 + e^(-2z)) over z ~ N(1, 1), integrated on a grid.
    z = torch.linspace(-9, 11, 20001).double()
    density = torch.exp(-((z - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
    exact = float((density * (1 - torch.log2(1 + torch.exp(-2 * z)))).sum() * (z[1] - z[0]))
    assert bits(randn(4000, 1) + 1, randn(4000, 1, seed=1) - 1) == pytest.approx(exact, abs=0.02)


def test_a_ring_is_seen_which_no_line_can_cut() -> None:
    angle = 2 * math.pi * torch.rand(1000, generator=torch.Generator().manual_seed(2))
    ring = 4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * randn(1000, 2)
    assert bits(ring, randn(1000, 2, seed=1)) > 0.8


def test_each_sample_is_scored_by_a_critic_that_did_not_see_it() -> None:
    # Noise in many dimensions can be learnt by heart; held-out samples show that nothing was learnt.
    assert bits(randn(40, 200), randn(40, 200, seed=1)) < 0.1


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_scale_and_place_do_not_matter(scale: float) -> None:
    yes, no = randn(100, 3) + 1, randn(100, 3, seed=1)
    moved = bits(scale * (yes.double() + 2), scale * (no.double() + 2))
    assert moved == pytest.approx(bits(yes, no), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20])
def test_one_point_tells_nothing(value: float) -> None:
    told = bits(torch.full((50, 3), value), torch.full((70, 3), value))
    assert told <= 0
    assert told == pytest.approx(0, abs=0.01)


def test_the_same_call_gives_the_same_numbers_and_leaves_the_random_state() -> None:
    yes, no = randn(30, 3) + 0.5, randn(31, 3, seed=1)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = pointwise_information([yes], [no])[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(pointwise_information([yes], [no])[0], first)
    assert not torch.equal(pointwise_information([yes], [no], seed=1)[0], first)
    assert first.shape == (61,)
    assert first.dtype == torch.float64
    assert first.max() <= 1


def test_samples_keep_their_places() -> None:
    yes, no = randn(20, 2) + 5, randn(20, 2, seed=1) - 5
    yes[7] = -5  # one that looks like the other set
    told = pointwise_information([yes], [no])[0]
    assert told[7] < -1
    assert torch.cat([told[:7], told[8:]]).min() > 0


def test_the_balanced_mean_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0, 0.0, 0.0, 6.0], [0.0, 0.0, 1.0, 1.0, 1.0]]).double()
    mean, error = balanced_mean(values, 2)
    assert mean.tolist() == [2.0, 0.5]
    assert error.tolist() == pytest.approx([math.sqrt((2 / 2 + 12 / 3) / 4), 0])


@pytest.mark.parametrize(("yes", "no"), [((1, 3), (5, 3)), ((5, 3), (5, 2)), ((5,), (5,))])
def test_sets_that_do_not_fit(yes: tuple[int, ...], no: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="at least two samples each"):
        pointwise_information([torch.zeros(yes)], [torch.zeros(no)])


def test_several_representations_side_by_side_are_each_as_if_it_were_alone() -> None:
    yes = [randn(41, 3) + 1, randn(41, 7, seed=1), 5 * randn(41, 5, seed=2) - 2]
    no = [randn(60, 3, seed=3), randn(60, 7, seed=4), randn(60, 5, seed=5)]
    together = pointwise_information(yes, no, steps=80)
    alone = [pointwise_information([one], [other], steps=80)[0] for one, other in zip(yes, no, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-4)
