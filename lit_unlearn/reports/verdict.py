"""Did the model forget? Retrain is a distribution and not a number, so each claim has bounds or is not made.

A verdict is on the models of one method, one a seed, beside the Retrains of the same forget set under the same attacks.
An accuracy that Retrain reaches as well is no memory: only the excess over Retrain counts. The first that holds; the
second to the fifth hold of the mean of the models or of one model alone:

    failed               the run did not end well
    not judged           there is no Retrain, or no accuracy on what is to be forgotten
    ruined               accuracy on retained test images is more than ten points below Retrain's
    not forgotten        without an attack, the model is above Retrain by more than the larger margin
    leaks                under some attack it is above Retrain by more than the smaller margin
    cannot tell          no attack that sees more than answers separates the untouched Original from Retrain
    not attacked enough  an attack of the minimum is missing, or relearning broke the network
    as Retrain           under every attack it is above Retrain by less than the larger margin, measured on all models
                         and five Retrains, and all runs ended; it does not name single images less often by more than
                         that margin; and the untouched Original is above Retrain by more than that under some attack
                         that sees more than answers
    inconclusive         otherwise

The lower bounds of the excess hold for all attacks together (Bonferroni), so that models which are like Retrain's, and
vary as those do, are said to leak with probability alpha at most. Of several models half of alpha is for their mean and
half for each of them alone: noise between models widens the bounds of the mean, and would hide a model that leaks. Two
kinds of numbers condemn on both sides of Retrain, membership by a threshold and the lead of single images without an
attack: each side has half of their part. "Ruined" has an alpha of its own. The
upper bounds hold each for itself, however the models vary: "as Retrain" needs all of them, so that a method which leaks
is said to be as Retrain with probability alpha at most (an intersection-union test: Berger, 1982).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from lit_unlearn.reports.averages import one_a_model, one_an_original
from lit_unlearn.reports.comparisons import (
    MARGINS,
    Comparison,
    Margins,
    attacks_lacking,
    compare,
    skill_in_classes,
)
from lit_unlearn.reports.flags import broken_by_relearning, flags
from lit_unlearn.reports.minimum import RETRAINS_NEEDED, has_bits, missing, unmeasured
from lit_unlearn.reports.numbers import forgets, of_images, sees_more_than_answers
from lit_unlearn.reports.rows import NO_ATTACK, ORIGINAL, RETRAIN, Row, references
from lit_unlearn.reports.statistics import Difference
from lit_unlearn.reports.utility import Utility, accuracy_lost, utility_of

RUINED = 0.10
"""Points of accuracy on retained test images, as a fraction."""

Level = Literal[
    "failed",
    "not judged",
    "ruined",
    "not forgotten",
    "leaks",
    "cannot tell",
    "not attacked enough",
    "as Retrain",
    "inconclusive",
]
CONDEMNED: tuple[Level, ...] = ("ruined", "not forgotten", "leaks")
"""What is said only beyond doubt, the gravest first."""


@dataclass(frozen=True)
class Verdict:
    """The judgement on the models of one method.

    Attributes:
        level: see the module.
        utility: accuracy on retained test images, beside Original's and Retrain's, whichever is higher.
        lost: by reference, how far that accuracy is below it, as a fraction, with bounds.
        comparisons: every number that was compared with Retrain, the largest lower bound first.
        models: how many models of the method their mean is of; those of one Original count as one.
        single: how many models were judged alone, those of one Original each by itself.
        retrains: how many Retrains they were compared with.
        missing: what the minimum of attacks lacks.
        uncompared: attacks with a number of these models and none of Retrain.
        separated: whether attacks that see more than answers separate Original from Retrain; None where Original is
            unknown.
        separating: how many of the comparisons separate Original from Retrain; None where Original is unknown.
        telling: whether one that sees more than answers does so by more than the larger margin; None where Original is
            unknown.
        too_few: of single images, the answers without an attack that are surely below Retrain's by more than the larger
            margin, or may be; None where none may be.
        unmeasured: attacks whose number some of the runs lack, or all but fewer than five of the Retrains.
        knows_classes: whether they name unseen images of the forget images' classes better than Retrain by more than
            the larger margin, as measured.
        unfinished: how many runs did not end well, or left no row.
        apart: of models of one Original whose mean is as Retrain, how many would be condemned as the only one.
        alone: how many models have that level by themselves, where it is graver than that of their mean.
        gravest: the verdict on that of them which decides; None where there is none.
        flags: name → sentence of each sign that the evaluation cannot be trusted.
    """

    level: Level
    utility: Utility
    lost: Mapping[str, Difference]
    comparisons: Sequence[Comparison] = ()
    models: int = 0
    single: int = 0
    retrains: int = 0
    missing: Sequence[str] = ()
    uncompared: Sequence[str] = ()
    separated: bool | None = None
    separating: int | None = None
    telling: bool | None = None
    too_few: Comparison | None = None
    unmeasured: Sequence[str] = ()
    knows_classes: bool = False
    unfinished: int = 0
    alone: int = 0
    apart: int = 0
    gravest: "Verdict | None" = None
    flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def no_attack(self) -> Comparison | None:
        """Accuracy on what is to be forgotten, without an attack; of several requests, where most is left."""
        return next((each for each in self.comparisons if each.attack == NO_ATTACK), None)

    @property
    def worst(self) -> Comparison | None:
        """What decides: the answer, what leaks most, or what is least surely as Retrain; of one model if that does."""
        if self.gravest is not None:
            return self.gravest.worst
        if self.level == "not forgotten":
            return self.no_attack
        attacked = [each for each in self.comparisons if each.attack != NO_ATTACK]
        if self.level == "leaks":
            leaking = [each for each in self.comparisons if each.leaks]
            return max(leaking, key=lambda each: each.severity) if leaking else self.too_few
        last = max(attacked, key=lambda each: each.high / (each.scale * each.margins.same), default=None)
        return self.too_few if last is not None and last.as_retrain and self.too_few is not None else last

    def with_lost(self, runs: int) -> "Verdict":
        """The verdict where so many further runs of the method have left no row: no model of it is as Retrain."""
        level: Level = "inconclusive" if runs and self.level == "as Retrain" else self.level
        return replace(self, level=level, unfinished=self.unfinished + runs)

    @property
    def below(self) -> int:
        """Of how many comparisons the upper bound is below the larger margin."""
        return sum(each.as_retrain for each in self.comparisons)

    @property
    def good(self) -> bool:
        """As Retrain, with utility kept."""
        return self.level == "as Retrain" and self.utility == "kept"

    @property
    def depth(self) -> float | None:
        """What methods are sorted by: the largest lower bound, in larger margins; None where no attack was run.

        The answers without an attack count where they are above Retrain's beyond doubt: of models that have forgotten
        they are alike, and would hide by how much attacks differ.

        Of one model alone, where that decides.
        """
        found = self.comparisons if self.gravest is None else (*self.comparisons, *self.gravest.comparisons)
        attacks = [each.severity for each in found if each.attack != NO_ATTACK]
        answers = [each.severity for each in found if each.attack == NO_ATTACK and each.low > 0]
        return max([*attacks, *answers]) if attacks else None

    def as_json(self, reason: str) -> dict[str, Any]:
        """What a row keeps of it: ``level``, ``worst``, ``intervals`` by attack, and ``reason``.

        ``unseen`` of an interval is what its value and Retrain's are on unseen images, which is subtracted from them;
        where ``turned`` is there, both are 1 − the AUC.
        """
        intervals: dict[str, dict[str, Any]] = {}
        of_one = [] if self.worst is None else [self.worst]
        # The worst first, which counts where an attack is compared on two splits.
        for each in (*of_one, *self.comparisons):
            interval: dict[str, Any] = {"split": each.split, "unit": each.unit}
            interval |= {name: round(getattr(each, name), 4) for name in ("value", "retrain", "excess", "low", "high")}
            interval |= {"turned": True} if each.turned else {}
            if each.unseen is not None:
                interval["unseen"] = [round(mean, 4) for mean in each.unseen[:2]]
            intervals.setdefault(each.attack, interval)
        worst = None if self.worst is None else self.worst.attack
        counts = {"models": self.models, "retrains": self.retrains}
        found = {"level": self.level, "utility": self.utility, "worst": worst, "reason": reason, **counts}
        found |= {"alone": self.alone} if self.alone else {}
        return found | {"intervals": intervals} | ({"flags": dict(self.flags)} if self.flags else {})


def judge(row: Row, rows: Sequence[Row], margins: Margins = MARGINS) -> Verdict:
    """Judge one model beside the Originals and Retrains among ``rows`` that share its split."""
    return judge_models([row], references(row, rows, RETRAIN), references(row, rows, ORIGINAL), margins)


def judge_models(
    models: Sequence[Row], retrains: Sequence[Row], originals: Sequence[Row], margins: Margins = MARGINS
) -> Verdict:
    """Judge the models of one method.

    Args:
        models: their rows; of one that was attacked several times, the mean counts. The mean over the models counts
            those of one Original as one, and each is judged alone.
        retrains: rows of Retrains of the same forget set.
        originals: rows of the models before unlearning.
        margins: what counts as a difference.
    """
    ended = [row for row in models if row.status == "ok"]
    single = one_a_model(ended)
    ours = one_an_original(single)
    if not ours:
        return Verdict("failed", *utility_of(ours, retrains, originals))
    before = compare(originals, retrains, originals, margins) if originals else []
    single_images = forgets(ours[0]) == "images"
    above = [each for each in before if each.leaks and not each.turned]
    counted = [each for each in above if single_images or each.attack != NO_ATTACK]
    separating = counted if originals else None
    beside = _Beside(retrains, originals, margins, separating)
    found = _judged(ours, ended, beside, tests_of_mean(len(single)), unfinished=len(models) - len(ended))
    found = replace(found, single=len(single))
    graver = CONDEMNED[: CONDEMNED.index(found.level)] if found.level in CONDEMNED else CONDEMNED
    if len(single) == 1 or found.level == "not judged" or not graver:
        return found
    if found.level == "as Retrain" and len(single) > len(ours):  # a mean hides what lies on both sides of Retrain
        apart = [row for row in single if _judged([row], [row], beside, tests=1, flagged=False).level in CONDEMNED]
        found = replace(found, level="inconclusive", apart=len(apart)) if apart else found
    alone = [_judged([row], [row], beside, tests=2 * len(single), flagged=False) for row in single]
    for level in graver:
        if there := [verdict for verdict in alone if verdict.level == level]:
            gravest = max(there, key=_gravity)
            return replace(found, level=level, alone=len(there), gravest=gravest)
    return found


def _gravity(verdict: Verdict) -> float:
    """How much is wrong with a condemned model, by what its sentence says."""
    if verdict.level == "ruined":
        return max((each.mean for each in verdict.lost.values()), default=0.0)
    worst = verdict.worst
    if worst is not None and worst is verdict.too_few:
        return -worst.high / (worst.scale * worst.margins.same)
    return 0.0 if worst is None else worst.severity


def tests_of_mean(models: int) -> int:
    """Of how many parts of alpha the mean of so many models has one: of two, where each is judged alone as well."""
    return 1 if models == 1 else 2


class _Beside(NamedTuple):
    """What models are judged beside: rows of the references, margins, and what separates Original from Retrain.

    ``separating`` is what attacks find in Original beside Retrain, of those that find more; None where Original is
    unknown.
    """

    retrains: Sequence[Row]
    originals: Sequence[Row]
    margins: Margins
    separating: Sequence[Comparison] | None


def _judged(
    ours: Sequence[Row],
    ended: Sequence[Row],
    beside: _Beside,
    tests: int,
    unfinished: int = 0,
    flagged: bool = True,
) -> Verdict:
    """The verdict on the mean of some models, one an original, made of the rows of runs that ended.

    The flags are of all models: a verdict on one of several has none.
    """
    retrains, originals, margins, separating = beside
    utility, lost = utility_of(ours, retrains, originals)
    comparisons = sorted(compare(ours, retrains, originals, margins, tests), key=lambda each: -each.severity)
    broken = broken_by_relearning(ended, retrains)
    compared = [each.attack for each in comparisons]
    skill = skill_in_classes(ours, retrains, margins)
    single = [each for each in comparisons if each.attack == NO_ATTACK and of_images(ours[0], each.split)]
    telling = None if separating is None else [each for each in separating if each.attack in compared]
    seeing = [each for each in telling or () if sees_more_than_answers(each.attack, ours[0])]
    shown = None if telling is None else [each for each in seeing if each.attack not in broken]
    separated = None if shown is None else bool(shown)
    found = Verdict(
        "not judged",
        utility,
        lost,
        comparisons,
        models=len(ours),
        retrains=(known := len(one_a_model(retrains))),
        missing=missing(ours[0], compared, broken, all(has_bits(rows) for rows in (ours, retrains, originals))),
        uncompared=[attack for attack in attacks_lacking(retrains, ours) if attack != NO_ATTACK],
        separated=separated,
        separating=None if telling is None else len(telling),
        telling=None if shown is None else any(each.differs for each in shown),
        too_few=min(
            (each for each in single if each.falls_short_perhaps),
            key=lambda each: (not each.falls_short, each.excess),
            default=None,
        ),
        unmeasured=unmeasured(ended, retrains, comparisons, min(known, RETRAINS_NEEDED)),
        unfinished=unfinished,
        flags=flags(ended, retrains, comparisons, separated if retrains else None, broken, skill) if flagged else {},
        knows_classes=skill is not None and skill.excess > margins.same,
    )
    return replace(found, level=_level(found, ours, retrains, tests))


def _level(found: Verdict, models: Sequence[Row], retrains: Sequence[Row], tests: int) -> Level:
    no_attack = found.no_attack
    if no_attack is None:
        return "not judged"
    if (lost := accuracy_lost(models, retrains)) is not None and lost.low(no_attack.margins.alpha / tests) > RUINED:
        return "ruined"
    if no_attack.low > no_attack.margins.same:
        return "not forgotten"
    if (found.too_few is not None and found.too_few.falls_short) or any(each.leaks for each in found.comparisons):
        return "leaks"
    if found.separated is False:
        return "cannot tell"
    if found.missing:
        return "not attacked enough"
    near = found.retrains >= RETRAINS_NEEDED and found.telling and all(c.as_retrain for c in found.comparisons)
    unmeasured = found.unmeasured or found.uncompared
    open_ones = unmeasured or found.too_few is not None or found.knows_classes or found.unfinished
    return "as Retrain" if near and not open_ones else "inconclusive"
