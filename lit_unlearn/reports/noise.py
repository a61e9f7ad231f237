"""How much the numbers of attacks differ between Retrains that differ in nothing but the seed."""

from collections.abc import Sequence
from statistics import stdev

from lit_unlearn.reports.averages import one_a_model
from lit_unlearn.reports.numbers import ANSWERS, IDI, RETAINED, numbers, of_images
from lit_unlearn.reports.rows import NO_ATTACK, Row

OTHER = ""
"""The beginning of every name: attacks that are not ours."""

KNOWN: dict[str, tuple[float, float]] = {
    NO_ATTACK: (0.005, 0.01),
    ANSWERS: (0.11, 0.11),
    "recovery/transformed/": (0.016, 0.025),
    "recovery/": (0.015, 0.017),
    "relearn/retained": (0.01, 0.011),
    "relearn/": (0.03, 0.012),
    "compression/": (0.015, 0.015),
    "membership/lira": (0.007, 0.031),
    "membership/rmia": (0.006, 0.021),
    "membership/": (0.006, 0.012),
    "detectability/": (0.02, 0.021),
    IDI: (0.009, 0.011),
    RETAINED: (0.004, 0.006),
    "perturbation/universal": (0.005, 0.015),
    "perturbation/": (0.005, 0.009),
    OTHER: (0.03, 0.03),
}
"""Deviation between Retrains of several seeds, by the beginning of a name, where classes are forgotten and where single
images are: the largest of the tables of three classes and of single images, rounded up, as ``lit-unlearn
report FOLDER --calibration`` prints it; accuracies and AUCs as fractions, IDI in bits. Of relearning classes it is that
of rows that repeat it. Where Retrains hardly differ, as without an attack and under perturbation where classes are
forgotten, it is half a point. Of attacks that are not ours nothing is known, and the largest but that of masked answers
stands for it.
"""

IMAGES_OF_KNOWN = {"classes": 3000, "images": 300}
"""How many images ``KNOWN`` is of: forgotten test images where classes are forgotten, and single images."""


def _family(attack: str) -> str:
    """The beginning of an attack's name that ``KNOWN`` has."""
    return next(name for name in KNOWN if attack.startswith(name))


def known_deviation(attack: str, row: Row, split: str = "forget_acc") -> float:
    """What is known of an attack's number on Retrains of other seeds, for what is to be forgotten there."""
    of_classes, of_single = KNOWN[_family(attack)]
    return of_single if of_images(row, split) else of_classes


def deviations(models: Sequence[Row]) -> dict[str, float]:
    """The beginning of an attack's name, as in ``KNOWN`` → the largest deviation of one of its numbers over models."""
    found: dict[str, float] = {}
    attacked = [(key.attack, [each.lead for each in group]) for key, group in numbers(models).items()]
    for attack, values in [*attacked, (RETAINED, retained_of(models))]:
        family = _family(attack)
        if len(values) > 1:
            found[family] = max(stdev(values), found.get(family, 0.0))
    return found


def retained_of(models: Sequence[Row]) -> list[float]:
    """Accuracy on retained test images of each model that has it."""
    return [row.metrics[RETAINED] for row in one_a_model(models) if RETAINED in row.metrics]
