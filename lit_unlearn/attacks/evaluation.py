"""Scores Original, Retrain and the unlearned model alike, and lets every attack of the run loose on all three."""

import time
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lit_unlearn.attacks.base import UNLEARNED, attacks_of, isolated
from lit_unlearn.attacks.target import Target, give_retrain, release, target_for, target_of
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.errors import UsageError

ORIGINAL, RETRAIN = "original", "retrain"


class Evaluation(Callback):
    """The numbers without an attack, and the yardsticks beside them.

    Original and Retrain are scored and attacked before unlearning starts, so that even an interrupted run has them.

    Args:
        retrain: weights of a model trained without the forget set: a file, or a name in the manifest. That model must
            have been trained without exactly this run's forget set; None leaves the yardstick out. On the command
            line it may also be a config of Retrain, which is then trained first.
        suite: name and version of the suite of attacks, for the result row; None where they are of one's own choice.
        reference_models: whether Original and Retrain are scored and attacked in this run; a benchmark does it once.

    Attributes:
        findings: for each subject, its accuracy on each split, as ``<split>_acc``, a fraction.
        skipped: for each subject, why it has no numbers.
        seconds: for each subject, how long scoring took.
        weights: for each yardstick, where its weights came from.
    """

    title = "evaluate"

    def __init__(
        self, retrain: str | Path | None = None, suite: str | None = None, reference_models: bool = True
    ) -> None:
        self.retrain = retrain
        self.suite = suite
        self.reference_models = reference_models
        self.findings: dict[str, dict[str, float]] = {}
        self.skipped: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.weights: dict[str, dict[str, str]] = {}
        self._retrain: Backbone | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Loads the yardstick's weights.

        Raises:
            UsageError: if they do not fit the backbone, or belong to another split.
        """
        del stage
        self.findings, self.skipped, self.seconds, self.weights = {}, {}, {}, {}
        if self.retrain is None:
            return
        self._retrain = cast(Backbone, cast(Any, pl_module).plain_copy())
        loaded = load_weights(self._retrain, self.retrain)
        here = trainer.datamodule.split.hash  # type: ignore[attr-defined]
        if loaded.split != here:
            raise UsageError(
                f"retrain weights {str(self.retrain)!r} were trained on split {loaded.split or 'unknown'}, but this "
                f"run is on split {here}: let evaluation.retrain name weights, or a config, that fit it, or null"
            )
        self.weights[RETRAIN] = {"source": str(self.retrain), "sha256": loaded.sha256}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands the yardstick to the attacks of ``validate``."""
        if trainer.state.fn == "validate" and self._retrain is not None:
            give_retrain(trainer, pl_module, self._retrain)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores and attacks Original and Retrain."""
        if self._retrain is not None:
            give_retrain(trainer, pl_module, self._retrain)
        self._score_yardsticks(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the unlearned model."""
        self._score_model(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the model that ``validate`` was given, and the yardsticks."""
        if trainer.state.fn == "validate":
            self._score_model(trainer, pl_module)
            self._score_yardsticks(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the model that ``test`` was given, and the yardsticks, without an attack."""
        self._score_model(trainer, pl_module)
        self._score_yardsticks(trainer, pl_module, attack=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the memory of all passes back."""
        del trainer, stage
        release(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the memory of all passes back."""
        del trainer, exception
        release(pl_module)

    def _score_model(self, trainer: Trainer, module: Any) -> None:
        with isolated(module.device):
            target = target_of(trainer, module)
            if module.diverged is None and trainer.strategy.reduce_boolean_decision(not _finite(target), all=False):
                module.diverged = "the answers are not finite"
            if module.diverged is not None:
                self.skipped[UNLEARNED] = "the run diverged"
                return
            self._score(UNLEARNED, target)

    def _score_yardsticks(self, trainer: Trainer, module: Any, attack: bool = True) -> None:
        if not self.reference_models:
            return
        audits_original = trainer.state.fn != "fit" and module.is_original()
        with isolated(module.device):
            targets = {ORIGINAL: None if audits_original else target_for(trainer, module, None)}
            if self._retrain is not None:
                targets[RETRAIN] = target_for(trainer, module, self._retrain)
        for subject, target in targets.items():
            if target is None:
                continue
            rank_zero_info(f"Measuring the yardstick: {subject}")
            with isolated(module.device):
                self._score(subject, target)
            for each in attacks_of(trainer) if attack else ():
                each.fire(subject, target)

    def _score(self, subject: str, target: Target) -> None:
        started = time.perf_counter()
        self.findings[subject] = target.accuracies(lambda batch: batch.logits)
        self.seconds[subject] = time.perf_counter() - started


def _finite(target: Target) -> bool:
    """Whether every answer of this rank's samples is a number; a network may overflow though its weights are finite."""
    batches = (batch for split in target.data.split_names for batch in target.model.batches(split))
    return all(bool(batch.logits.isfinite().all()) for batch in batches)
