"""LiRA and RMIA on cases by hand and on a simulation in which members are known."""

import math

import pytest
import torch
from scipy.stats import norm

from lit_unlearn.attacks.membership.likelihood_ratio import (
    lira_offline,
    lira_online,
    rmia_offline,
    rmia_ordered,
    unlearned_lira,
)
from lit_unlearn.attacks.membership.signals import Scores, tpr_at_fpr
from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.detection import auc

OUT = torch.tensor([[0.0, 10.0], [2.0, 10.0], [4.0, 13.0]])
CENTRE, SQUARES = (2.0, 10.0), (4.0, 3.0)


def test_offline_lira_by_hand():
    phi = torch.tensor([3.0, 12.0])
    for variance, spread in (("per_sample", [2.0, math.sqrt(3)]), ("fixed", [math.sqrt(3.5)] * 2)):
        expected = [(x - c) / s for x, c, s in zip(phi.tolist(), CENTRE, spread, strict=True)]
        assert lira_offline(phi, OUT, variance).tolist() == pytest.approx(expected)


def test_online_lira_by_hand():
    phi, inside = torch.tensor([3.0, 12.0]), torch.tensor([[5.0, 12.0], [7.0, 20.0]])
    for variance, spread_in, spread_out in (
        ("per_sample", [math.sqrt(2), math.sqrt(32)], [2.0, math.sqrt(3)]),
        # Variances 2 and 32 of two, 4 and 3 of three: (2 + 2 · 4)/3 and (32 + 2 · 3)/3, 8 on average.
        ("fixed", [math.sqrt(8)] * 2, [math.sqrt(8)] * 2),
    ):
        expected = [
            norm.logpdf(phi[i].item(), centre, spread_in[i]) - norm.logpdf(phi[i].item(), CENTRE[i], spread_out[i])
            for i, centre in enumerate((6.0, 16.0))
        ]
        assert lira_online(phi, inside, OUT, variance).tolist() == pytest.approx(expected)


def test_beyond_both_medians_a_sample_never_looks_less_seen_again():
    inside = torch.tensor([[9.0], [10.0], [11.0]])
    out = torch.tensor([[3.0], [5.0], [7.0]])
    scores = torch.stack([lira_online(torch.tensor([phi]), inside, out) for phi in (5.0, 10.0, 13.0, 20.0)])
    assert (scores.diff(dim=0) > 0).all()


def test_scores_far_in_the_tail_keep_their_order():
    found = lira_offline(torch.tensor([100.0, 200.0]), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert found.tolist() == pytest.approx([100 / math.sqrt(2), 200 / math.sqrt(2)])


def test_references_that_agree_do_not_divide_by_zero():
    found = lira_offline(torch.tensor([1.0, 2.0]), torch.ones(3, 2), "per_sample")
    assert found.isfinite().all()
    assert found[1] > found[0] == 0


def simulated(effect, count=2000, references=16, seed=0):
    """Log odds of samples of very unequal difficulty; membership lifts them. Some answers are too low, as in life."""
    draw = torch.Generator().manual_seed(seed)
    difficulty = 4 * torch.randn(2 * count, generator=draw)
    member = torch.arange(2 * count) < count
    out = difficulty + torch.randn(references, 2 * count, generator=draw)
    inside = difficulty + effect + torch.randn(references, 2 * count, generator=draw)
    phi = difficulty + effect * member + torch.randn(2 * count, generator=draw)
    return phi, member, inside, out


def told(score, member):
    return auc(*Scores(score[member], score[~member]))


def test_comparison_with_references_finds_members_where_the_answer_alone_does_not():
    phi, member, inside, out = simulated(1.5)
    assert told(phi, member) < 0.65
    exact = norm.cdf(1.5 / math.sqrt(2))
    for variance in ("fixed", "per_sample"):
        assert exact - 0.05 < told(lira_offline(phi, out, variance), member) < exact + 0.02
        assert exact - 0.05 < told(lira_online(phi, inside, out, variance), member) < exact + 0.02
    p, others = phi.sigmoid(), out.sigmoid()
    z = slice(member.sum(), None)
    assert told(rmia_offline(p, others, p[z], others[:, z]), member) > told(phi, member) + 0.05


def test_the_tail_is_better_than_the_density():
    phi, member, _, out = simulated(1.5)
    centre, spread = out.double().quantile(0.5, 0), out.double().var(0).mean().sqrt()
    density = ((phi - centre) / spread).square()
    assert told(lira_offline(phi, out), member) > told(density, member) + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_permuted_labels_give_a_coin(seed):
    phi, member, inside, out = simulated(1.5, seed=seed)
    shuffled = member[torch.randperm(len(member), generator=torch.Generator().manual_seed(seed + 10))]
    allowed = 3 * math.sqrt((1 / 2000 + 1 / 2000) / 12)
    p, others = phi.sigmoid(), out.sigmoid()
    scores = (lira_offline(phi, out), lira_online(phi, inside, out), rmia_offline(p, others, p[:99], others[:, :99]))
    assert all(abs(told(score, shuffled) - 0.5) < allowed for score in scores)


def test_rmia_by_hand():
    """With a = .3 the denominators are .65 · out + .35: for x .675 and .48, for z .61, .545 and .935."""
    p, out = torch.tensor([0.9, 0.2]), torch.tensor([[0.4, 0.1], [0.6, 0.3]])
    z, out_z = torch.tensor([0.61, 0.1, 0.8]), torch.tensor([[0.4, 0.3, 0.9]])
    out_z = torch.cat([out_z, out_z])
    # ratios of x: 1.333 and .417; of z: 1, .183 and .856.
    assert rmia_offline(p, out, z, out_z).tolist() == [1.0, pytest.approx(1 / 3)]
    assert rmia_offline(p, out, z, out_z, gamma=1.35).tolist() == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    # a = 1: the denominator is the mean of OUT; .9/.5 = 1.8 and .2/.2 = 1 against 1.525, .333 and .889.
    assert rmia_offline(p, out, z, out_z, a=1.0).tolist() == [1.0, pytest.approx(2 / 3)]


def test_a_ratio_equal_to_that_of_z_counts():
    same = torch.tensor([0.5]), torch.tensor([[0.5]])
    assert rmia_offline(*same, *same).tolist() == [1.0]


@pytest.mark.parametrize("seed", range(8))
def test_members_above_every_z_are_found_without_false_alarms(seed):
    draw = torch.Generator().manual_seed(seed)
    p, z = torch.rand(3000, generator=draw) / 2, torch.rand(2500, generator=draw) / 2
    p[:500] += 0.5
    known = p, torch.full((5, 3000), 0.5), z, torch.full((5, 2500), 0.5)
    scores, ordered = rmia_offline(*known), rmia_ordered(*known)
    step = 1 / 2500
    assert ((scores <= ordered) & (ordered < scores + step)).all()
    assert (ordered[p.argsort()].diff() >= 0).all()
    assert tpr_at_fpr(Scores(ordered[:500], ordered[500:]), 0.001) == 1


def test_u_lira_of_one_more_model_that_never_saw_the_samples_is_a_coin():
    phi, member, inside, out = simulated(1.0)
    asked, never = unlearned_lira(phi[~member], inside[:, ~member], out[:, ~member])
    assert asked.shape == never.shape == (16, 2000)
    # Pairs of one sample hang together: the noise is that of the samples, not of the pairs.
    assert beside_each(asked, never) == pytest.approx(0.5, abs=3 * math.sqrt(2 / 2000 / 12))
    asked, never = unlearned_lira(phi[member], inside[:, member], out[:, member])
    assert beside_each(asked, never) > 0.7


def beside_each(asked, never):
    return sum(auc(*pair) for pair in zip(asked, never, strict=True)) / len(asked)


def test_with_few_references_u_lira_is_a_coin_only_beside_each_left_out_model():
    """Pooled, scores are compared whose references differ: one of exchangeable models then gets less than .5."""
    draw, trials = torch.Generator().manual_seed(0), 6000
    phi, inside, out = (torch.randn(n, trials, generator=draw) for n in (1, 2, 3))
    asked, never = unlearned_lira(phi[0], inside + 1, out, "per_sample")
    right = (asked > never).double().mean()
    pooled = torch.stack([(asked[i] > never[j]).double().mean() for i in range(3) for j in range(3)]).mean()
    assert right == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(trials))
    assert pooled < right - 0.005


def test_lira_keeps_its_order_far_below_the_references():
    """1 - Φ is 1 for all of them: over-forgetting would look like a coin."""
    draw = torch.Generator().manual_seed(0)
    out = torch.randn(5, 200, generator=draw)
    phi = torch.cat([torch.full((100,), -800.0), torch.full((100,), -400.0)]) + torch.randn(200, generator=draw)
    scores = lira_offline(phi, out)
    assert auc(scores[:100], scores[100:]) == 0


def test_u_lira_leaves_out_the_model_that_it_scores():
    phi, out = torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 1.0], [2.0, 5.0], [5.0, 3.0]])
    inside = torch.tensor([[4.0, 4.0], [5.0, 7.0]])
    asked, never = unlearned_lira(phi, inside, out, "per_sample")
    rest = out[[0, 2]]
    assert torch.equal(never[1], lira_online(out[1], inside, rest, "per_sample"))
    assert torch.equal(asked[1], lira_online(phi, inside, rest, "per_sample"))


def test_errors():
    phi = torch.zeros(2)
    with pytest.raises(UsageError, match=r"unknown variance 'per-sample'; did you mean 'per_sample'"):
        lira_offline(phi, OUT, "per-sample")
    for wrong, least in ((OUT[:1], 2), (OUT[:, :1], 2), (OUT[0], 2)):
        with pytest.raises(UsageError, match=rf"expected \(N,\) and \(k, N\) with k at least {least}"):
            lira_offline(phi, wrong)
    with pytest.raises(UsageError, match="k at least 3"):
        unlearned_lira(phi, OUT, OUT[:2])
    p, out = torch.full((2,), 0.5), torch.full((1, 2), 0.5)
    for a in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match=r"a is .*"):
            rmia_offline(p, out, p, out, a=a)
    for gamma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"gamma is .*"):
            rmia_offline(p, out, p, out, gamma=gamma)
    with pytest.raises(UsageError, match="population, which is empty"):
        rmia_offline(p, out, p[:0], out[:, :0])
    with pytest.raises(UsageError, match="k at least 1"):
        rmia_offline(p, out[:0], p, out)


def test_a_gamma_of_2_sees_nothing_where_the_references_are_half_sure():
    sure, half, population = torch.ones(1), torch.full((2, 1), 0.5), torch.ones(5)
    ratio = 1 / (0.65 * 0.5 + 0.35)  # 1.48; each of the population has 1
    assert rmia_offline(sure, half, population, population.expand(2, 5), gamma=1.0).item() == 1
    assert rmia_offline(sure, half, population, population.expand(2, 5), gamma=ratio + 0.01).item() == 0
    assert rmia_offline(sure, half, population, population.expand(2, 5), gamma=2.0).item() == 0
