"""What measuring a model returns: the result of one attack, of one model, and of a whole run.

The driver of a run (:class:`~lit_unlearn.attacks.Evaluation`) fills them, and hands them to every callback that takes
results, such as the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_unlearn.artifacts import Artifact

Subject = Literal["original", "retrain", "unlearned"]
"""The two reference models, and the model of the run itself."""

Status = Literal["ok", "diverged", "pruned", "interrupted"]


class Flag(NamedTuple):
    """A sign that an evaluation cannot be trusted.

    Attributes:
        name: a few words, the same wherever it is raised; docs/verdict.md lists all.
        text: what was found, a sentence without its stop.
    """

    name: str
    text: str


@dataclass(frozen=True)
class AttackResult:
    """What one attack finds out about one model.

    Attributes:
        numbers: by name; one that is not finite is undefined.
        notes: texts by name.
        artifacts: pictures and maps by name.
    """

    numbers: Mapping[str, float]
    notes: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)

    def __str__(self) -> str:
        """One ``name: value`` a line."""
        numbers = [f"{name}: {value:.6g}" for name, value in self.numbers.items()]
        return "\n".join([*numbers, *(f"{name}: {text}" for name, text in self.notes.items())])


@dataclass
class Measurement:
    """What a run measures on one model. Names of attacks' numbers, notes and artifacts begin with the attack's title.

    Attributes:
        metrics: accuracy on each split as ``<split>_acc``, a fraction.
        attacks: finite numbers by ``<family>/<attack>/<quantity>``.
        notes: texts of attacks.
        artifacts: pictures and maps of attacks.
        skipped: title of an attack → why it has no numbers, or which of them are undefined.
        raised: those of them whose attack raised an error.
        seconds: title → how long it took, in the run that measured it.
        kept: title → when an earlier run measured it, in ISO time, where its numbers were taken over.
        images_seen: images in the batches of its training, each as often as it came, where that is known.
        weights: where the weights come from (``source``, ``sha256``); empty for those of the run itself.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    attacks: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    raised: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    images_seen: int | None = None
    weights: dict[str, str] = field(default_factory=dict)


@dataclass
class Results:
    """What a run measures.

    Attributes:
        models: a measurement for each subject that has one; ``unlearned`` is always there.
        more_retrains: of Retrains of other seeds, without pictures.
        status: ``ok``, ``diverged``, ``pruned`` or ``interrupted``.
        reason: one line on why the status is not ``ok``.
        suite: name and version of the suite of attacks, or None.
        warnings: what the user should know of the data, one sentence each.
        flags: signs that the numbers may be wrong.
    """

    models: dict[Subject, Measurement]
    more_retrains: list[Measurement] = field(default_factory=list)
    status: Status = "ok"
    reason: str = ""
    suite: str | None = None
    warnings: list[str] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)


class Driver(Callback):
    """Base of the one callback of a run that measures and hands over the results.

    Attributes:
        began: whether the run has begun and no results were handed over yet.
        goes_on: whether an attack that raises an error other than a UsageError is left out, with its reason, and the
            others are run; else the error ends the run.
        raised: attacks of the last run that raised an error → the error, and where.
    """

    began: bool = False
    goes_on: bool = False
    raised: dict[str, str]


@runtime_checkable
class TakesResults(Protocol):
    """A callback that takes the results of a run; any callback that has this method does."""

    def on_attacks_end(self, trainer: Trainer, pl_module: LightningModule, results: Results) -> None:
        """Is called on every process, once the run is measured, and when it is interrupted."""


@runtime_checkable
class TakesModel(Protocol):
    """A callback that takes the model of a run before it is attacked; any callback that has this method does."""

    def on_attacks_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Is called on every process, once the model is known to be whole, and before any attack."""
