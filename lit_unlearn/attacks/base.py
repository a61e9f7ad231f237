"""What every attack is: a function of a target that returns named numbers, and a Lightning callback.

An attack implements ``evaluate(target)`` and keeps nothing. In a run, :class:`~lit_unlearn.attacks.Evaluation` runs
every attack among the Trainer's callbacks once unlearning is over; without a Trainer, an attack is called on a network
and data.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lit_unlearn.attacks.splits import ImageData
from lit_unlearn.attacks.target import Target, frozen_backbone, make_targets
from lit_unlearn.backbones.backbone import Network
from lit_unlearn.errors import ROUNDED, UsageError, first_line, shown, unknown
from lit_unlearn.options import TypedOptions
from lit_unlearn.results import AttackResult, Subject
from lit_unlearn.seed import isolated_rng

FAMILIES = {
    "recovery": "what of the forgotten can be read out of the model",
    "relearn": "how fast the model learns the forgotten again",
    "compression": "what a pruned or quantised model answers",
    "membership": "which images were trained on",
    "detectability": "which images or classes were forgotten",
    "perturbation": "what changed images are taken for",
    "representation": "what the stages of the network hold",
    "inversion": "images that are rebuilt from the model",
    "other": "what is none of these",
}
"""The families that an attack may belong to: the verdict and the pages read them from the beginning of every name."""


class Attack(TypedOptions, Callback, ABC):
    """Base of all attacks.

    Args:
        name: metric name prefix after the family, ``<family>/<name>/…``; two attacks of one run need two names.

    Attributes:
        family: the group of attacks that this one belongs to, one of ``FAMILIES``.
        needs_original: whether the attacker holds the original model; without one the attack is skipped.
        needs_forget: whether it asks something of forgotten images; without a forget set the attack is skipped.
    """

    family: ClassVar[str]
    needs_original: bool = False
    needs_forget: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def title(self) -> str:
        """Family and name, the prefix of every number.

        Raises:
            UsageError: if a subclass has set no family or an unknown one, or has not called ``super().__init__``.
        """
        kind, family = type(self).__name__, getattr(self, "family", None)
        if not isinstance(family, str):
            raise UsageError(f"{kind} has no family: set one, such as family = 'recovery'")
        if family not in FAMILIES:
            raise unknown(f"family of {kind}:", family, FAMILIES)
        if not isinstance(getattr(self, "name", None), str):
            raise UsageError(f"{kind} has no name: call super().__init__(name) in its __init__")
        return f"{family}/{self.name}"

    @property
    def state_key(self) -> str:
        """Distinguishes two attacks of one class in a checkpoint."""
        return f"{type(self).__qualname__}:{self.title}"

    @abstractmethod
    def evaluate(self, target: Target) -> AttackResult:
        """Attacks a frozen copy; names in the result have no prefix, and a number that is not finite is undefined."""

    def lacks(self, target: Target) -> str | None:
        """Why the attack cannot be run on this target, or None."""
        if self.needs_forget and "forget" not in target.data.split_names:
            return "there is nothing to forget: data.forget is not given"
        if self.needs_original and target.original is None:
            return "it needs the original model, which this run does not have"
        return None

    def __call__(
        self, network: Network, data: ImageData, original: Network | None = None, retrain: Network | None = None
    ) -> AttackResult:
        """Runs this attack alone, without a Trainer.

        Args:
            network: the model to attack, a :class:`~lit_unlearn.backbones.Backbone` or any ``nn.Module`` that ends in
                a linear layer; a frozen copy is attacked, on the network's own device.
            data: an :class:`~lit_unlearn.data.UnlearnDataModule`.
            original: the model before unlearning, where the attacker holds it.
            retrain: the model trained without the forget set, for attacks that compare with it.

        Returns:
            Numbers without a prefix, NaN where undefined.

        Raises:
            UsageError: if a network does not fit the data, the attack cannot be run on this target, or it returns what
                no attack may.
        """
        if not hasattr(data, "split_names"):
            raise UsageError(f"data is {shown(data)}, but must be an UnlearnDataModule")
        networks: dict[Subject, Network | None] = {"unlearned": network, "original": original, "retrain": retrain}
        backbones = {
            subject: frozen_backbone(each, data, "network" if subject == "unlearned" else subject)
            for subject, each in networks.items()
            if each is not None
        }
        parameter = next(backbones["unlearned"].parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        with isolated():
            target = make_targets(data, data.num_classes, device, backbones)["unlearned"]
            if reason := self.lacks(target):
                raise UsageError(f"{self.title} cannot be run on this model: {reason}")
        return evaluated(self, target)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Adds the evaluation that runs the attacks, where the user gave none, and refuses two attacks of one name.

        Raises:
            UsageError: naming the attack that occurs twice.
        """
        from lit_unlearn.attacks.evaluation import Evaluation  # it runs attacks, and an attack asks for it

        if len([other for other in attacks_of(trainer) if other.title == self.title]) > 1:
            raise UsageError(f"two attacks are called {self.title!r}: give one of them another name")
        Evaluation.ensure(trainer, pl_module, stage)


class WrongResultError(UsageError):
    """What an attack of the user's own returned is no result, or it changed what others are to attack."""


def evaluated(attack: Attack, target: Target) -> AttackResult:
    """What an attack finds; the target and the random state are left as they were, also where it raises an error.

    Raises:
        WrongResultError: if the attack returns what none may, or changes the weights of a network in place.
    """
    with isolated(), _copies_for(attack, target):
        return checked(attack, attack.evaluate(target))


@contextmanager
def _copies_for(attack: Attack, target: Target) -> Iterator[None]:
    """Gives an attack copies of the networks, so that the attacks after it get them as they were.

    Raises:
        WrongResultError: if the weights of a copy have changed; what was computed with them is computed again.
    """
    given = {"model": target.model, "original": target.original, "retrain": target.retrain}
    networks = {encoded: name for name, encoded in reversed(given.items()) if encoded is not None}
    own = {encoded: encoded.backbone for encoded in networks}
    for encoded, backbone in own.items():
        encoded.backbone = copy.deepcopy(backbone)
    changed: list[str] = []
    try:
        yield
    finally:
        for encoded, backbone in own.items():
            if not _same_weights(encoded.backbone, backbone):
                changed.append(f"target.{networks[encoded]}.backbone")
                encoded.forget()
            encoded.backbone = backbone
    if changed:
        raise WrongResultError(
            f"{type(attack).__name__}.evaluate changed the weights of {changed[-1]} in place: "
            f"train a copy, copy.deepcopy({changed[-1]})"
        )


def _same_weights(network: nn.Module, other: nn.Module) -> bool:
    """Whether parameters and kept buffers are equal, bit for bit; what a network caches for itself does not count."""
    ours, theirs = network.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    return ours.keys() == theirs.keys() and all(_equal(value, theirs[name]) for name, value in ours.items())


def _equal(left: object, right: object) -> bool:
    """Whether two tensors are alike; what is none, as the extra state of a module, is not compared."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return type(left) is type(right)
    return (left.dtype, left.device) == (right.dtype, right.device) and torch.equal(left, right)


def checked(attack: Attack, result: object) -> AttackResult:
    """What an attack, which may be of the user's own, has returned, with numbers as floats.

    Args:
        attack: it.
        result: what it returned.

    Raises:
        WrongResultError: if it is not what an attack has to return, or an accuracy or AUC is not a fraction.
    """
    kind = type(attack).__name__
    if not isinstance(result, AttackResult):
        raise WrongResultError(f"{kind}.evaluate returned a {type(result).__name__}, but must return an AttackResult")
    for what in ("numbers", "notes", "artifacts"):
        if not isinstance(given := getattr(result, what), Mapping):
            given_type = type(given).__name__
            raise WrongResultError(
                f"{kind}.evaluate returned {what} of type {given_type}, but must return a dict by name"
            )
    numbers = {str(name): _as_float(kind, name, value) for name, value in result.numbers.items()}
    for name, value in numbers.items():
        if _is_fraction(name) and not (math.isnan(value) or 0 <= value <= 1 + ROUNDED):
            raise WrongResultError(
                f"{kind}.evaluate returned {name} = {value:g}, but an accuracy or AUC must lie in [0, 1]"
            )
    return replace(result, numbers=numbers)


def _as_float(kind: str, name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (RuntimeError, TypeError, ValueError) as error:
        reason = f"{kind}.evaluate returned values that are not numbers: {name} ({first_line(error)})"
        raise WrongResultError(reason) from error


def _is_fraction(name: str) -> bool:
    """Whether a number is an accuracy or an AUC, as its name says."""
    quantity = name.rpartition("/")[2]
    return quantity == "auc" or quantity.endswith(("_acc", "_auc"))


def attacks_of(trainer: Trainer) -> list[Attack]:
    """The attacks among a Trainer's callbacks, ordered by title."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return sorted((c for c in callbacks if isinstance(c, Attack)), key=lambda attack: attack.title)


@contextmanager
def isolated() -> Iterator[None]:
    """Leaves inference mode, so that an attack may take gradients, and restores every random state afterwards."""
    with torch.inference_mode(False), torch.enable_grad(), isolated_rng():
        yield
