"""Did the model forget? A rule that turns a row and its two references into a judgement.

Every attack is compared with the same attack on Retrain, a model that never saw the forget set: an accuracy that
Retrain reaches as well is not memory. The attack with the largest excess over Retrain counts, on the forget images
themselves and on unseen images of the forgotten classes. A model that exceeds Retrain nowhere can still be detectable:
membership and detectability are compared with Retrain's in the same way. A model withstands only after the attacks in
``MINIMUM_ATTACKS``: Rescale, a control that does not forget, passes linear readouts of raw features.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lit_unlearn.reports.rows import FORGOTTEN, NO_ATTACK, ORIGINAL, RETRAIN, Row, chance, reference

DEPTH_TOLERANCE = 0.05
DEPTH_LEAST = 0.02
LEAKAGE_TOLERANCE = 0.05
UTILITY_KEPT = 0.02
UTILITY_REDUCED = 0.05

MINIMUM_ATTACKS = ("recovery/worst",)
"""Attacks without which no model counts as withstanding: the quick suite has them."""

_LEAKAGE_ATTACKS = ("membership/", "detectability/")
_AUCS = ("auc", *(f"{split.removesuffix('_acc')}_auc" for split in FORGOTTEN))

Level = Literal["deep", "part", "shallow", "remembers", "untested", "inconclusive", "unjudged", "failed"]
Utility = Literal["kept", "reduced", "damaged", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One accuracy on forgotten data, with that of the references under the same attack (None: unknown)."""

    attack: str
    split: str
    value: float
    retrain: float | None
    original: float | None
    tolerance: float = DEPTH_TOLERANCE

    @property
    def excess(self) -> float | None:
        """How far it is above Retrain, as a fraction."""
        return None if self.retrain is None else self.value - self.retrain

    @property
    def above(self) -> bool:
        """Whether it exceeds Retrain by more than the tolerance."""
        return self.excess is not None and self.excess > self.tolerance


@dataclass(frozen=True)
class Verdict:
    """The judgement on one row.

    Attributes:
        level: ``deep`` (no attack exceeds Retrain), ``part``, ``shallow``, ``remembers``, ``untested`` (too few
            attacks for ``deep``), ``inconclusive`` (no attack separates Original from Retrain), ``unjudged`` (no
            Retrain, or no attack) or ``failed`` (the run did not end well).
        utility: accuracy on retained test data, compared with Original's.
        utility_lost: Original's minus the row's, as a fraction.
        no_attack: accuracy on forgotten data without an attack, where it exceeds Retrain most.
        worst: the attack that exceeds Retrain most (without Retrain: that recovers most).
        attacks: attacks that were compared with Retrain.
        uncompared: attacks that were not run on Retrain.
        constant: the chance level, where an attack ends at it; else None.
        leakage: the AUC of forgotten against other images that exceeds Retrain's most, if by more than the tolerance;
            else None.
    """

    level: Level
    utility: Utility
    utility_lost: float | None
    no_attack: Finding | None
    worst: Finding | None
    attacks: tuple[str, ...] = ()
    uncompared: tuple[str, ...] = ()
    constant: float | None = None
    leakage: Finding | None = None

    @property
    def withstood(self) -> bool:
        """No attack recovers more than on Retrain, and forgotten images are not easier to detect."""
        return self.level == "deep" and self.leakage is None

    @property
    def good(self) -> bool:
        """Withstands as well as Retrain, with utility kept."""
        return self.withstood and self.utility == "kept"


def judge(row: Row, rows: Sequence[Row]) -> Verdict:
    """Judge one row against the Original and Retrain among ``rows`` that share its split."""
    original, retrain = reference(row, rows, ORIGINAL), reference(row, rows, RETRAIN)
    findings = list(_findings(row, original, retrain))
    no_attack = _worst([f for f in findings if f.attack == NO_ATTACK])
    attacked = [f for f in findings if f.attack != NO_ATTACK]
    worst = _worst(attacked)
    utility, lost = _utility(row, original)
    compared = tuple(dict.fromkeys(f.attack for f in attacked if f.retrain is not None))
    uncompared = tuple(dict.fromkeys(f.attack for f in attacked if f.attack not in compared))
    level = chance(row)
    constant = level if any(abs(f.value - (level or math.inf)) <= DEPTH_TOLERANCE for f in attacked) else None
    leakage = max(_leakage(row, original, retrain), key=lambda f: (f.excess or 0.0) - f.tolerance, default=None)
    judged = _level(row, no_attack, worst)
    if judged == "deep" and not set(MINIMUM_ATTACKS) <= set(compared):
        judged = "untested"
    elif judged == "deep" and leakage is None and not _separates_references(attacked):
        judged = "inconclusive"
    return Verdict(judged, utility, lost, no_attack, worst, compared, uncompared, constant, leakage)


def _separates_references(attacked: Sequence[Finding]) -> bool:
    """Whether an attack names more on Original than on Retrain, by more than the tolerance, or Original is unknown.

    Where none does, Original itself would pass, and so does whatever keeps all of its knowledge.
    """
    pairs = [(f.original - f.retrain, f) for f in attacked if f.original is not None and f.retrain is not None]
    return not pairs or any(lead > f.tolerance for lead, f in pairs)


def tolerance_beside(retrain: float | None, original: float | None) -> float:
    """How far above Retrain an accuracy may be without counting as memory, as a fraction.

    Five points. Where Original is less than ten points above Retrain, half of that distance, but at least two points:
    on single forgotten images Retrain is nearly as accurate as Original, and five points would accept every model.
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


def _leakage(row: Row, original: Row | None, retrain: Row | None) -> Iterator[Finding]:
    """AUCs of forgotten against other images that exceed Retrain's; Retrain's counts as .5 where it is below."""
    base_of = retrain.attacks if retrain else {}
    for key, value in row.attacks.items():
        attack, _, quantity = key.rpartition("/")
        if key not in base_of or not key.startswith(_LEAKAGE_ATTACKS) or quantity not in _AUCS:
            continue
        split = quantity.removesuffix("auc").removesuffix("_") or "forget"
        start = original.attacks.get(key) if original else None
        base = base_of[key]
        tolerance = _leakage_tolerance(row, split) + max(0.5 - base, 0.0)
        found = Finding(attack, f"{split}_acc", value, base, start, tolerance)
        if found.above:
            yield found


def _leakage_tolerance(row: Row, split: str) -> float:
    """Five points of AUC, or two standard errors of a difference where the images are too few to resolve that."""
    sizes = [_images(row, name) for name in (split, "test_retain")]
    variance = sum(1 / (12 * (size // 2)) for size in sizes if size > 1)
    return max(LEAKAGE_TOLERANCE, 2 * math.sqrt(2 * variance))


def _worst(findings: list[Finding]) -> Finding | None:
    """Largest excess over Retrain; where nothing exceeds it, or nothing can be compared, largest accuracy."""
    compared = [f for f in findings if f.excess is not None]
    if any(f.above for f in compared):
        return max((f for f in compared if f.above), key=lambda f: f.excess or 0.0)
    return max(compared or findings, key=lambda f: f.value, default=None)


def _tolerance(row: Row, split: str, value: float, base: float | None, original: float | None) -> float:
    """That of the references, or two standard errors of the difference where the images are too few to resolve it."""
    tolerance = tolerance_beside(base, original)
    images = _images(row, split.removesuffix("_acc"))
    if base is None or images < 1:
        return tolerance
    variance = sum(max(0.0, p * (1 - p)) for p in (value, base)) / images
    return max(tolerance, 2 * math.sqrt(variance))


def _images(row: Row, split: str) -> int:
    """How many images a split has, 0 where it is unknown."""
    counts = row.split.get("counts", row.split)
    images = counts.get(split) if isinstance(counts, dict) else None
    return images if isinstance(images, int) else 0


def _level(row: Row, no_attack: Finding | None, worst: Finding | None) -> Level:
    if row.status != "ok":
        return "failed"
    if no_attack and no_attack.above and _nearer_to_original(no_attack):
        return "remembers"
    if worst and worst.above:
        return "shallow"
    if no_attack and no_attack.above:
        return "part"
    if not worst or worst.retrain is None or not no_attack or no_attack.retrain is None:
        return "unjudged"
    return "deep"


def _nearer_to_original(found: Finding) -> bool:
    """Whether an accuracy is nearer to Original's than to Retrain's; yes where Original is unknown."""
    return found.original is None or found.value > ((found.retrain or 0.0) + found.original) / 2


def _utility(row: Row, original: Row | None) -> tuple[Utility, float | None]:
    mine, before = (r.metrics.get("test_retain_acc") if r else None for r in (row, original))
    if mine is None or before is None:
        return "unknown", None
    lost = before - mine
    return ("kept" if lost <= UTILITY_KEPT else "reduced" if lost <= UTILITY_REDUCED else "damaged"), lost
