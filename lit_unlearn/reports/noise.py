"""How much the numbers of attacks differ between Retrains that differ in nothing but the seed."""

from collections.abc import Sequence
from statistics import fmean, stdev

from lit_unlearn.reports.averages import one_a_model
from lit_unlearn.reports.numbers import (
    ACCURACIES,
    ANSWERS,
    IDI,
    RETAINED,
    Key,
    Number,
    images,
    numbers,
    of_images,
    sampling,
    unseen_images,
)
from lit_unlearn.reports.rows import NO_ATTACK, Row
from lit_unlearn.reports.statistics import one_share

OTHER = ""
"""The beginning of every name: attacks that are not ours."""

KNOWN: dict[str, tuple[float, float]] = {
    NO_ATTACK: (0.005, 0.013),
    ANSWERS: (0.11, 0.11),
    "recovery/transformed/": (0.016, 0.026),
    "recovery/": (0.015, 0.017),
    "relearn/retained": (0.01, 0.011),
    "relearn/": (0.03, 0.012),
    "compression/": (0.015, 0.015),
    "membership/lira": (0.007, 0.031),
    "membership/rmia": (0.006, 0.021),
    "membership/": (0.006, 0.012),
    "detectability/": (0.02, 0.025),
    IDI: (0.009, 0.011),
    RETAINED: (0.004, 0.017),
    "perturbation/universal": (0.005, 0.017),
    "perturbation/": (0.005, 0.01),
    OTHER: (0.03, 0.03),
}
"""Deviation between Retrains of several seeds, by the beginning of a name, where classes are forgotten and where single
images are: the largest of the tables of three classes and of single images, and of the calibration, whose Retrains of
single images were trained on another processor, rounded up, as ``lit-unlearn report FOLDER --calibration`` prints it;
accuracies and AUCs as fractions, IDI in bits. Of relearning classes it is that of rows that repeat it, of single images
that of rows of suite 3. Where Retrains hardly differ, as without an attack and under perturbation where classes are
forgotten, it is half a point. Of attacks that are not ours nothing is known, and the largest but that of masked answers
stands for it.
"""

_IMAGES_OF_KNOWN = {"classes": 3000, "images": 300}
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


def of_few_images(key: Key, found: Sequence[Number], models: Sequence[Row]) -> float:
    """The variance of one model that the known deviation lacks, where there are fewer images than it is known of.

    Each model is right or wrong about an image by itself. Over N images that makes a variance of p (1 - p) / N at most,
    and the known deviation has the part of its own number of images. A lead has that of its unseen images as well.

    Args:
        key: what is compared.
        found: the numbers of the method's models and of Retrains, whose mean is p.
        models: rows of the method's models.
    """
    if key.unit == "IDI":
        return 0.0
    count = min(images(row).get(key.split.removesuffix("_acc"), 0) for row in models)
    known, values = images_of_known(models[0], key.split), [each.value for each in found]
    if key.unit not in ACCURACIES:
        of_all = fmean(sampling(key, fmean(values), None, row) for row in models)
        return of_all * max(0.0, 1 - max(1, count) / known)
    unseen = [each.unseen for each in found if each.unseen is not None]
    tried = min(unseen_images(key, row) for row in models) if unseen else 0
    return lacking(values, count, known) + (lacking(unseen, tried, known) if unseen else 0.0)


def lacking(shares: Sequence[float], count: int, known: int) -> float:
    """The variance of one model's share of so many images that a deviation lacks which is known of other, more ones."""
    count = max(1, count)
    return one_share(fmean(shares), count * len(shares)) / count * max(0.0, 1 - count / known)


def images_of_known(row: Row, split: str) -> int:
    """How many images the known deviation is of, for what is to be forgotten there."""
    return _IMAGES_OF_KNOWN["images" if of_images(row, split) else "classes"]
