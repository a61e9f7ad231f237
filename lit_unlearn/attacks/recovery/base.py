"""What all recovery attacks share: a calibration set to fit readouts on, and how a fitted readout is scored.

Threat model of the family. The attacker holds the unlearned model and a calibration set S of labelled images, and
trains no network: whatever they fit is a readout of the frozen features.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.recovery.scaling import NormGate, Standardiser, unit_norm
from lit_unlearn.attacks.splits import HALVES, SplitData, forgotten_split, unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import unknown
from lit_unlearn.metrics.evaluation import SplitAccuracy
from lit_unlearn.results import AttackResult

Calibration = Literal["train", "retain", "heldout", "rest"]
Normalisation = Literal["raw", "standard", "l2", "gated"]
Layers = Literal["features", "stages"]
Readout = Callable[[Encoded], Tensor]
"""From a batch to logits (B, C)."""

_TEST = ("test_forget", "test_forgotten_before", "test_retain")
"""Splits of which a half may be calibrated on; ``test_matched`` has none of that half."""

_HALF_OF_TEST = tuple((split, "calibration") for split in _TEST)
_CALIBRATION: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "train": ((("forget", "all"), ("forgotten_before", "all"), ("retain", "all")), "all"),
    "retain": ((("retain", "all"),), "all"),
    "heldout": (_HALF_OF_TEST, "evaluation"),
    "rest": ((("retain", "all"), *_HALF_OF_TEST), "evaluation"),
}
_NORMALISE = ("raw", "standard", "l2", "gated")
_LAYERS = ("features", "stages")


def standard_calibration(splits: Sequence[str]) -> Calibration:
    """What readouts are fitted on, so that the split that decides is not among it."""
    whole = forgotten_split(splits) == "test_forget" and "images_before" not in splits
    return "train" if whole else "rest"


def calibration_splits(calibration: Calibration) -> tuple[str, ...]:
    """The splits that a calibration set is made of."""
    return tuple(split for split, _ in _CALIBRATION[calibration][0])


def scored_images(data: SplitData, calibration: Calibration | None) -> dict[str, float]:
    """How many images decide, and of single images how many unseen ones they are compared with.

    Args:
        data: the splits.
        calibration: what readouts are fitted on; None where nothing is fitted.
    """

    def scored(split: str) -> float:
        labels = data.labels(split)
        held = calibration is not None and split in _TEST and _CALIBRATION[calibration][1] == "evaluation"
        return float(len(labels[HALVES["evaluation"] :: 2] if held else labels))

    decisive = forgotten_split(data.split_names)
    unseen = unseen_split(data.split_names)
    known = decisive == "forget" and unseen in data.split_names
    return {"images": scored(decisive), **({"unseen": scored(unseen)} if known else {})}


class Lens(NamedTuple):
    """What a readout sees of a batch: (B, width)."""

    read: Callable[[Encoded], Tensor]
    width: int


class Recovery(Attack):
    """Base of the recovery attacks: fits readouts on a calibration set, and scores them on every split.

    Args:
        name: metric name prefix.
        calibration: ``train``, the whole training set; ``retain``, its retained part; ``heldout``, every other test
            sample; ``rest``, both of the latter, that is all but the forget set; None, ``train`` where whole classes
            are forgotten, and no single images by earlier requests, else ``rest``, so that no image that decides is
            fitted on. Where test samples are calibrated on, test accuracies are of the remaining ones.
        layers: what is read: ``features``, those that the head reads; or ``stages``, every stage of the encoder, its
            activations averaged over positions, with a readout of its own under its name.

    Attributes:
        question: what its readouts answer; empty for which of all classes an image has.
    """

    family: ClassVar[str] = "recovery"
    question: ClassVar[str] = ""

    def __init__(self, name: str, calibration: Calibration | None, layers: Layers = "features") -> None:
        super().__init__(name)
        if calibration is not None and calibration not in _CALIBRATION:
            raise unknown("calibration set", calibration, _CALIBRATION)
        if layers not in _LAYERS:
            raise unknown("layers", layers, _LAYERS)
        self.calibration, self.layers = calibration, layers

    @property
    def group(self) -> str:
        """With which other readouts it may be compared: those that answer the same question from the same layers."""
        return "/".join(filter(None, (self.question, "stages" if self.layers == "stages" else "")))

    @abstractmethod
    def readouts(self, target: Target) -> Mapping[str, Readout]:
        """Fits on the calibration set; the readouts by name, which is empty where there is only one."""

    def evaluate(self, target: Target) -> AttackResult:
        """Accuracy after recovery on every split, as ``<split>_acc``, under the name of the readout if it has one.

        Where a half of what decides, or of the unseen images beside it, is calibrated on: ``images`` and ``unseen``,
        how many are scored.
        """
        scored = self.score(target, self.readouts(target))
        for found in scored.values():
            found |= self.counts(target.data) if found else {}
        return AttackResult(
            {f"{name}/{key}".lstrip("/"): value for name, found in scored.items() for key, value in found.items()}
        )

    def score(
        self, target: Target, readouts: Mapping[str, Readout], splits: Sequence[str] | None = None
    ) -> dict[str, dict[str, float]]:
        """Accuracy of fitted readouts on splits, by default all that are scored: ``<split>_acc`` by readout."""
        found: dict[str, dict[str, float]] = {name: {} for name in readouts}
        for split in self.scored_splits(target) if splits is None else splits:
            part = self._sets(target.data.split_names)[1] if split in _TEST else "all"
            for name, value in score_part(target, readouts, split, part).items():
                found[name][f"{split}_acc"] = value
        return found

    def counts(self, data: SplitData) -> dict[str, float]:
        """How many images decide, and how many unseen ones they are compared with, where these are not all."""
        fitted = self.calibration or standard_calibration(data.split_names)
        whole = scored_images(data, None)
        return {name: count for name, count in scored_images(data, fitted).items() if count != whole[name]}

    def scored_splits(self, target: Target) -> Sequence[str]:
        """The splits in which the readouts have an answer to give: all that have samples."""
        return target.data.split_names

    def _sets(self, splits: Sequence[str]) -> tuple[tuple[tuple[str, str], ...], str]:
        """Of data with these splits, the calibration set, and the part of the test splits that is not in it."""
        return _CALIBRATION[self.calibration or standard_calibration(splits)]

    def calibrates_on(self, split: str, splits: Sequence[str]) -> bool:
        """Whether samples of a split are in the calibration set of data with these splits."""
        return split in dict(self._sets(splits)[0])

    def calibration_parts(self, target: Target) -> list[tuple[str, str]]:
        """The parts of splits that the calibration set is made of, of those that have samples."""
        known = target.data.split_names
        return [(split, part) for split, part in self._sets(known)[0] if split in known]

    def calibration_batches(self, target: Target) -> Iterator[tuple[Encoded, Encoded | None]]:
        """This rank's batches of the calibration set, each with the same as the original sees it, where needed."""
        for split, part in self.calibration_parts(target):
            model = target.model.batches(split, part)
            if self.needs_original and target.original is target.model:
                yield from ((batch, batch) for batch in model)
            elif self.needs_original and target.original is not None:
                yield from zip(model, target.original.batches(split, part), strict=True)
            else:
                yield from ((batch, None) for batch in model)

    def views(self, target: Target) -> dict[str, Lens]:
        """What is read of a batch, before anything is done to it, by the name of the readout."""
        if self.layers == "features":
            return {"": Lens(lambda batch: batch.features, target.model.backbone.num_features)}
        batch = next(batch for split in target.data.split_names for batch in target.model.batches(split))
        return {name: _stage(name, tapped.shape[1]) for name, tapped in batch.stages.items()}

    def normalised(self, target: Target, lenses: Mapping[str, Lens], normalise: Normalisation) -> dict[str, Lens]:
        """Puts a normalisation behind each lens, fitted to the calibration set where it has something to fit."""
        if normalise == "raw":
            return dict(lenses)
        if normalise == "l2":
            return {name: _behind(lens, unit_norm) for name, lens in lenses.items()}
        fits = {
            name: (NormGate() if normalise == "gated" else Standardiser(lens.width)).to(target.device)
            for name, lens in lenses.items()
        }
        for split, part in self.calibration_parts(target):
            for batch in target.model.batches(split, part):
                for name, lens in lenses.items():
                    fits[name].update(lens.read(batch))
        return {name: _behind(lens, fits[name].compute()) for name, lens in lenses.items()}


def check_normalise(normalise: str) -> None:
    """Complains about an unknown normalisation.

    Raises:
        UsageError: naming it and those that there are.
    """
    if normalise not in _NORMALISE:
        raise unknown("normalisation", normalise, _NORMALISE)


def score_part(target: Target, readouts: Mapping[str, Readout], split: str, part: str) -> dict[str, float]:
    """Accuracy of several readouts on one part of a split; a part without samples gives none."""
    counters = {name: SplitAccuracy().to(target.device) for name in readouts}
    for batch in target.model.batches(split, part):
        for name, readout in readouts.items():
            counters[name].update(readout(batch), batch.labels)
    values = {name: counter.value for name, counter in counters.items()}
    return {name: value for name, value in values.items() if value is not None}


def _stage(name: str, width: int) -> Lens:
    return Lens(lambda batch: batch.stages[name], width)


def _behind(lens: Lens, scaling: Callable[[Tensor], Tensor]) -> Lens:
    return Lens(lambda batch: scaling(lens.read(batch)), lens.width)
