"""What unlearning costs: accuracy on retained test images, beside Original's and Retrain's."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from lit_unlearn.reports.noise import images_of_known, known_deviation, lacking, retained_of
from lit_unlearn.reports.numbers import RETAINED, images
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row
from lit_unlearn.reports.statistics import Difference, difference, share_variance

UTILITY_KEPT = 0.02
UTILITY_REDUCED = 0.05
"""Points of accuracy on retained test images, as fractions."""

Utility = Literal["kept", "reduced", "damaged", "unknown"]


def utility_of(
    models: Sequence[Row], retrains: Sequence[Row], originals: Sequence[Row]
) -> tuple[Utility, dict[str, Difference]]:
    """How useful the models are, by their mean, beside the better of the two references."""
    differences = {ORIGINAL: accuracy_lost(models, originals), RETRAIN: accuracy_lost(models, retrains)}
    lost = {name: found for name, found in differences.items() if found is not None}
    most = max((found.mean for found in lost.values()), default=None)
    if most is None:
        return "unknown", lost
    return "kept" if most <= UTILITY_KEPT else "reduced" if most <= UTILITY_REDUCED else "damaged", lost


def accuracy_lost(models: Sequence[Row], others: Sequence[Row]) -> Difference | None:
    """How far accuracy on retained test images is below that of others, or None where it is unknown."""
    ours, theirs = retained_of(models), retained_of(others)
    if not ours or not theirs:
        return None
    count = min(images(row).get("test_retain", 0) for row in models)
    sampled = max(share_variance(fmean(group), count) for group in (ours, theirs))
    few = lacking([*ours, *theirs], count, images_of_known(models[0], "forget_acc"))
    # The bounds that take the models' own deviation take that of the first group.
    found = difference(ours, theirs, known_deviation(RETAINED, models[0]), sampled, few)
    return replace(found, mean=-found.mean)
