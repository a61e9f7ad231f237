"""Closed forms, limits, and error rates by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from lit_unlearn.reports.statistics import auc_variance, difference, share_variance


def test_with_no_known_deviation_it_is_students_t_of_two_samples(monkeypatch):
    monkeypatch.setattr("lit_unlearn.reports.statistics._PRIOR_OBSERVATIONS", 0)
    ours, theirs = [0.81, 0.83, 0.86], [0.78, 0.80, 0.79, 0.77, 0.82]
    found = difference(ours, theirs, known=1.0, sampling=0.0)
    expected = stats.ttest_ind(ours, theirs)
    assert found.mean / found.error == pytest.approx(expected.statistic)
    interval = expected.confidence_interval(0.9)
    assert (found.low(0.05), found.high(0.05)) == pytest.approx((interval.low, interval.high))


def test_one_model_on_each_side_has_the_known_deviation():
    found = difference([0.9], [0.8], known=0.03, sampling=0.0)
    assert (found.deviation, found.freedom, found.error) == pytest.approx((0.03, 4, 0.03 * math.sqrt(2)))
    assert found.low(0.05) == pytest.approx(0.1 - 0.03 * math.sqrt(2) * stats.t.ppf(0.95, 4))


def test_the_deviation_is_drawn_towards_the_known_one():
    theirs = [0.7, 0.8, 0.9, 0.8, 0.8]
    own = np.var(theirs, ddof=1)
    found = difference([0.8], theirs, known=0.01, sampling=0.0)
    assert found.deviation**2 == pytest.approx((4 * own + 4 * 0.01**2) / 8)


def test_the_images_add_their_variance_once_and_freedom():
    alone = difference([0.9], [0.8, 0.82], known=0.02, sampling=0.0)
    found = difference([0.9], [0.8, 0.82], known=0.02, sampling=0.001)
    assert found.error**2 == pytest.approx(alone.error**2 + 0.001)
    few, many = (difference([0.9], [0.8], known=0.02, sampling=v) for v in (0.0, 1e6))
    z = stats.norm.ppf(0.95)
    assert (many.mean - many.low(0.05)) / many.error == pytest.approx(z, rel=1e-3)
    assert (few.mean - few.low(0.05)) / few.error > z
    exact = difference([0.9], [0.8], known=0.0, sampling=0.04)
    assert exact.low(0.05) == pytest.approx(0.1 - 0.2 * z), "without noise of training only the images vary"


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_few_images_is_never_certain(share):
    p = (share * 3 + 2) / 7
    assert share_variance(share, 3) == pytest.approx(p * (1 - p) / 7)
    assert share_variance(share, 3) > 0.02
    assert share_variance(share, 10**6) == pytest.approx(share * (1 - share) / 10**6, abs=1e-11)
    assert share_variance(share, 0) == pytest.approx(1 / 16)


def test_the_variance_of_an_auc_is_that_of_simulated_ones():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        ours, theirs = generator.normal(1, size=(60, 1)), generator.normal(size=(1, 40))
        found.append(np.mean(ours > theirs))
    assert auc_variance(np.mean(found), 60, 40) == pytest.approx(np.var(found), rel=0.15)
    assert auc_variance(1.0, 50, 50) > 1e-4
    assert auc_variance(0.5, 10**4, 10**4) == pytest.approx(1 / (6 * 10**4), rel=1e-2), "(n + m + 1) / 12nm"


def test_bounds_cover_as_often_as_they_say():
    """Simulated models and images: whatever the true deviation, near the known one, at k = 1 and 3."""
    generator = np.random.default_rng(1)
    for count in (1, 3):
        missed = 0
        for _ in range(2000):
            groups = [0.8 + generator.normal(scale=0.015, size=n) for n in (count, 5)]
            images = generator.normal(scale=0.01)
            found = difference(list(groups[0] + images), list(groups[1]), known=0.015, sampling=0.0001)
            missed += found.low(0.05) > 0
        assert 0.03 < missed / 2000 < 0.07


def test_the_wider_bounds_are_welchs_where_the_method_varies_more(monkeypatch):
    ours, theirs = [0.82, 0.83, 0.88], [0.78, 0.80, 0.79, 0.77, 0.82]
    found = difference(ours, theirs, known=0.015, sampling=0.0)
    assert not found.varies_more, "not beyond doubt"
    assert found.lowest(0.05) < found.low(0.05) < found.mean < found.high(0.05) < found.highest(0.05)
    alike = difference([0.80, 0.80, 0.81], theirs, known=0.015, sampling=0.0)
    assert alike.highest(0.05) == alike.high(0.05)
    single = difference([0.8], theirs, known=0.015, sampling=0.0)
    assert (single.lowest(0.05), single.highest(0.05)) == (single.low(0.05), single.high(0.05))
    monkeypatch.setattr("lit_unlearn.reports.statistics._PRIOR_OBSERVATIONS", 0)
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.9)
    plain = difference(ours, theirs, known=1.0, sampling=0.0)
    assert (plain.lowest(0.05), plain.highest(0.05)) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("count", "ratio", "alike"), [(3, 1, 0.05), (3, 3, 0.18), (5, 5, 0.12)])
def test_how_often_a_method_that_leaks_has_an_upper_bound_below_it(count, ratio, alike):
    """Retrains half as noisy as is known, a method several times as noisy: bounds for equal ones are too narrow."""
    generator = np.random.default_rng(count)
    high, highest = [], []
    for _ in range(4000):
        groups = [generator.normal(scale=scale, size=n) for scale, n in ((0.01 * ratio, count), (0.005, 8))]
        found = difference(list(groups[0]), list(groups[1]), known=0.01, sampling=0.0)
        high.append(found.mean + found._alike(0.05) < 0)
        highest.append(found.highest(0.05) < 0)
    assert np.mean(high) > alike
    assert np.mean(highest) < 0.07


@pytest.mark.parametrize(("ratio", "at_most"), [(1, 0.06), (2, 0.11), (4, 0.10), (10, 0.07)])
def test_a_noisy_method_like_retrain_is_hardly_ever_above_it(ratio, at_most):
    """A bound of 5 % for models that vary alike; a deviation that is hardly larger goes unnoticed now and then."""
    generator = np.random.default_rng(ratio)
    low, alike = [], []
    for _ in range(4000):
        ours, theirs = (generator.normal(scale=scale, size=n) for scale, n in ((0.01 * ratio, 3), (0.01, 8)))
        found = difference(list(ours), list(theirs), known=0.01, sampling=0.0)
        low.append(found.low(0.05) > 0)
        alike.append(found.mean - found._alike(0.05) > 0)
    assert np.mean(low) < at_most
    assert ratio == 1 or np.mean(low) < np.mean(alike) - 0.02


def test_models_that_vary_more_than_retrains_beyond_doubt_have_wider_bounds():
    theirs = [0.8, 0.81, 0.79, 0.8, 0.82, 0.78, 0.8, 0.8]
    steady, noisy = (difference([0.9 - step, 0.9, 0.9 + step], theirs, 0.01, 0.0) for step in (0.01, 0.05))
    assert (steady.varies_more, noisy.varies_more) == (False, True)
    assert steady.low(0.05) > steady.lowest(0.05)
    assert noisy.low(0.05) == noisy.lowest(0.05)
    assert noisy.high(0.05) == noisy.highest(0.05)
    assert not difference([0.9], theirs, 0.01, 0.0).varies_more, "one model has no deviation"


def test_the_seeds_that_would_decide():
    def to_agree(found, same=0.05):
        return found.seeds_until(lambda of_more: of_more.highest(0.05) < same)

    def to_leak(found, leak=0.02):
        return found.seeds_until(lambda of_more: of_more.low(0.005) > leak)

    found = difference([0.80], [0.79, 0.80, 0.81, 0.80, 0.78], known=0.015, sampling=0.0)
    assert found.highest(0.05) > 0.05 / 2
    assert to_agree(found) == 1, "it is below as it stands"
    assert 1 < to_agree(found, 0.025) < 10
    assert to_leak(found) is None
    assert to_leak(difference([0.9], [0.8], 0.015, 0.0)) is not None, "above"
    between = difference([0.835], [0.8], 0.0, 0.0001)
    assert to_leak(between) is to_agree(between) is None, "between the margins"
    few = difference([0.8], [0.8], 0.015, sampling=0.01)
    assert to_leak(few) is to_agree(few) is None, "too few images"
    assert to_agree(difference([0.8], [0.8], 0.02, sampling=0.0001)) == 2
