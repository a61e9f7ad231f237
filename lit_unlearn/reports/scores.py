"""The field's scores of a row, in percent, and its gap to Retrain: the one definition for page, leaderboard and tuning.

They are computed from accuracies (``forget_acc``, ``retain_acc``, ``test_retain_acc``) and from the efficacy of
membership inference among the row's attacks, all fractions. What is unknown is absent, never 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lit_unlearn.errors import check_fraction
from lit_unlearn.reports.rows import Row

MIA_EFFICACY = "membership/svc/efficacy"
"""Where a row keeps the share of forget samples that the field's attack takes for non-members."""

ACCURACIES = ("UA", "RA", "TA")
TERMS = (*ACCURACIES, "MIA")


@dataclass(frozen=True)
class Gap:
    """Distance to Retrain, in percentage points: lower is better.

    Attributes:
        terms: |ΔUA|, |ΔRA|, |ΔTA| and, where both models have it, |ΔMIA|.
    """

    terms: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the terms: the papers' "Avg. gap"."""
        return sum(self.terms.values()) / len(self.terms)

    @property
    def by_accuracy(self) -> float:
        """Mean over the accuracies alone, whatever attacks were run."""
        return sum(self.terms[name] for name in ACCURACIES) / len(ACCURACIES)

    @property
    def label(self) -> str:
        """Which terms the mean is of."""
        return ", ".join(self.terms)

    @property
    def complete(self) -> bool:
        """Whether it has all four terms."""
        return len(self.terms) == len(TERMS)


def unlearning_scores(row: Row) -> dict[str, float]:
    """UA = 100 - forget accuracy, RA, TA (test accuracy on the retained classes) and MIA (efficacy), in percent.

    Args:
        row: a result row; what it lacks, or what is NaN, leaves its score out.

    Raises:
        UsageError: if a number is outside [0, 1].
    """
    names = ("forget_acc", "retain_acc", "test_retain_acc", MIA_EFFICACY)
    values = dict(zip(TERMS, (_fraction(row, name) for name in names), strict=True))
    scores = {name: 100 * value for name, value in values.items() if value is not None}
    return scores | ({"UA": 100 - scores["UA"]} if "UA" in scores else {})


def gap_to_retrain(row: Row, retrain: Row | None) -> Gap | None:
    """Distance of a row to Retrain, or None where one of the three accuracies is unknown of either.

    Args:
        row: the unlearned model.
        retrain: the model that never saw the forget set.

    Raises:
        UsageError: if a number is outside [0, 1].
    """
    if retrain is None:
        return None
    ours, theirs = unlearning_scores(row), unlearning_scores(retrain)
    terms = {name: abs(ours[name] - theirs[name]) for name in TERMS if name in ours and name in theirs}
    return Gap(terms) if terms.keys() >= set(ACCURACIES) else None


def _fraction(row: Row, name: str) -> float | None:
    value = row.metrics.get(name, row.attacks.get(name))
    if value is None or math.isnan(value):
        return None
    check_fraction(name, value, zero=True, one=True)
    return value
