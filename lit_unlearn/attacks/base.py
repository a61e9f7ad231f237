"""What every attack is: a Lightning callback that fires once unlearning is over.

An attack writes ``run(target)`` and returns named numbers. When it fires, on what copy, and where the numbers go
is here. It fires when training ends, and after ``validate``.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lit_unlearn.attacks.target import Target, target_of
from lit_unlearn.errors import UsageError
from lit_unlearn.exhibits import Exhibit

UNLEARNED = "unlearned"
"""The subject name of the model of the run itself, beside ``original`` and ``retrain``."""


class Attack(Callback, ABC):
    """Base of all attacks.

    Args:
        name: how its numbers are called, ``<family>/<name>/…``; two attacks of one run need two names.

    Attributes:
        family: the group of attacks that this one belongs to.
        needs_original: whether the attacker holds the original model; without one the attack is left out, and said so.
        findings: for each subject (``original``, ``retrain``, ``unlearned``) the numbers found.
        skipped: for each subject, why the attack was left out.
        seconds: for each subject, how long it took.
        exhibits: for each subject, what the attack shows beside its numbers, by name.
        shown: what ``run`` shows of the target at hand; ``fire`` files it under its subject.
        notes: for each subject, what the attack says in words, by name.
        said: the same of the target at hand, filled by ``run``.
    """

    family: ClassVar[str]
    needs_original: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.findings: dict[str, dict[str, float]] = {}
        self.skipped: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.exhibits: dict[str, dict[str, Exhibit]] = {}
        self.shown: dict[str, Exhibit] = {}
        self.notes: dict[str, dict[str, str]] = {}
        self.said: dict[str, str] = {}

    @property
    def title(self) -> str:
        """Family and name, the prefix of every number."""
        return f"{self.family}/{self.name}"

    @property
    def state_key(self) -> str:
        """Tells two attacks of one class apart in a checkpoint."""
        return f"{type(self).__qualname__}:{self.title}"

    @abstractmethod
    def run(self, target: Target) -> Mapping[str, float]:
        """Attacks a frozen copy and returns numbers by name; the name of the attack is put in front."""

    def fire(self, subject: str, target: Target) -> None:
        """Runs the attack on one subject and keeps what it found."""
        if self.needs_original and target.original is None:
            self.skipped[subject] = "it needs the original model, which this run does not have"
            return
        started = time.perf_counter()
        self.shown, self.said = {}, {}
        with isolated(target.device):
            found = self.run(target)
        self.exhibits[subject] = {f"{self.title}/{name}": exhibit for name, exhibit in self.shown.items()}
        self.notes[subject] = {f"{self.title}/{name}": text for name, text in self.said.items()}
        numbers = {f"{self.title}/{name}": float(value) for name, value in found.items()}
        self.findings[subject] = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if undefined := [name for name in numbers if name not in self.findings[subject]]:
            self.skipped[subject] = f"undefined: {', '.join(undefined)}"
        self.seconds[subject] = time.perf_counter() - started

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses two attacks of one name.

        Raises:
            UsageError: naming the attack that occurs twice.
        """
        del pl_module, stage
        twins = [c for c in attacks_of(trainer) if c.title == self.title]
        if len(twins) > 1:
            raise UsageError(f"two attacks are called {self.title!r}: give one of them another name")
        self.findings, self.skipped, self.seconds, self.exhibits, self.notes = {}, {}, {}, {}, {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attacks the unlearned model."""
        self._fire_on_module(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attacks the model that ``validate`` was given."""
        if trainer.state.fn == "validate":
            self._fire_on_module(trainer, pl_module)

    def _fire_on_module(self, trainer: Trainer, pl_module: Any) -> None:
        if pl_module.diverged is not None:
            self.skipped[UNLEARNED] = "the run diverged"
            return
        rank_zero_info(f"Attacking the model: {self.title}")
        with isolated(pl_module.device):
            target = target_of(trainer, pl_module)
        self.fire(UNLEARNED, target)
        for logger in trainer.loggers:
            logger.log_metrics(self.findings.get(UNLEARNED, {}), step=trainer.global_step)


def attacks_of(trainer: Trainer) -> list[Attack]:
    """The attacks among a Trainer's callbacks, in order."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, Attack)]


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Leaves inference mode, so that an attack may take gradients, and gives the random state back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=devices):
        yield
