"""The field's scores by hand, and the gap to Retrain."""

import math

import pytest

from lit_unlearn.errors import UsageError
from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.scores import MIA_EFFICACY, gap_to_retrain, unlearning_scores

ACCURACIES = {"forget_acc": 0.1, "retain_acc": 0.9, "test_retain_acc": 0.8, "test_forget_acc": 0.05}
OF_RETRAIN = {"forget_acc": 0.0, "retain_acc": 1.0, "test_retain_acc": 0.75}
THREE = {"UA": 10, "RA": 10, "TA": 5}


def row(metrics: dict[str, float], **attacks: float) -> Row:
    return Row("GA", "ok", metrics=metrics, attacks=attacks)


UNLEARNED, RETRAIN = row(ACCURACIES), row(OF_RETRAIN)


def test_scores_by_hand() -> None:
    assert unlearning_scores(UNLEARNED) == pytest.approx({"UA": 90, "RA": 90, "TA": 80})


def test_gap_by_hand() -> None:
    for pair in ((UNLEARNED, RETRAIN), (RETRAIN, UNLEARNED)):
        gap = gap_to_retrain(*pair)
        assert gap is not None
        assert gap.terms == pytest.approx(THREE)
        assert gap.mean == pytest.approx(25 / 3)
        assert gap.label == "UA, RA, TA"


def test_membership_is_the_fourth_term_where_both_models_have_it() -> None:
    ours, theirs = row(ACCURACIES, **{MIA_EFFICACY: 0.25}), row(OF_RETRAIN, **{MIA_EFFICACY: 1.0})
    assert unlearning_scores(ours) == pytest.approx({"UA": 90, "RA": 90, "TA": 80, "MIA": 25})
    gap = gap_to_retrain(ours, theirs)
    assert gap is not None
    assert gap.terms == pytest.approx({**THREE, "MIA": 75})
    assert (gap.mean, gap.label) == (pytest.approx(25), "UA, RA, TA, MIA")
    undefined = row(OF_RETRAIN, **{MIA_EFFICACY: math.nan})
    for pair in ((ours, RETRAIN), (UNLEARNED, theirs), (ours, undefined)):
        assert gap_to_retrain(*pair) == gap_to_retrain(UNLEARNED, RETRAIN)


def test_membership_in_percent_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"membership/svc/efficacy is 91\.0"):
        unlearning_scores(row({}, **{MIA_EFFICACY: 91.0}))


@pytest.mark.parametrize("gone", ["forget_acc", "retain_acc", "test_retain_acc"])
def test_what_is_unknown_is_absent(gone: str) -> None:
    name = {"forget_acc": "UA", "retain_acc": "RA", "test_retain_acc": "TA"}[gone]
    for less in ({key: OF_RETRAIN[key] for key in OF_RETRAIN if key != gone}, {**OF_RETRAIN, gone: math.nan}):
        assert set(unlearning_scores(row(less))) == {"UA", "RA", "TA"} - {name}
        assert gap_to_retrain(UNLEARNED, row(less)) is None
        assert gap_to_retrain(row(less), UNLEARNED) is None
    assert gap_to_retrain(UNLEARNED, None) is None


@pytest.mark.parametrize("value", [91.0, -0.1, math.inf])
def test_a_percentage_is_an_error(value: float) -> None:
    with pytest.raises(UsageError, match=f"forget_acc is {value}"):
        unlearning_scores(row({"forget_acc": value}))
