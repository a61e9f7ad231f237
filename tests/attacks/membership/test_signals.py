"""Signals against their formulas, draws against counting, ROC numbers by hand and against noise."""

import math

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from lit_unlearn.attacks.membership import signals as membership
from lit_unlearn.attacks.membership.signals import SIGNALS, Scores
from lit_unlearn.errors import UsageError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(count=50, classes=4, scale=3.0, seed=0):
    draw = seeded(seed)
    return scale * torch.randn(count, classes, generator=draw), torch.randint(0, classes, (count,), generator=draw)


def test_margin_is_the_log_odds_and_stays_finite_where_those_do_not():
    z, y = logits()
    p = z.double().softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(membership.margin(z, y), (p / (1 - p)).log())
    sure = torch.tensor([[100.0, 0.0, 0.0], [0.0, 100.0, 0.0]])
    found = membership.margin(sure, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([100 - math.log(2), -100])
    assert found.dtype == torch.float64


def test_the_taylor_softmax_tells_images_apart_on_which_the_softmax_is_one():
    """By hand: T is 2, m .6, and t(x) = 1 + x + x²/2 + x³/6."""
    z = torch.tensor([[3.0, 1.0, -1.0], [40.0, 0.0, 2.0], [60.0, 0.0, 2.0], [-40.0, 0.0, 0.0]])
    y = torch.tensor([1, 0, 0, 0])

    def t(x):
        return max(1 + x + x**2 / 2 + x**3 / 6, 2.2250738585072014e-308)

    expected = [t(-0.1) / (t(-0.1) + t(1.5) + t(-0.5))]
    expected += [t(x / 2 - 0.6) / (t(x / 2 - 0.6) + t(0) + t(1)) for x in (40, 60)]
    expected.append(t(-20.6) / (t(-20.6) + 2))
    found = membership.taylor_softmax(z, y)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[2] > found[1] + 1e-3, "here the softmax rounds to 1 for both"
    assert (found > 0).all()
    assert found.dtype == torch.float64


def test_signals_are_their_formulas_and_the_higher_the_more_like_training():
    z, y = logits()
    p = z.double().softmax(1).numpy()
    own = p[np.arange(len(y)), y]
    m_entropy = []
    for row, label in zip(p, y.tolist(), strict=True):
        rest = sum(row[c] * math.log(1 - row[c]) for c in range(4) if c != label)
        m_entropy.append(-(1 - row[label]) * math.log(row[label]) - rest)
    expected = {
        "loss": np.log(own),
        "confidence": own,
        "entropy": (p * np.log(p)).sum(1),
        "m_entropy": -np.array(m_entropy),
        "margin": np.log(own / (1 - own)),
    }
    assert SIGNALS.keys() == expected.keys()
    for name, signal in SIGNALS.items():
        np.testing.assert_allclose(signal(z, y).numpy(), expected[name], rtol=1e-9, err_msg=name)
    right, wrong = torch.tensor([[9.0, 0, 0]]), torch.tensor([[1.0, 0, 0]])
    for name, signal in SIGNALS.items():
        assert signal(right, torch.tensor([0])) > signal(wrong, torch.tensor([0])), name


def test_modified_entropy_of_sure_answers():
    z, y = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]]), torch.tensor([0, 0])
    right, wrong = membership.modified_entropy(z, y).tolist()
    assert 0 <= right < 1e-80
    # Both terms are the log of a probability of e⁻²⁰⁰, the second of e⁻²⁰⁰ twice.
    assert wrong == pytest.approx(200 + 200 - math.log(2))


@pytest.mark.parametrize(("z", "y"), [((3, 1), (3,)), ((3, 4), (2,)), ((12,), (12,))])
def test_shapes_that_do_not_fit(z, y):
    with pytest.raises(UsageError, match="logits and labels have shapes"):
        membership.margin(torch.zeros(z), torch.zeros(y, dtype=torch.int64))


def published(p, labels):
    """What the published code of the field computes, put down from its description, one entry at a time."""
    found = {"correctness": [], "confidence": [], "entropy": [], "m_entropy": [], "prob": []}
    for row, label in zip(p, labels, strict=True):
        log = [math.log(value if value > 0 else 1e-30) for value in row]
        found["correctness"].append(float(row.argmax() == label))
        found["confidence"].append(row[label])
        found["entropy"].append(-sum(value * log[c] for c, value in enumerate(row)))
        found["m_entropy"].append(-sum((1 - v if c in set(labels) else v) * log[c] for c, v in enumerate(row)))
        found["prob"].append(row)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("present", [[0, 1], [0, 1, 2, 3]])
def test_published_signals_and_their_wrong_m_entropy(present):
    z, _ = logits(scale=40.0)
    y = torch.tensor(present).repeat(50)[:50]
    assert (z.softmax(1) == 0).any()
    found = membership.published_signals(z, y)
    expected = published(z.softmax(1).numpy().astype(np.float64), y.tolist())
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name].numpy(), expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    z, y = logits()
    wrong = membership.published_signals(z, y)["m_entropy"].double()
    assert (wrong - membership.modified_entropy(z, y)).abs().min() > 0.01


def test_a_balanced_subset_has_equal_classes_and_tops_up_where_one_is_short():
    labels = torch.tensor([0] * 50 + [1] * 50 + [2] * 4)
    assert labels[membership.class_balanced(labels, 12, seeded())].bincount().tolist() == [4, 4, 4]
    short = membership.class_balanced(labels, 25, seeded())
    assert labels[short].bincount()[2] == 4
    assert sorted(labels[short].bincount()[:2].tolist()) == [10, 11]
    assert len(set(short.tolist())) == 25
    assert sorted(membership.class_balanced(labels, 1000, seeded()).tolist()) == list(range(104))


def test_draws_depend_on_the_seed_alone():
    labels = torch.arange(90) % 3
    for draw, other in ((membership.class_balanced, 9), (membership.class_matched, torch.tensor([0, 0, 1]))):
        assert torch.equal(draw(labels, other, seeded(0)), draw(labels, other, seeded(0)))
        assert not torch.equal(draw(labels, other, seeded(0)), draw(labels, other, seeded(1)))


def test_matched_classes_have_the_shares_that_are_wanted_and_as_many_as_there_are():
    labels = torch.tensor([0] * 30 + [1] * 30 + [2] * 30)
    found = membership.class_matched(labels, torch.tensor([0] * 4 + [1] * 2 + [7]), seeded())
    assert labels[found].bincount().tolist() == [30, 15]
    assert membership.class_matched(labels, torch.tensor([5, 6]), seeded()).tolist() == []
    assert membership.class_matched(labels[:0], torch.tensor([0]), seeded()).tolist() == []
    assert membership.class_matched(labels, labels[:0], seeded()).tolist() == []


def test_halves_share_no_sample_and_match_classes():
    members, others = torch.tensor([0, 0, 1, 1, 3, 3]), torch.arange(3).repeat_interleave(10)
    first, second = membership.matched_halves(members, others, seeded())
    assert first[0].tolist() == [0, 2]  # class 3 has no counterpart
    assert second[0].tolist() == [1, 3]
    for (_, theirs), start in ((first, 0), (second, 1)):
        assert (theirs % 2 == start).all()
        assert others[theirs].bincount().tolist() == [5, 5]


def test_support_vectors_are_scikit_learns():
    draw = seeded()
    members, others, forget = (torch.rand(40, generator=draw) + shift for shift in (0.4, 0.0, 0.2))
    machine = SVC(kernel="rbf", C=3, gamma="auto")
    known = np.concatenate([members, others])[:, None]
    machine.fit(known, np.repeat(["in", "out"], 40))
    expected = np.mean(machine.predict(forget.numpy()[:, None]) == "out")
    assert 0.2 < expected < 0.8
    assert membership.svc_non_member_share(members, others, forget) == expected
    for sides in ((members[:0], others, forget), (members, others[:0], forget), (members, others, forget[:0])):
        assert math.isnan(membership.svc_non_member_share(*sides))


def test_auc_and_tpr_by_hand():
    scores = Scores(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0]))
    assert membership.auc(*scores) == (1 + 1 + 0 + 0.5) / 4
    half = Scores(torch.tensor([9.0, 5.0, 5.0, 1.0]), torch.tensor([7.0, 5.0]))
    assert membership.tpr_at_fpr(half, 0.5) == 0.25  # at 5 both unseen samples would be alarms
    hundred = Scores(torch.tensor([98.5, 97.5, 200.0]), torch.arange(100.0))
    assert membership.tpr_at_fpr(hundred, 0.01) == 2 / 3
    assert math.isnan(membership.tpr_at_fpr(hundred, 0.001))
    assert math.isnan(membership.auc(*Scores(torch.tensor([]), torch.tensor([1.0]))))
    assert math.isnan(membership.tpr_at_fpr(Scores(torch.tensor([]), torch.arange(100.0)), 0.01))
    assert membership.tpr_at_fpr(Scores(torch.tensor([2e3, 5.0]), torch.arange(1000.0)), 0.001) == 0.5


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_a_level_out_of_range(level):
    with pytest.raises(UsageError, match="level is"):
        membership.tpr_at_fpr(Scores(torch.ones(2), torch.ones(2)), level)


def test_scores_beyond_the_unit_interval_keep_their_order():
    scores = Scores(torch.tensor([60.0, 70.0], dtype=torch.float64), torch.tensor([50.0, 40.0], dtype=torch.float64))
    assert membership.auc(*scores) == 1
    close = Scores(torch.tensor([1 + 1e-12], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64))
    assert membership.auc(*close) == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_held_out_attack_learns_its_direction_and_threshold(sign):
    draw = seeded()
    halves = [Scores(*(sign * (torch.randn(1000, generator=draw) + s) for s in (2.0, 0.0))) for _ in range(2)]
    found = membership.held_out_attack(*halves)
    assert found["direction"] == sign
    assert found["auc"] == pytest.approx(0.921, abs=0.02)  # Φ(2/√2)
    assert found["balanced_accuracy"] == pytest.approx(0.841, abs=0.02)  # Φ(1)
    assert 0 < found["tpr_at_0.1pct"] < found["tpr_at_1pct"] < 0.6


def test_the_threshold_is_that_of_the_calibration_half():
    learn = Scores(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0]))
    found = membership.held_out_attack(learn, Scores(torch.tensor([1.5, 2.5]), torch.tensor([1.0, 2.0])))
    assert found["balanced_accuracy"] == 0.5  # threshold 2: one of two found, one of two alarms
    assert found["auc"] == 0.75
    assert math.isnan(found["tpr_at_1pct"])


def test_labels_without_meaning_give_a_coin():
    draw = seeded(3)
    for _ in range(20):
        halves = [Scores(torch.randn(300, generator=draw), torch.randn(200, generator=draw)) for _ in range(2)]
        found = membership.held_out_attack(*halves)
        assert abs(found["auc"] - 0.5) < 3 * math.sqrt((1 / 300 + 1 / 200) / 12)


def test_without_samples_nothing_is_known():
    whole, nobody = Scores(torch.ones(3), torch.zeros(3)), Scores(torch.ones(3), torch.zeros(0))
    for halves in ((whole, nobody), (nobody, whole)):
        found = membership.held_out_attack(*halves)
        assert tuple(found) == membership.HELD_OUT_NUMBERS
        assert all(math.isnan(value) for value in found.values())
