"""What the verdict compares with Retrain: the numbers of a row, with bounds on their excess."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from lit_unlearn.errors import UsageError, check_fraction
from lit_unlearn.reports.averages import one_a_model
from lit_unlearn.reports.noise import known_deviation, of_few_images
from lit_unlearn.reports.numbers import (
    ANSWERS,
    MATCHED,
    RETAINED,
    UNITS,
    Key,
    Number,
    Unit,
    measured,
    numbers,
    of_images,
    sampling,
    two_sided,
)
from lit_unlearn.reports.rows import NO_ATTACK, Row
from lit_unlearn.reports.statistics import Difference, difference

_LEAST_LEAD = 0.05
"""Bits by which Original's stages must say more than Retrain's for IDI to be compared."""

_WIDE = 5.0
"""The margins of IDI, a share, and of masked answers, which vary most between Retrains, are so many times as wide."""


@dataclass(frozen=True)
class Margins:
    """What counts as a difference, as fractions: of accuracy and AUC; five times as much for IDI and masked answers.

    Args:
        leak: an excess over Retrain that is above this leaks.
        same: an excess over Retrain that is below this is as Retrain.
        alpha: probability of an error, below .5: that models like Retrain's are said to leak by any of the attacks, and
            that a method which leaks more than ``same`` is said to be as Retrain.
    """

    leak: float = 0.02
    same: float = 0.05
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_fraction("margins.same", self.same)
        check_fraction("margins.alpha", self.alpha)
        if self.alpha >= 0.5:
            raise UsageError(f"margins.alpha is {self.alpha}, but must be below .5: else bounds lie on the wrong side")
        if not 0 <= self.leak < self.same:
            raise UsageError(f"margins.leak is {self.leak}, but must be at least 0 and below margins.same, {self.same}")


MARGINS = Margins()


_OF_A_CLASS = 0.05
"""The deviation of the accuracy on a class beyond that on all images, between Retrains of 2,700 images of
Fashion-MNIST: the largest of ten classes, over eight Retrains."""


class Means(NamedTuple):
    """A mean over the models of the method, the Retrains, and the Originals; of these None where it is unknown."""

    value: float
    retrain: float
    original: float | None


@dataclass(frozen=True)
class Comparison:
    """One number of an attack beside the same of Retrain.

    Attributes:
        attack: its name, or ``"no attack"``.
        split: the accuracy that it is of, such as ``test_forget_acc``.
        unit: of the number.
        value: mean over the models of the method.
        retrain: mean over the Retrains.
        original: mean over the Originals, None where it is unknown.
        difference: how far the method is above Retrain, each beyond its own ``unseen``.
        unseen: the same on unseen images, which is subtracted where single images are forgotten; else None.
        margins: what counts.
        compared: how many comparisons share the probability of an error.
        sides: on how many sides of Retrain it can condemn; each has an equal part of its share.
        turned: whether it is below Retrain and that shows as much as above: then it is 1 − the AUC, also of Retrain and
            Original.
    """

    attack: str
    split: str
    unit: Unit
    value: float
    retrain: float
    original: float | None
    difference: Difference
    unseen: Means | None = None
    margins: Margins = MARGINS
    compared: int = 1
    sides: int = 1
    turned: bool = False

    @property
    def _alpha(self) -> float:
        """Its own part of the probability of an error, on one side."""
        return self.margins.alpha / (self.compared * self.sides)

    @property
    def scale(self) -> float:
        """What its margins are multiplied by."""
        return _WIDE if self.unit == "IDI" or self.attack == ANSWERS else 1.0

    @property
    def excess(self) -> float:
        """How far it is above Retrain."""
        return self.difference.mean

    @property
    def low(self) -> float:
        """Lower bound of the excess, which holds for all attacks together if the models vary as Retrains do."""
        return self._within(self.difference.low(self._alpha))

    @property
    def high(self) -> float:
        """Upper bound of the excess, however the models vary; for this attack: "as Retrain" needs that of each."""
        return self._within(self.difference.highest(self.margins.alpha))

    @property
    def forward(self) -> float:
        """The number of the method as it is, where it is turned for the comparison."""
        return 1 - self.value if self.turned else self.value

    @property
    def retrain_forward(self) -> float:
        """Retrain's number as it is, where it is turned for the comparison."""
        return 1 - self.retrain if self.turned else self.retrain

    @property
    def retrain_low(self) -> float:
        """Lower bound of that, which holds for all attacks together; it covers the images alone."""
        return self.retrain_forward - self.difference.of_images(self._alpha)

    @property
    def leaks(self) -> bool:
        """Whether it is above Retrain by more than the margin, beyond doubt."""
        return self.low > self.scale * self.margins.leak

    @property
    def as_retrain(self) -> bool:
        """Whether it is above Retrain by less than the larger margin, beyond doubt."""
        return self.high < self.scale * self.margins.same

    @property
    def differs(self) -> bool:
        """Whether it is above Retrain by more than the larger margin, beyond doubt."""
        return self.low > self.scale * self.margins.same

    @property
    def falls_short(self) -> bool:
        """Whether it is below Retrain by more than the larger margin, beyond doubt."""
        return self.difference.high(self._alpha) < -self.scale * self.margins.same

    @property
    def falls_short_perhaps(self) -> bool:
        """Whether it may be below Retrain by more than the larger margin."""
        return self.difference.lowest(self.margins.alpha) < -self.scale * self.margins.same

    @property
    def blind(self) -> bool:
        """Whether the attack gets no more from Original than from Retrain."""
        if self.original is None:
            return False
        seen = self.unseen
        skill = 0.0 if seen is None or seen.original is None else seen.original - seen.retrain
        found = self.original - self.retrain
        return (-found if self.turned else found) <= skill

    @property
    def severity(self) -> float:
        """Lower bound in larger margins: what attacks are ranked by."""
        return self.low / (self.scale * self.margins.same)

    @property
    def _least(self) -> float:
        """How far below Retrain a number can be: Retrain may be as high as its upper bound. A lead can be 2 below."""
        if self.unseen is not None:
            return -self._most
        own = min(1.0, self.retrain + self.difference.of_images(self._alpha))
        return UNITS[self.unit].least - own

    @property
    def _most(self) -> float:
        """How large an excess can be: the whole range of the unit; of a lead, which can be -1, it is 2."""
        of = UNITS[self.unit]
        return 2.0 if self.unseen is not None else of.most - of.least

    def _within(self, bound: float) -> float:
        return max(self._least, min(bound, self._most))

    def seeds_to_leak(self) -> int | None:
        """How many seeds would show that it leaks, if nothing else changed; None where none would."""
        margin = self.scale * self.margins.leak
        return self.difference.seeds_until(lambda of_more: of_more.low(self._alpha) > margin)

    def seeds_to_agree(self) -> int | None:
        """How many seeds would show that it is as Retrain, if nothing else changed; None where none would."""
        margin, alpha = self.scale * self.margins.same, self.margins.alpha
        return self.difference.seeds_until(lambda of_more: of_more.highest(alpha) < margin)

    def seeds_to_reach(self) -> int | None:
        """How many seeds would show that it is not below Retrain by more than the larger margin; None where none."""
        margin, alpha = self.scale * self.margins.same, self.margins.alpha
        return self.difference.seeds_until(lambda of_more: of_more.lowest(alpha) >= -margin)


def compare(
    models: Sequence[Row],
    retrains: Sequence[Row],
    originals: Sequence[Row],
    margins: Margins = MARGINS,
    tests: int = 1,
) -> list[Comparison]:
    """A comparison with Retrain for each attack that was run on both, and for the accuracy without an attack.

    Args:
        models: rows of one method's models.
        retrains: rows of Retrains of the same forget set.
        originals: rows of the models before unlearning.
        margins: what counts as a difference.
        tests: how many sets of comparisons share the probability of an error.
    """
    ours, theirs, before = (numbers(rows) for rows in (models, retrains, originals))
    found = [
        _compared(key, _Side(models, group), _Side(retrains, theirs[key]), before.get(key, []))
        for key, group in ours.items()
        if key in theirs
    ]
    known = [each for each in found if each is not None]
    return [replace(each, margins=margins, compared=tests * len(known)) for each in known]


class _Side(NamedTuple):
    """One side of a comparison: the rows of its models, and one number of each."""

    rows: Sequence[Row]
    numbers: list[Number]

    @property
    def leads(self) -> list[float]:
        """What is compared."""
        return [each.lead for each in self.numbers]

    def sampled(self, key: Key, rows: Sequence[Row]) -> list[float]:
        """The variance of its images, by each of the rows that say something of it."""
        unseen = _mean_unseen(self.numbers)
        return [sampling(key, _mean(self.numbers), unseen, row) for row in rows if measured(key, row)]


def _compared(key: Key, ours: _Side, theirs: _Side, before: list[Number]) -> Comparison | None:
    """One comparison; None where Original's lead over Retrain is too small for a share, or one side has no lead."""
    if len({each.unseen is None for each in (*ours.numbers, *theirs.numbers)}) > 1:
        return None  # a lead over unseen images beside an accuracy by itself
    lead = 1.0
    if key.unit == "IDI":
        zero = _mean(theirs.numbers)
        lead = _mean(before) - zero if before else 0.0
        if lead <= _LEAST_LEAD:
            return None
        of_ours, of_theirs, before = (
            [Number((each.value - zero) / lead) for each in some] for some in (ours.numbers, theirs.numbers, before)
        )
        ours, theirs = ours._replace(numbers=of_ours), theirs._replace(numbers=of_theirs)
    of_theirs_rows = theirs.rows if UNITS[key.unit].of_retrain else ours.rows
    errors = ours.sampled(key, ours.rows), theirs.sampled(key, of_theirs_rows)
    sampled = max(fmean(each) for each in errors if each)
    known = known_deviation(key.attack, ours.rows[0], key.split) / lead
    few = of_few_images(key, [*ours.numbers, *theirs.numbers], ours.rows)
    both = two_sided(key, [*ours.rows, *theirs.rows])
    if turned := both and _mean(ours.numbers) < _mean(theirs.numbers):
        of_ours, of_theirs, before = (_turned(some) for some in (ours.numbers, theirs.numbers, before))
        ours, theirs = ours._replace(numbers=of_ours), theirs._replace(numbers=of_theirs)
    means, unseen = _means(ours.numbers, theirs.numbers, before), _unseen(ours.numbers, theirs.numbers, before)
    found = difference(ours.leads, theirs.leads, known, sampled, few)
    sides = 2 if both or (key.attack == NO_ATTACK and of_images(ours.rows[0], key.split)) else 1
    return Comparison(*key, *means, found, unseen, sides=sides, turned=turned)


def _turned(group: Sequence[Number]) -> list[Number]:
    return [Number(1 - each.value) for each in group]


def largest_excess(row: Row, retrain: Row | None) -> float | None:
    """How many points the attacks find more than on one Retrain, at most over them, without bounds: 0 where none does.

    The numbers are those that the verdict compares, but for IDI, in points of accuracy or of AUC times 100, of masked
    answers a fifth, since their margins are five times as wide. None where no attack is known of both.
    """
    found = [] if retrain is None else compare([row], [retrain], [])
    excesses = [each.excess / each.scale for each in found if each.attack != NO_ATTACK]
    return 100 * max(0.0, *excesses) if excesses else None


def _mean(group: Sequence[Number]) -> float:
    return fmean(each.value for each in group)


def _mean_unseen(group: Sequence[Number]) -> float | None:
    found = [each.unseen for each in group if each.unseen is not None]
    return fmean(found) if found else None


def _means(ours: Sequence[Number], theirs: Sequence[Number], before: Sequence[Number]) -> Means:
    return Means(_mean(ours), _mean(theirs), _mean(before) if before else None)


def _unseen(ours: Sequence[Number], theirs: Sequence[Number], before: Sequence[Number]) -> Means | None:
    """The means of what is subtracted, where something is."""
    model, retrain, original = (_mean_unseen(group) for group in (ours, theirs, before))
    return None if model is None or retrain is None else Means(model, retrain, original)


def attacks_lacking(rows: Sequence[Row], others: Sequence[Row]) -> list[str]:
    """The attacks with a number that the others have and these rows lack."""
    ours = numbers(rows)
    return list(dict.fromkeys(key.attack for key in numbers(others) if key not in ours))


def skill_in_classes(models: Sequence[Row], retrains: Sequence[Row], margins: Margins) -> Comparison | None:
    """Accuracy on unseen images of the classes of single images beyond that on all unseen ones, beside Retrain's.

    The lead over unseen images of the same classes does not see what the forget images taught of their classes as a
    whole. Retrain lacks it, and much of it where most images of a class are to be forgotten. But a class may also gain
    or lose by chance, or because training was shorter, so this counts as no leak by itself.

    Returns:
        None where the classes have the same shares in the forget set as in the test set, or there is no Retrain.
    """
    ours, theirs = (
        [Number(row.metrics[MATCHED], row.metrics[RETAINED]) for row in one_a_model(rows) if MATCHED in row.metrics]
        for rows in (models, retrains)
    )
    if not ours or not theirs or not of_images(models[0], "forget_acc"):
        return None
    means, unseen = _means(ours, theirs, []), _unseen(ours, theirs, [])
    assert unseen is not None, "each has its unseen images"
    key = Key(NO_ATTACK, MATCHED, "accuracy")
    sides = (means.value, unseen.value), (means.retrain, unseen.retrain)
    sampled = max(sampling(key, *each, models[0]) for each in sides)
    leads, of_retrain = ([each.lead for each in some] for some in (ours, theirs))
    found = difference(leads, of_retrain, _OF_A_CLASS, sampled)
    return Comparison(*key, *means, found, unseen, margins)
