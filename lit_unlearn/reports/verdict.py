"""Did the model forget? A rule that turns a row and its two references into a judgement.

Every attack is compared with the same attack on Retrain, a model that never saw the data: what Retrain gives away is no
memory. The attack with the largest excess over Retrain counts, on the forget images themselves and on unseen images of
the forgotten classes. A model from which nothing comes back may still show which images it was to forget: membership
and detectability are held beside Retrain's in the same way.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lit_unlearn.reports.rows import AS_IS, FORGOTTEN, ORIGINAL, RETRAIN, Row, chance, reference

DEPTH_TOLERANCE = 0.05
DEPTH_LEAST = 0.02
TOLD_TOLERANCE = 0.05
UTILITY_KEPT = 0.02
UTILITY_REDUCED = 0.05

_TELLING = ("membership/", "detectability/")
_AUCS = ("auc", *(f"{split.removesuffix('_acc')}_auc" for split in FORGOTTEN))

Level = Literal["deep", "part", "shallow", "remembers", "unjudged", "failed"]
Utility = Literal["kept", "reduced", "damaged", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One accuracy on forgotten data, beside the same of the references (None: unknown)."""

    attack: str
    split: str
    value: float
    retrain: float | None
    original: float | None
    tolerance: float = DEPTH_TOLERANCE

    @property
    def excess(self) -> float | None:
        """What it gives beyond Retrain, as a fraction."""
        return None if self.retrain is None else self.value - self.retrain

    @property
    def above(self) -> bool:
        """Whether it exceeds Retrain by more than the tolerance."""
        return self.excess is not None and self.excess > self.tolerance


@dataclass(frozen=True)
class Verdict:
    """The judgement on one row.

    Attributes:
        level: ``deep`` (as Retrain), ``part``, ``shallow``, ``remembers``, ``unjudged`` or ``failed`` (no such run).
        utility: accuracy on retained test data beside Original's.
        utility_lost: Original's minus the row's, as a fraction.
        as_is: accuracy on forgotten data without an attack, where it exceeds Retrain most.
        worst: the attack that exceeds Retrain most (without Retrain: that recovers most).
        uncompared: attacks that Retrain was not given.
        constant: accuracy of a constant answer, where an attack gets no more and no less; else None.
        told: the AUC at which forgotten images are told from unseen ones, where it exceeds Retrain's most and by more
            than the tolerance; else None.
    """

    level: Level
    utility: Utility
    utility_lost: float | None
    as_is: Finding | None
    worst: Finding | None
    uncompared: tuple[str, ...] = ()
    constant: float | None = None
    told: Finding | None = None

    @property
    def withstood(self) -> bool:
        """Nothing comes back, nothing is told, beyond what Retrain gives."""
        return self.level == "deep" and self.told is None

    @property
    def good(self) -> bool:
        """Withstood as Retrain does, with utility kept."""
        return self.withstood and self.utility == "kept"


def judge(row: Row, rows: Sequence[Row]) -> Verdict:
    """Judge one row against the Original and Retrain among ``rows`` that share its split."""
    original, retrain = reference(row, rows, ORIGINAL), reference(row, rows, RETRAIN)
    findings = list(_findings(row, original, retrain))
    as_is = _worst([f for f in findings if f.attack == AS_IS])
    attacked = [f for f in findings if f.attack != AS_IS]
    worst = _worst(attacked)
    utility, lost = _utility(row, original)
    compared = {f.attack for f in attacked if f.retrain is not None}
    uncompared = tuple(dict.fromkeys(f.attack for f in attacked if f.attack not in compared))
    level = chance(row)
    constant = level if any(abs(f.value - (level or math.inf)) <= DEPTH_TOLERANCE for f in attacked) else None
    told = max(_told(row, original, retrain), key=lambda f: (f.excess or 0.0) - f.tolerance, default=None)
    return Verdict(_level(row, as_is, worst), utility, lost, as_is, worst, uncompared, constant, told)


def tolerance_beside(retrain: float | None, original: float | None) -> float:
    """What may be above Retrain and is no memory yet, as a fraction.

    Five points; where Original is less than ten above Retrain half of that, but two points at least: single images that
    were forgotten are known to Retrain nearly as well as to Original, and five points would forgive everything.
    """
    if retrain is None or original is None:
        return DEPTH_TOLERANCE
    return min(DEPTH_TOLERANCE, max(DEPTH_LEAST, (original - retrain) / 2))


def exceeds(row: Row, split: str, value: float, retrain: float, original: float | None) -> bool:
    """Whether an accuracy on forgotten data is above Retrain's by more than the tolerance."""
    return value - retrain > _tolerance(row, split, value, retrain, original)


def _findings(row: Row, original: Row | None, retrain: Row | None) -> Iterator[Finding]:
    beside_original = original.accuracies() if original else {}
    beside_retrain = retrain.accuracies() if retrain else {}
    for attack, known in row.accuracies().items():
        for split in FORGOTTEN:
            if split in known:
                value = known[split]
                base, start = (beside.get(attack, {}).get(split) for beside in (beside_retrain, beside_original))
                tolerance = _tolerance(row, split, value, base, start)
                yield Finding(attack, split, value, base, start, tolerance)


def _told(row: Row, original: Row | None, retrain: Row | None) -> Iterator[Finding]:
    """What tells forgotten images from unseen ones more surely than on Retrain; below .5 nothing is told."""
    for key, value in row.attacks.items():
        attack, _, quantity = key.rpartition("/")
        if retrain is None or not key.startswith(_TELLING) or quantity not in _AUCS or key not in retrain.attacks:
            continue
        split = quantity.removesuffix("auc").removesuffix("_") or "forget"
        start = original.attacks.get(key) if original else None
        base = retrain.attacks[key]
        tolerance = _told_tolerance(row, split) + max(0.5 - base, 0.0)
        found = Finding(attack, f"{split}_acc", value, base, start, tolerance)
        if found.above:
            yield found


def _told_tolerance(row: Row, split: str) -> float:
    """Five points of AUC, or two standard errors of a difference where halves of few images cannot tell it."""
    sizes = [_images(row, name) for name in (split, "test_retain")]
    variance = sum(1 / (12 * (size // 2)) for size in sizes if size > 1)
    return max(TOLD_TOLERANCE, 2 * math.sqrt(2 * variance))


def _worst(findings: list[Finding]) -> Finding | None:
    """Largest excess over Retrain; where nothing exceeds it, or nothing can be compared, largest accuracy."""
    compared = [f for f in findings if f.excess is not None]
    if any(f.above for f in compared):
        return max((f for f in compared if f.above), key=lambda f: f.excess or 0.0)
    return max(compared or findings, key=lambda f: f.value, default=None)


def _tolerance(row: Row, split: str, value: float, base: float | None, original: float | None) -> float:
    """That of the references, or two standard errors of the difference where the images are too few to tell it."""
    tolerance = tolerance_beside(base, original)
    images = _images(row, split.removesuffix("_acc"))
    if base is None or images < 1:
        return tolerance
    variance = sum(max(0.0, p * (1 - p)) for p in (value, base)) / images
    return max(tolerance, 2 * math.sqrt(variance))


def _images(row: Row, split: str) -> int:
    """How many images a split has, 0 where a row does not say."""
    counts = row.split.get("counts", row.split)
    images = counts.get(split) if isinstance(counts, dict) else None
    return images if isinstance(images, int) else 0


def _level(row: Row, as_is: Finding | None, worst: Finding | None) -> Level:
    if row.status != "ok":
        return "failed"
    if as_is and as_is.above and (as_is.original is None or as_is.value > ((as_is.retrain or 0) + as_is.original) / 2):
        return "remembers"
    if worst and worst.above:
        return "shallow"
    if as_is and as_is.above:
        return "part"
    if not worst or worst.retrain is None or not as_is or as_is.retrain is None:
        return "unjudged"
    return "deep"


def _utility(row: Row, original: Row | None) -> tuple[Utility, float | None]:
    mine, before = (r.metrics.get("test_retain_acc") if r else None for r in (row, original))
    if mine is None or before is None:
        return "unknown", None
    lost = before - mine
    return ("kept" if lost <= UTILITY_KEPT else "reduced" if lost <= UTILITY_REDUCED else "damaged"), lost
