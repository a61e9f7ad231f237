"""The worst case of recovery: every readout of a fixed suite, and the strongest of them.

A defence may withstand one readout by design; it has to withstand all. So the number that counts is the largest
accuracy on forgotten data over the suite, beside that of the same suite on Original and Retrain.

What is decided on. Where whole classes are forgotten: held-out images of them (``test_forget``), with readouts fitted
on the training set. Where single images are forgotten nothing held out is forgotten, so the forget images themselves
are predicted by readouts that were fitted on everything else (``calibration: rest``). The strongest is the one with the
largest ``gap``: how much better that goes than on test images that no one ever trained on, which is what was memorised.

The maximum over M readouts on n samples is biased upwards: some win by luck. ``select: maximum``, the default, reports
it all the same, because it errs on the side of finding a leak, uses every sample, and the same maximum is taken of
Retrain, with nearly the same bias. ``selection_bias`` estimates it: the maximum minus what the readout that is best on
one half of the samples gets on the other half, averaged over both halves (of single images, of their lead). ``select:
half`` reports the latter with no such bias, on half as many samples.

There is one maximum for readouts that answer the same question from the same layers: of the features that the head
reads; ``stages``, of earlier layers; ``within_forget_classes``, which class among the forgotten ones; and, where all
readouts read the stages, ``within_forget_classes/stages``. One maximum over all would hide the first: from early
stages, or knowing that a class is among three, a readout gets 85 to 100 % from any model of handwritten digits, also
from Retrain, from random weights, and from a model whose features have collapsed.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import ClassVar, Literal

from lightning.pytorch import LightningModule, Trainer

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.recovery.base import (
    Calibration,
    Layers,
    Normalisation,
    Readout,
    Recovery,
    score_part,
    standard_calibration,
)
from lit_unlearn.attacks.recovery.linear import FeatureMapping, HeadRecovery, StageRecovery
from lit_unlearn.attacks.recovery.readouts import (
    CapacityRecovery,
    ForgetProbe,
    KNNRecovery,
    LinearDiscriminant,
    NearestMean,
)
from lit_unlearn.attacks.splits import forgotten_split, obtained, unseen_accuracy
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.results import AttackResult

Stages = Literal["heads", "readouts"]
SUITES: dict[Stages, int] = {"heads": 1, "readouts": 2}
"""Version of the standard suite: a new one when a member comes, goes or changes, since maxima then differ."""

Select = Literal["maximum", "half"]
Halves = tuple[dict[str, float], dict[str, float]]
_SELECT = ("maximum", "half")
_LARGE = "retain"
"""A split that decides nothing and is the largest: the strongest readout alone is scored on it."""

_NORMALISE: tuple[Normalisation, ...] = ("raw", "standard", "l2", "gated")


def standard_suite(calibration: Calibration, seed: int = 0, stages: Stages = "heads") -> list[Recovery]:
    """The members of the standard suite, the simplest first.

    Args:
        calibration: the set that all are fitted on.
        seed: of those that draw.
        stages: what earlier layers are read by: ``heads``, two ridge regressions; or ``readouts``, all that the
            features are read by.
    """
    deep: list[Recovery] = [
        StageRecovery(calibration, normalise="raw", name="stages_raw"),
        StageRecovery(calibration, normalise="l2", name="stages_l2"),
    ]
    if stages == "readouts":
        deep = readouts_of("stages", calibration, seed)
    probes: list[Recovery] = [] if calibration == "retain" else [ForgetProbe(calibration)]
    if stages == "readouts" and probes:
        probes.append(ForgetProbe(calibration, layers="stages", name="forget_probe_stages"))
    return [*readouts_of("features", calibration, seed), *deep, *probes]


def readouts_of(layers: Layers, calibration: Calibration, seed: int) -> list[Recovery]:
    """Every readout of which of all classes an image has, the simplest first; at stages, names begin with it."""
    prefix = "stages_" if layers == "stages" else ""
    linear: list[Recovery] = []
    for normalise, bias in product(_NORMALISE, (True, False)):
        suffix = normalise if bias else f"{normalise}_no_bias"
        for kind, short in ((HeadRecovery, "hr"), (FeatureMapping, "fm")):
            name = f"{prefix}{short}_{suffix}"
            linear.append(kind(calibration=calibration, bias=bias, normalise=normalise, layers=layers, name=name))
    return [
        *linear,
        NearestMean(calibration, "raw", layers, name=f"{prefix}nearest_mean_raw"),
        NearestMean(calibration, "l2", layers, name=f"{prefix}nearest_mean_l2"),
        LinearDiscriminant(calibration, normalise="raw", layers=layers, name=f"{prefix}lda_raw"),
        LinearDiscriminant(calibration, normalise="l2", layers=layers, name=f"{prefix}lda_l2"),
        KNNRecovery(calibration, seed=seed, layers=layers, name=f"{prefix}knn"),
        CapacityRecovery(calibration, seed=seed, layers=layers, name=f"{prefix}capacity"),
    ]


class WorstRecovery(Attack):
    """Runs a suite of recovery attacks and reports the strongest, and every member.

    Numbers: ``<split>_acc`` of the strongest readout of the features; ``stages/<split>_acc``,
    ``within_forget_classes/<split>_acc`` and ``within_forget_classes/stages/<split>_acc`` of those groups; beside
    each, ``readouts``, how many there are, ``selection_bias`` where it can be estimated, ``gap`` where single
    images are forgotten, and ``images`` and ``unseen``, how many of these are scored, where not all are; also
    ``<split>_acc/<member>`` of every member. Notes: ``strongest``, its name, and ``reading``, what the number is a
    maximum of. Members that need the original are left out where there is none; ``readouts`` then is smaller.

    Args:
        members: the suite; None is the standard one.
        calibration: what the standard suite is fitted on; None as for :class:`Recovery`.
        select: how the strongest is found, ``maximum`` or ``half``, see the module.
        seed: of the members of the standard suite that draw.
        stages: what the standard suite reads earlier layers by: ``heads``, ridge regressions (suite 1); or
            ``readouts``, every readout that the features are read by (suite 2), at as many times the cost as there are
            stages.
        name: metric name prefix.

    Raises:
        UsageError: if there are no members, two share a name, or an option does not go with another.
    """

    family: ClassVar[str] = "recovery"
    needs_forget = True

    def __init__(
        self,
        members: list[Recovery] | None = None,
        calibration: Calibration | None = None,
        select: Select = "maximum",
        seed: int = 0,
        stages: Stages = "heads",
        name: str = "worst",
    ) -> None:
        super().__init__(name)
        if select not in _SELECT:
            raise unknown("way to select", select, _SELECT)
        if stages not in SUITES:
            raise unknown("way to read stages", stages, SUITES)
        if members is not None:
            _check_members(members)
            if calibration is not None:
                raise UsageError(f"calibration is {calibration!r}, but members bring their own: give one of the two")
        elif calibration is not None:
            standard_suite(calibration)  # an unknown one is refused now
        self.members, self.calibration, self.select, self.seed = members, calibration, select, seed
        self.stages = stages

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses, before anything is trained, to select on samples that a member is fitted on."""
        super().setup(trainer, pl_module, stage)
        self._suite(trainer.datamodule.split_names)  # type: ignore[attr-defined]

    def evaluate(self, target: Target) -> AttackResult:
        """Fits and scores all members, and picks the strongest of each group."""
        splits = target.data.split_names
        members = [m for m in self._suite(splits) if target.original is not None or not m.needs_original]
        decisive = forgotten_split(splits)
        numbers: dict[str, float] = {}
        notes: dict[str, str] = {}
        for group in dict.fromkeys(member.group for member in members):
            peers = [member for member in members if member.group == group]
            makers, readouts, found = _fit_and_score(target, peers)
            if readouts:
                fitted_there = any(member.calibrates_on(decisive, splits) for member in peers)
                halves = None if fitted_there else _halves(target, readouts, decisive)
                worst, strongest = _strongest(found, halves, decisive, self.select)
                if _LARGE in makers[strongest].scored_splits(target):
                    one = {strongest: readouts[strongest]}
                    worst |= makers[strongest].score(target, one, [_LARGE])[strongest]
                worst |= makers[strongest].counts(target.data)
                numbers |= {f"{group}/{name}".lstrip("/"): value for name, value in worst.items()}
                notes |= self._notes(group, strongest, len(readouts), decisive)
            numbers |= {f"{key}/{name}": value for name, each in found.items() for key, value in each.items()}
        return AttackResult(numbers, notes)

    def _notes(self, group: str, strongest: str, readouts: int, decisive: str) -> dict[str, str]:
        suite = f"suite {SUITES[self.stages]}" if self.members is None else "a suite of one's own"
        how = "chosen on one half of the images, scored on the other" if self.select == "half" else "their maximum"
        texts = {"strongest": strongest, "reading": f"of {readouts} readout(s), {suite}, on {decisive}: {how}"}
        return {f"{group}/{name}".lstrip("/"): text for name, text in texts.items()}

    def _suite(self, splits: Sequence[str]) -> list[Recovery]:
        decisive = forgotten_split(splits)
        members = self.members
        if members is None:
            calibration = self.calibration or standard_calibration(splits)
            members = standard_suite(calibration, self.seed, self.stages)
        fitted_there = [member.name for member in members if member.calibrates_on(decisive, splits)]
        if self.select == "half" and fitted_there:
            raise UsageError(
                f"select is 'half', but {fitted_there[0]} is fitted on the half of {decisive} that would select: "
                f"choose another calibration set"
            )
        return members


def _best(values: Mapping[str, float]) -> str:
    """The name of the largest, of several the first."""
    return max(values, key=lambda name: values[name])


def _fit_and_score(
    target: Target, members: Sequence[Recovery]
) -> tuple[dict[str, Recovery], dict[str, Readout], dict[str, dict[str, float]]]:
    """Every readout of every member, by name: its member, itself, and its accuracies but that on retained images."""
    makers: dict[str, Recovery] = {}
    readouts: dict[str, Readout] = {}
    found: dict[str, dict[str, float]] = {}
    for member in members:
        fitted = {f"{member.name}/{name}".rstrip("/"): each for name, each in member.readouts(target).items()}
        readouts |= fitted
        makers |= dict.fromkeys(fitted, member)
        found |= member.score(target, fitted, [split for split in member.scored_splits(target) if split != _LARGE])
    return makers, readouts, found


def _halves(target: Target, readouts: Mapping[str, Readout], decisive: str) -> Halves | None:
    """Accuracies on either half of the split that decides; None where a half is empty."""
    halves = [score_part(target, readouts, decisive, half) for half in ("calibration", "evaluation")]
    return (halves[0], halves[1]) if all(halves) else None


def _strongest(
    found: Mapping[str, Mapping[str, float]], halves: Halves | None, decisive: str, select: Select
) -> tuple[dict[str, float], str]:
    """The numbers and the name of the strongest of readouts that may be compared."""
    key = f"{decisive}_acc"

    def got(accuracies: Mapping[str, float]) -> dict[str, float]:
        return {name: obtained(decisive, value, unseen_accuracy(found[name])) for name, value in accuracies.items()}

    first, second = ({}, {}) if halves is None else (got(half) for half in halves)
    if select == "half" and halves is not None:
        name = _best(first)
        worst = {**found[name], key: halves[1][name]}
    else:
        whole = got({name: each[key] for name, each in found.items()})
        name = _best(whole)
        worst = dict(found[name])
        if halves is not None and len(found) > 1:
            worst["selection_bias"] = whole[name] - (second[_best(first)] + first[_best(second)]) / 2
    if decisive == "forget":
        unseen = unseen_accuracy(worst)
        worst["gap"] = math.nan if unseen is None else worst[key] - unseen
    return {**worst, "readouts": float(len(found))}, name


def _check_members(members: Sequence[Recovery]) -> None:
    if not members:
        raise UsageError("members is empty: give at least one recovery attack, or null for the standard suite")
    names = [member.name for member in members]
    if twins := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two members are called {twins[0]!r}: give one of them another name")
