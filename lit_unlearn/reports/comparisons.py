"""What the verdict compares with Retrain: one number of each attack, with bounds on its excess.

    accuracy   of an attack on what is to be forgotten: unseen images of the forgotten classes, or where none is
               forgotten whole the forget images; of relearning classes the mean over the steps, since its end is noisy
    AUC        of telling forgotten images from others, at least .5: membership/*, detectability/samples
    IDI        mean over the stages of what they say of the forget set, as a share of Original's lead over Retrain

Where one class is forgotten, an attack that recovers labels is not compared: the answer is known without the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from lit_unlearn.errors import UsageError, check_fraction
from lit_unlearn.reports.averages import one_a_model
from lit_unlearn.reports.rows import NO_ATTACK, Row
from lit_unlearn.reports.statistics import Difference, auc_variance, difference, share_variance

Unit = Literal["accuracy", "AUC", "IDI"]

IDI = "representation/idi"
ANSWERS = "recovery/answers"
DETECTION = "detectability/samples"
RETAINED = "test_retain_acc"

KNOWN: dict[str, tuple[float, float]] = {
    NO_ATTACK: (0.005, 0.013),
    ANSWERS: (0.11, 0.11),
    "recovery/": (0.015, 0.017),
    "relearn/retained": (0.01, 0.01),
    "relearn/": (0.03, 0.02),
    "compression/": (0.015, 0.015),
    "membership/": (0.006, 0.018),
    "detectability/": (0.02, 0.02),
    IDI: (0.009, 0.011),
    RETAINED: (0.004, 0.006),
}
"""Deviation between Retrains of several seeds, by the beginning of a name, where classes are forgotten and where single
images are: the largest of the committed rows, rounded up, as ``lit-unlearn report FOLDER --calibration`` prints it;
accuracies and AUCs as fractions, IDI in bits. Of relearning classes it is that of rows that repeat it.
"""

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
        alpha: probability of an error: that a model as good as Retrain is said to leak by any of the attacks, and that
            a model which leaks more than ``same`` is said to be as Retrain.
    """

    leak: float = 0.02
    same: float = 0.05
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_fraction("margins.same", self.same)
        check_fraction("margins.alpha", self.alpha)
        if not 0 <= self.leak < self.same:
            raise UsageError(f"margins.leak is {self.leak}, but must be at least 0 and below margins.same, {self.same}")


MARGINS = Margins()


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
        difference: how far the method is above Retrain.
        margins: what counts.
        compared: how many attacks share the probability of an error.
    """

    attack: str
    split: str
    unit: Unit
    value: float
    retrain: float
    original: float | None
    difference: Difference
    margins: Margins = MARGINS
    compared: int = 1

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
        """Lower bound of the excess, which holds for all attacks together."""
        return self.difference.low(self.margins.alpha / self.compared)

    @property
    def high(self) -> float:
        """Upper bound of the excess, which holds for this attack: enough, since "as Retrain" needs all of them."""
        return self.difference.high(self.margins.alpha)

    @property
    def leaks(self) -> bool:
        """Whether it is above Retrain by more than the margin, beyond doubt."""
        return self.low > self.scale * self.margins.leak

    @property
    def as_retrain(self) -> bool:
        """Whether it is above Retrain by less than the larger margin, beyond doubt."""
        return self.high < self.scale * self.margins.same

    @property
    def falls_short(self) -> bool:
        """Whether it is below Retrain by more than the larger margin, beyond doubt."""
        return self.difference.high(self.margins.alpha / self.compared) < -self.scale * self.margins.same

    @property
    def severity(self) -> float:
        """Lower bound in larger margins: what attacks are ranked by."""
        return self.low / (self.scale * self.margins.same)

    def seeds_needed(self) -> int | None:
        """How many seeds make the bounds narrow enough to decide; None where the images are too few for any number."""
        width = self.scale * (self.margins.same - self.margins.leak)
        return self.difference.seeds_for(width, self.margins.alpha / self.compared, self.margins.alpha)


def compare(
    models: Sequence[Row], retrains: Sequence[Row], originals: Sequence[Row], margins: Margins = MARGINS
) -> list[Comparison]:
    """A comparison with Retrain for each attack that was run on both, and for the accuracy without an attack.

    Args:
        models: rows of one method's models.
        retrains: rows of Retrains of the same forget set.
        originals: rows of the models before unlearning.
        margins: what counts as a difference.
    """
    ours, theirs, before = (_numbers(rows) for rows in (models, retrains, originals))
    found = []
    for key, values in ours.items():
        base, start = theirs.get(key, []), before.get(key, [])
        zero, lead = (fmean(base), _lead(base, start)) if base and key[2] == "IDI" else (0.0, 1.0)
        if base and lead is not None:
            values, base, start = ([(number - zero) / lead for number in group] for group in (values, base, start))
            sampling = max(_sampling(fmean(group), key, models[0]) for group in (values, base))
            excess = difference(values, base, known_deviation(key[0], models[0]) / lead, sampling)
            found.append((*key, fmean(values), fmean(base), fmean(start) if start else None, excess))
    return [Comparison(*each, margins=margins, compared=len(found)) for each in found]


def largest_excess(row: Row, retrain: Row | None) -> float | None:
    """How many points the attacks find more than on one Retrain, at most over them, without bounds: 0 where none does.

    The numbers are those that the verdict compares, but for IDI, in points of accuracy or of AUC times 100. None where
    no attack is known of both.
    """
    found = [] if retrain is None else compare([row], [retrain], [])
    excesses = [each.excess for each in found if each.attack != NO_ATTACK]
    return 100 * max(0.0, *excesses) if excesses else None


def _lead(retrain: Sequence[float], original: Sequence[float]) -> float | None:
    """By how many bits Original says more of the forget set than Retrain; None where there is nothing to compare."""
    lead = fmean(original) - fmean(retrain) if original and retrain else 0.0
    return lead if lead > _LEAST_LEAD else None


def deviations(models: Sequence[Row]) -> dict[str, float]:
    """The beginning of an attack's name, as in ``KNOWN`` → the largest deviation of one of its numbers over models."""
    found: dict[str, float] = {}
    numbers = [(attack, values) for (attack, _, _), values in _numbers(models).items()]
    for attack, values in [*numbers, (RETAINED, _retained(models))]:
        family = _family(attack)
        if family is not None and len(values) > 1:
            found[family] = max(stdev(values), found.get(family, 0.0))
    return found


def compared_names(models: Sequence[Row], retrains: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The attacks whose number both have, and those whose number Retrain lacks."""
    ours, theirs = _numbers(models), _numbers(retrains)
    attacks = [key[0] for key in ours if key[0] != NO_ATTACK]
    known = {key[0] for key in theirs}
    both, alone = ([name for name in dict.fromkeys(attacks) if (name in known) is wanted] for wanted in (True, False))
    return both, alone


def accuracy_lost(models: Sequence[Row], others: Sequence[Row]) -> Difference | None:
    """How far accuracy on retained test images is below that of others, or None where it is unknown."""
    ours, theirs = _retained(models), _retained(others)
    if not ours or not theirs:
        return None
    count = images(models[0]).get("test_retain", 0)
    sampling = max(share_variance(fmean(group), count) for group in (ours, theirs))
    return difference(theirs, ours, known_deviation(RETAINED, models[0]), sampling)


def _retained(models: Sequence[Row]) -> list[float]:
    """Accuracy on retained test images of each model that has it."""
    return [row.metrics[RETAINED] for row in one_a_model(models) if RETAINED in row.metrics]


def images(row: Row) -> Mapping[str, int]:
    """How many images each split has; a split whose size is unknown is left out."""
    counts = row.split.get("counts", row.split)
    return {name: n for name, n in counts.items() if isinstance(n, int)} if isinstance(counts, Mapping) else {}


def forgets(row: Row) -> Literal["classes", "one class", "images"]:
    """What a row's run forgets."""
    classes = row.split.get("forgotten_classes")
    if not classes:
        return "images"
    return "one class" if isinstance(classes, list) and len(classes) == 1 else "classes"


def _numbers(rows: Sequence[Row]) -> dict[tuple[str, str, Unit], list[float]]:
    """(attack, split, unit) → the number of each model that has it."""
    found: dict[tuple[str, str, Unit], list[float]] = {}
    for row in one_a_model(rows):
        for key, value in (*_accuracies(row), *_aucs(row), *_idi(row)):
            found.setdefault(key, []).append(value)
    return found


def _decisive(row: Row) -> tuple[str, ...]:
    """The splits that decide: of this request, and of earlier ones."""
    now = ("test_forget_acc", "forget_acc") if forgets(row) != "images" else ("forget_acc",)
    before = ("test_forgotten_before_acc", "forgotten_before_acc")
    known = [next((name for name in names if name in row.metrics), None) for names in (now, before)]
    return tuple(name for name in known if name is not None)


def _accuracies(row: Row) -> Iterator[tuple[tuple[str, str, Unit], float]]:
    trivial = "recovery/" if forgets(row) == "one class" else None
    for attack, known in row.accuracies().items():
        if trivial and attack.startswith(trivial):
            continue
        for place, split in enumerate(_decisive(row)):
            mean_over_steps = f"{attack}/auc"
            if attack.startswith("relearn/") and mean_over_steps in row.attacks and forgets(row) != "images":
                if place == 0:
                    yield (attack, split, "accuracy"), row.attacks[mean_over_steps]
            elif split in known:
                yield (attack, split, "accuracy"), known[split]


def _aucs(row: Row) -> Iterator[tuple[tuple[str, str, Unit], float]]:
    for split in _decisive(row)[:1]:
        for key, value in row.attacks.items():
            attack, _, quantity = key.rpartition("/")
            if attack == DETECTION and quantity == f"{split.removesuffix('_acc')}_auc":
                yield (attack, split, "AUC"), max(value, 0.5)
            elif attack.startswith("membership/") and quantity == "auc":
                yield (attack, "forget_acc", "AUC"), max(value, 0.5)


def _idi(row: Row) -> Iterator[tuple[tuple[str, str, Unit], float]]:
    bits = [value for key, value in row.attacks.items() if key.startswith(f"{IDI}/") and key.endswith("/bits")]
    if bits:
        yield (IDI, "forget_acc", "IDI"), fmean(bits)


def _sampling(value: float, key: tuple[str, str, Unit], row: Row) -> float:
    """The variance of the images; for IDI the attack measures it itself."""
    attack, split, unit = key
    sizes = images(row)
    count = sizes.get(split.removesuffix("_acc"), 0)
    if unit == "accuracy":
        all_measured = attack.startswith("relearn/") and forgets(row) == "images"
        measured = None if all_measured else row.attacks.get(f"{attack}/images")
        return share_variance(value, count if measured is None else round(measured))
    if unit == "IDI":
        return row.attacks.get(f"{IDI}/error", 0.0) ** 2
    others = sizes.get("test_forget") if attack.startswith("membership/") else None
    # An attack learns its direction on one half of the images and is scored on the other.
    return auc_variance(value, count // 2, (others or sizes.get("test_retain", count)) // 2)


def _family(attack: str) -> str | None:
    """The beginning of an attack's name that ``KNOWN`` has."""
    return next((name for name in KNOWN if attack.startswith(name)), None)


def known_deviation(attack: str, row: Row) -> float:
    """What is known of an attack's number on Retrains of other seeds, for what a row's run forgets."""
    of_classes, of_images = KNOWN[_family(attack) or "relearn/"]
    return of_images if forgets(row) == "images" else of_classes
