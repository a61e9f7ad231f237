"""Accuracy that is exact, and the scores made from it."""

import math

import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.evaluation import MIA_EFFICACY, SplitAccuracy, gap_to_retrain, tow, unlearning_scores

UNLEARNED = {"forget_acc": 0.1, "retain_acc": 0.9, "test_retain_acc": 0.8, "test_forget_acc": 0.05}
RETRAIN = {"forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": 0.75}


def logits(answers: list[int], classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(answers, dtype=torch.int64), classes).float()


def test_shards_of_unequal_size_are_exact() -> None:
    merged = SplitAccuracy()
    merged.update(logits([0, 1, 2]), torch.tensor([0, 1, 1]))
    for answers, labels in (([2], [0]), ([], [])):
        shard = SplitAccuracy()
        shard.update(logits(answers), torch.tensor(labels, dtype=torch.int64))
        merged.merge_state(shard)
    assert merged.value == 0.5
    assert merged.compute().dtype == torch.float64


def test_states_are_integers_summed_across_ranks() -> None:
    metric = SplitAccuracy()
    metric.update(logits([0, 1]), torch.tensor([0, 1]))
    assert metric.correct.dtype == metric.total.dtype == torch.int64
    assert metric.value == 1
    metric.update(logits([0]), torch.tensor([1]))
    metric.distributed_available_fn = lambda: True
    # The other rank has seen as many samples, and been right on one of them.
    metric.dist_sync_fn = lambda state, group: [state, state - (state == metric.correct).long()]
    assert metric.value == 3 / 6


def test_counts_beyond_float32_are_exact() -> None:
    metric = SplitAccuracy()
    metric.correct, metric.total = torch.tensor(2**24), torch.tensor(2**24)
    metric.update(logits([0]), torch.tensor([1]))
    assert metric.value == 2**24 / (2**24 + 1) != 1


def test_an_empty_split_is_undefined() -> None:
    metric = SplitAccuracy()
    metric.update(logits([]), torch.tensor([], dtype=torch.int64))
    assert metric.value is None
    assert metric.compute().isnan()
    metric.update(logits([1]), torch.tensor([0]))
    assert metric.value == 0


def test_nan_is_no_answer() -> None:
    metric = SplitAccuracy()
    # argmax takes NaN for the greatest, so a diverged model would answer class 0 and be right.
    metric.update(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.int64))
    assert metric.value == 0


def test_forward_gives_the_batch_and_keeps_the_sum() -> None:
    metric = SplitAccuracy()
    assert metric(logits([0]), torch.tensor([0])) == 1
    assert metric(logits([0]), torch.tensor([1])) == 0
    assert metric.value == 0.5


def test_wrong_shapes_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"shapes \(2, 3\) and \(1,\)"):
        SplitAccuracy().update(logits([0, 1]), torch.tensor([0]))
    with pytest.raises(UsageError, match=r"shapes \(2,\) and \(2,\)"):
        SplitAccuracy().update(torch.zeros(2), torch.tensor([0, 1]))


def test_scores_by_hand() -> None:
    assert unlearning_scores(UNLEARNED) == pytest.approx({"UA": 90, "RA": 90, "TA": 80})


def test_gaps_by_hand() -> None:
    expected = {"UA": 10, "RA": 10, "TA": 5, "mean": 25 / 3}
    assert gap_to_retrain(UNLEARNED, RETRAIN) == pytest.approx(expected)
    assert gap_to_retrain(RETRAIN, UNLEARNED) == pytest.approx(expected)


def test_membership_is_the_fourth_gap_where_both_models_have_it() -> None:
    ours, theirs = {**UNLEARNED, MIA_EFFICACY: 0.25}, {**RETRAIN, MIA_EFFICACY: 1.0}
    assert unlearning_scores(ours) == pytest.approx({"UA": 90, "RA": 90, "TA": 80, "MIA": 25})
    assert gap_to_retrain(ours, theirs) == pytest.approx({"UA": 10, "RA": 10, "TA": 5, "MIA": 75, "mean": 25})
    three = gap_to_retrain(UNLEARNED, RETRAIN)
    for pair in ((ours, RETRAIN), (UNLEARNED, theirs), (ours, {**theirs, MIA_EFFICACY: math.nan})):
        assert gap_to_retrain(*pair) == three
    assert tow(ours, theirs) == tow(UNLEARNED, RETRAIN)
    without_utility = {name: value for name, value in theirs.items() if name != "retain_acc"}
    assert set(gap_to_retrain(ours, without_utility)) == {"UA", "TA", "MIA"}
    assert tow(ours, without_utility) is None


def test_membership_in_percent_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"membership/svc/efficacy is 91\.0"):
        unlearning_scores({MIA_EFFICACY: 91.0})


def test_tug_of_war_by_hand() -> None:
    assert tow(UNLEARNED, RETRAIN) == pytest.approx(0.9 * 0.9 * 0.95)
    assert tow(RETRAIN, RETRAIN) == 1


@pytest.mark.parametrize("gone", ["forget_acc", "retain_acc", "test_retain_acc"])
def test_what_is_unknown_is_absent(gone: str) -> None:
    name = {"forget_acc": "UA", "retain_acc": "RA", "test_retain_acc": "TA"}[gone]
    for less in ({key: RETRAIN[key] for key in RETRAIN if key != gone}, {**RETRAIN, gone: math.nan}):
        assert set(unlearning_scores(less)) == {"UA", "RA", "TA"} - {name}
        for pair in ((UNLEARNED, less), (less, UNLEARNED)):
            assert set(gap_to_retrain(*pair)) == {"UA", "RA", "TA"} - {name}
            assert tow(*pair) is None


@pytest.mark.parametrize("value", [91.0, -0.1, math.inf])
def test_a_percentage_is_an_error(value: float) -> None:
    with pytest.raises(UsageError, match=f"forget_acc is {value}"):
        unlearning_scores({"forget_acc": value})
