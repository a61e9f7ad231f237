"""The challenge's score by hand, against a search over a grid of thresholds, and on models that are alike."""

import math

import pytest
import torch

from lit_unlearn.attacks import ForgettingQuality
from lit_unlearn.attacks.membership.forgetting_quality import epsilons, forgetting_quality
from lit_unlearn.errors import UsageError


def column(*values):
    return torch.tensor(values)[:, None]


def test_epsilon_by_hand():
    # 8 or more: FNR 1/4 and FPR 1/4. No other rule has errors on both sides and fewer of them.
    found = epsilons(column(5.0, 8.0, 9.0, 10.0), column(0.0, 1.0, 2.0, 8.5))
    assert found.item() == pytest.approx(math.log(0.75 - 1e-5) - math.log(0.25))
    assert epsilons(column(3.0, 4.0), column(1.0, 2.0)).item() == 50, "no error at all"
    assert epsilons(column(2.0, 2.0), column(2.0, 2.0)).item() == 0, "no rule separates equal values"
    assert epsilons(column(1.0, 1.01, 1.02, 1.03), column(0.0, 1.015, 1.1, 9.0)).item() == 50, "a peak"


def test_an_interval_finds_a_narrow_distribution_inside_of_a_wide_one():
    narrow, wide = column(4.0, 4.5, 5.5, 6.0), column(-9.0, 5.0, 18.0, 20.0)
    both = [epsilons(narrow, wide).item(), epsilons(wide, narrow).item()]
    # [4, 5.5]: one of four missed, one alarm.
    assert both == pytest.approx([math.log(3 - 4e-5)] * 2)
    threshold_alone = math.log(0.5 - 1e-5) - math.log(0.25)
    assert min(both) > threshold_alone


def by_grid(ours, theirs, delta=1e-5, step=0.05, reach=2.0):
    """ε of one image, rule by rule, over ends between the values, which are multiples of twice the step."""
    m, k = len(ours), len(theirs)
    width = [max(side) - min(side) for side in (ours, theirs)]
    if min(width) < 0.01 * max(width):
        return 50.0
    pairs = []
    high, low = (ours, theirs) if sorted_median(ours) >= sorted_median(theirs) else (theirs, ours)
    for number in range(round((min(ours + theirs) - 1) / step), round((max(ours + theirs) + 1) / step)):
        threshold = (number + 0.5) * step
        pairs.append((sum(x < threshold for x in high) / len(high), sum(x >= threshold for x in low) / len(low)))
    narrow, wide = (ours, theirs) if width[0] < width[1] else (theirs, ours)
    ends = round(reach / step)
    for right in range(-ends, ends + 1):
        r = max(narrow) + (right + 0.5) * step
        for left in range(-ends, ends + 1):
            low_end = r - (max(narrow) - min(narrow)) + left * step
            pairs.append((
                sum(not low_end <= x <= r for x in narrow) / len(narrow),
                sum(low_end <= x <= r for x in wide) / len(wide),
            ))  # fmt: skip
    best = 0.0
    for one, other in pairs:
        if one == other == 0:
            best = 50.0
        elif one and other:
            ways = [math.log(1 - delta - a) - math.log(b) for a, b in ((one, other), (other, one)) if 1 - delta - a > 0]
            best = max(best, *ways)
    assert m == k
    return best


def sorted_median(values):
    return torch.tensor(values).quantile(0.5).item()


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.5, 1.0), (0.0, 3.0), (4.0, 0.3)])
def test_epsilon_is_that_of_a_search_over_all_thresholds(shift, scale):
    draw = torch.Generator().manual_seed(2)
    ours, theirs = (
        (10 * (spread * torch.randn(9, 12, generator=draw) + centre)).round().double() / 10
        for spread, centre in ((scale, shift), (1.0, 0.0))
    )
    found = epsilons(ours, theirs).tolist()
    ranges = [(side.amax(0) - side.amin(0)).tolist() for side in (ours, theirs)]
    for number, value in enumerate(found):
        if ranges[0][number] != ranges[1][number]:  # which of two equal ranges is the narrower one is arbitrary
            assert value == pytest.approx(by_grid(ours[:, number].tolist(), theirs[:, number].tolist()))


def test_quality_by_hand():
    # log(20 - 1) rounds up to 3, so that there are six buckets of .5.
    epsilon = torch.tensor([0.0, 0.49, 0.5, 1.2, 2.9, 3.0, 50.0])
    assert forgetting_quality(epsilon, 20) == pytest.approx((1 + 1 + 1 / 2 + 1 / 4 + 1 / 32 + 0 + 0) / 7)


def test_alike_models_have_a_fifth_and_others_less():
    draw = torch.Generator().manual_seed(3)

    def score(models, shift):
        sides = (2 * torch.randn(models, 100, generator=draw) + move for move in (shift, 0.0))
        return forgetting_quality(epsilons(*sides), models)

    alike = [score(models, 0.0) for models in (20, 40)]
    assert alike == pytest.approx([0.19, 0.19], abs=0.04)
    assert score(20, 2.0) < 0.6 * alike[0]
    assert score(20, 40.0) == 0


def test_chunks_change_nothing(monkeypatch):
    draw = torch.Generator().manual_seed(4)
    ours, theirs = torch.randn(6, 40, generator=draw), torch.randn(6, 40, generator=draw)
    whole = epsilons(ours, theirs)
    monkeypatch.setitem(epsilons.__globals__, "_AT_ONCE", 13**2 * 3)
    assert torch.equal(epsilons(ours, theirs), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"models": 2}, "models is 2, but must be at least 3"), ({"bootstrap": 1}, "bootstrap is 1")],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        ForgettingQuality(**options)
    with pytest.raises(UsageError, match="log odds have shapes"):
        epsilons(torch.zeros(3, 2), torch.zeros(3, 4))
