"""What of a row is compared with Retrain: one number of each attack.

    accuracy   of an attack on what is to be forgotten. Of classes: on unseen images of them. Of single images: its
               lead, the accuracy on the forget images minus that on unseen images under the same attack
    mean accuracy  of relearning: the mean over its steps, since its end is noisy
    informedness  of telling the forgotten classes apart, where an attack has it: right minus wrong, 0 by chance
    AUC        of telling forgotten images from others: membership/* and detectability/samples. Of a membership attack
               by a threshold it is that of forget images scoring higher, as training images do: below Retrain's it
               shows which images were to be forgotten, as above it. Of others, which learn on other images which side
               is which, below .5 is chance
    IDI        mean over the stages of what they say of the forget set, as a share of Original's lead over Retrain

Single images were learnt by heart or not; whatever a model can do for unseen images as well is skill. Without the
subtraction a network that is good at turned images would seem to remember, and a poor one to have forgotten.

Where one class is forgotten, an attack that recovers labels is not compared: the answer is known without the model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from lit_unlearn.reports.averages import AUC, DIRECTION, forward, one_a_model
from lit_unlearn.reports.rows import NO_ATTACK, ORIGINAL, RETRAIN, Row
from lit_unlearn.reports.statistics import auc_variance, share_variance

Unit = Literal["accuracy", "mean accuracy", "informedness", "AUC", "IDI"]
ACCURACIES: tuple[Unit, ...] = ("accuracy", "mean accuracy")


class Traits(NamedTuple):
    """Of a unit.

    Attributes:
        least: its smallest value.
        most: its largest one.
        error: the end of the name of its own error, if an attack measures it.
        of_retrain: whether the attack measures that on Retrain, too.
    """

    least: float = 0.0
    most: float = 1.0
    error: str | None = None
    of_retrain: bool = False


UNITS: Mapping[Unit, Traits] = {
    "accuracy": Traits(),
    "mean accuracy": Traits(),
    "informedness": Traits(least=-1.0, error="informedness_error", of_retrain=True),
    "AUC": Traits(),
    "IDI": Traits(least=-math.inf, most=math.inf, error="error"),
}

IDI = "representation/idi"
RELEARNING = "relearn/"
ANSWERS = "recovery/answers"
DETECTION = "detectability/samples"
RETAINED, MATCHED = "test_retain_acc", "test_matched_acc"
_NOW = ("test_forget_acc", "forget_acc")
_CLASSES_BEFORE, _IMAGES_BEFORE, _ALL_BEFORE = "test_forgotten_before_acc", "images_before_acc", "forgotten_before_acc"
READ = (
    *(*_NOW, _CLASSES_BEFORE, _IMAGES_BEFORE, _ALL_BEFORE, RETAINED, MATCHED),
    *("auc", "forget_auc", "test_forget_auc", "informedness"),
)
"""How the names end of the numbers of attacks that are compared."""


_LEAD_ERROR = 0.5
"""What stands for the error of Original's lead in older rows: where it is a larger share, the index is undefined."""


_ON_ANSWERS = ("compression/", "perturbation/", "membership/")


class Key(NamedTuple):
    """What a number is of: the attack or ``"no attack"``, the split, such as ``test_forget_acc``, and the unit."""

    attack: str
    split: str
    unit: Unit


class Number(NamedTuple):
    """A number of one model, and the same on unseen images where it counts beyond that alone."""

    value: float
    unseen: float | None = None

    @property
    def lead(self) -> float:
        """What is compared."""
        return self.value - (self.unseen or 0.0)


def numbers(rows: Sequence[Row]) -> dict[Key, list[Number]]:
    """The numbers of each model that has them."""
    found: dict[Key, list[Number]] = {}
    for row in one_a_model(rows):
        for key, number in (*_accuracies(row), *_informedness(row), *_aucs(row), *_idi(row)):
            found.setdefault(key, []).append(number)
    return found


def two_sided(key: Key, rows: Sequence[Row]) -> bool:
    """Whether a number below Retrain's shows as much as one above: of an attack that has a direction."""
    attacked = [row.attacks for row in rows if f"{key.attack}/{AUC}" in row.attacks]
    return key.unit == "AUC" and bool(attacked) and all(f"{key.attack}/{DIRECTION}" in found for found in attacked)


def measured(key: Key, row: Row) -> bool:
    """Whether a row has what the variance of the images is made of: for some units its own error, else nothing."""
    own = UNITS[key.unit].error
    return own is None or f"{key.attack}/{own}" in row.attacks


def sampling(key: Key, value: float, unseen: float | None, row: Row) -> float:
    """The variance of the images; for IDI and informedness the attack measures it itself.

    Args:
        key: of the number.
        value: its mean over models.
        unseen: of the same on unseen images, if that is subtracted.
        row: one of the models'.
    """
    attack, split, unit = key
    sizes = images(row)
    count = sizes.get(split.removesuffix("_acc"), 0)
    if unit in ACCURACIES:
        # Of an older row: the end of relearning, on all images but those that it relearns from.
        end = attack.startswith(RELEARNING) and forgets(row) == "images" and unit == "accuracy"
        count -= round(row.attacks.get(f"{attack}/samples", 0)) if end else 0
        tested = None if end or split not in _NOW else row.attacks.get(f"{attack}/images")
        of_forgotten = share_variance(value, count if tested is None else round(tested))
        return of_forgotten if unseen is None else of_forgotten + share_variance(unseen, unseen_images(key, row))
    if unit == "IDI" and row.method in (ORIGINAL, RETRAIN):
        # By construction these have no error of their own: what is uncertain is the lead between them.
        return row.attacks.get(f"{IDI}/lead_error", _LEAD_ERROR if row.method == ORIGINAL else 0.0) ** 2
    if (own := UNITS[unit].error) is not None:
        return row.attacks.get(f"{attack}/{own}", 0.0) ** 2
    others = sizes.get("test_forget") if attack.startswith("membership/") else None
    # An attack learns its direction on one half of the images and is scored on the other.
    return auc_variance(value, count // 2, (others or sizes.get(unseen_split(row), count)) // 2)


def images(row: Row) -> Mapping[str, int]:
    """How many images each split has; a split whose size is unknown is left out."""
    counts = row.split.get("counts", row.split)
    return {name: n for name, n in counts.items() if isinstance(n, int)} if isinstance(counts, Mapping) else {}


def unseen_split(row: Row, split: str = "forget_acc") -> str:
    """The split that single images are compared with: those of this request with their class shares, where known."""
    return (MATCHED if MATCHED in row.metrics and split in _NOW else RETAINED).removesuffix("_acc")


def unseen_images(key: Key, row: Row) -> int:
    """How many unseen images a number of single images is compared with."""
    return round(row.attacks.get(f"{key.attack}/unseen", images(row).get(unseen_split(row, key.split), 0)))


def forgets(row: Row) -> Literal["classes", "one class", "images"]:
    """What a row's run forgets."""
    classes = row.split.get("forgotten_classes")
    if not classes:
        return "images"
    return "one class" if isinstance(classes, list) and len(classes) == 1 else "classes"


def sees_more_than_answers(attack: str, row: Row) -> bool:
    """Whether an attack can find what is left in a model that only changed its answers.

    Where classes are forgotten, not one that looks at answers alone, even if of other images or of rounded weights: a
    head that names no forgotten class leaves it nothing. Of single images membership counts, since the verdict asks for
    it, but not the accuracy itself, nor that of rounded weights.
    """
    if forgets(row) == "images":
        return attack != NO_ATTACK and not attack.startswith("compression/")
    return attack != NO_ATTACK and not attack.startswith(_ON_ANSWERS) and not attack.endswith("/answers")


def of_images(row: Row, split: str) -> bool:
    """Whether an accuracy is of single images to be forgotten, of this request or of earlier ones."""
    older = split == _ALL_BEFORE and _IMAGES_BEFORE not in row.metrics  # a row from before that split
    return split == _IMAGES_BEFORE or ((split == "forget_acc" or older) and forgets(row) == "images")


def _decisive(row: Row) -> list[str]:
    """The splits that decide: of this request, then of earlier ones, their classes and their single images."""
    now = _NOW if forgets(row) != "images" else ("forget_acc",)
    known = [name for name in now if name in row.metrics][:1]
    earlier = [name for name in (_CLASSES_BEFORE, _IMAGES_BEFORE) if name in row.metrics]
    sizes = images(row)
    untested = _CLASSES_BEFORE not in row.metrics and sizes.get("forgotten_before", 0) > sizes.get("images_before", 0)
    return known + earlier + [name for name in (_ALL_BEFORE,) if name in row.metrics and (untested or not earlier)]


def _accuracies(row: Row) -> Iterator[tuple[Key, Number]]:
    decisive, one_class = _decisive(row), forgets(row) == "one class"
    for attack, known in row.accuracies().items():
        for split in decisive:
            if one_class and split in _NOW and attack.startswith("recovery/"):
                continue
            if split in _NOW and f"{attack}/informedness" in row.attacks:
                continue
            relearnt = _mean_of_relearning(attack, row)
            if relearnt is not None:
                if split in _NOW:
                    yield Key(attack, split, "mean accuracy"), relearnt
            elif split in known and not _needs_unseen(row, split):
                yield Key(attack, split, "accuracy"), Number(known[split])
            elif split in known and (unseen := f"{unseen_split(row, split)}_acc") in known:
                yield Key(attack, split, "accuracy"), Number(known[split], known[unseen])


def _mean_of_relearning(attack: str, row: Row) -> Number | None:
    """Of relearning, the mean over its steps of what chose the run; older rows of single images have its end alone."""
    if not attack.startswith(RELEARNING):
        return None
    if forgets(row) != "images":
        return Number(row.attacks[f"{attack}/auc"]) if f"{attack}/auc" in row.attacks else None
    named, unseen = (row.attacks.get(f"{attack}/mean_{split}_acc") for split in ("forget", unseen_split(row)))
    return None if named is None or unseen is None else Number(named, unseen)


def _needs_unseen(row: Row, split: str) -> bool:
    """Whether a number counts beyond that of unseen images; where there are no test images, all have to do without."""
    return of_images(row, split) and RETAINED in row.metrics


def _informedness(row: Row) -> Iterator[tuple[Key, Number]]:
    for name, value in row.attacks.items():
        attack, _, quantity = name.rpartition("/")
        if quantity == "informedness" and f"{name}_error" in row.attacks:
            yield Key(attack, "test_forget_acc", "informedness"), Number(value)


def _aucs(row: Row) -> Iterator[tuple[Key, Number]]:
    for split in [name for name in _decisive(row) if name in _NOW]:
        for key, value in row.attacks.items():
            attack, _, quantity = key.rpartition("/")
            if attack == DETECTION and quantity == f"{split.removesuffix('_acc')}_auc":
                yield Key(attack, split, "AUC"), Number(value)
            elif attack.startswith("membership/") and quantity == AUC:  # and not auc_of_models
                yield Key(attack, "forget_acc", "AUC"), Number(forward(row.attacks, attack))


def _idi(row: Row) -> Iterator[tuple[Key, Number]]:
    bits = [value for key, value in row.attacks.items() if key.startswith(f"{IDI}/") and key.endswith("/bits")]
    if bits and f"{IDI}/error" in row.attacks:  # else the attack says that the index is undefined
        yield Key(IDI, "forget_acc", "IDI"), Number(fmean(bits))
