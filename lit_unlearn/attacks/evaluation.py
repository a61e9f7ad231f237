"""The driver of a run: it measures Original, Retrain and the unlearned model alike, and hands over the results."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_unlearn.attacks.base import Attack, attacks_of, isolated
from lit_unlearn.attacks.measuring import TITLE, measure
from lit_unlearn.attacks.plausibility import (
    after_run,
    before_run,
    forgotten_original,
    large_weights,
    random_answers,
)
from lit_unlearn.attacks.pool import Pool, check_pool, find_pool
from lit_unlearn.attacks.retrain import (
    LoadedRetrain,
    OwnRetrain,
    as_pool,
    check_retrain,
    load_retrains,
    measurement_of,
)
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.attacks.target import EncodedData, Target, make_targets
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.backbone import Network
from lit_unlearn.backbones.memory_format import memory_format_of, set_memory_format
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.files import check_folder
from lit_unlearn.options import TypedOptions
from lit_unlearn.own_code import installed_code
from lit_unlearn.quiet import tell_progress
from lit_unlearn.results import Driver, Flag, Measurement, Results, Subject, TakesModel, TakesResults
from lit_unlearn.sigterm import ended_by_sigterm

_DIVERGED = "the run diverged"


class Evaluation(TypedOptions, Driver):
    """Measures the models of a run when it ends, and runs every attack among the Trainer's callbacks on each.

    It runs after all other callbacks, wherever it stands among them. It acts when training ends and after
    ``validate``; after ``test`` it scores the models without an attack. Every callback with a method
    ``on_attacks_end(trainer, pl_module, results)`` then gets the :class:`~lit_unlearn.results.Results`. A Trainer with
    attacks and no Evaluation gets one with the defaults.

    An attack that raises an error ends the run, unless ``goes_on`` is set, as the command line and ``unlearn`` do: then
    it is left out with its reason, but for a UsageError. With several processes it ends the run in any case, since it
    may raise on one alone while the others wait for it.

    Args:
        retrain: the reference model trained without the forget set: weights as a file or as a name in the manifest,
            which must belong to exactly this run's split; weights of other code with what they were trained without,
            as ``{weights: retrain.pt, trained_without: forget.txt}``, which a file ``retrain.pt.yaml`` beside them may
            also say; or, from Python, a network, for which the caller vouches. None leaves it out. A list names
            Retrains of several seeds, of which the first serves attacks that compare with one; a verdict that a model
            is as Retrain takes five. On the command line it may also be an experiment file of Retrain, which is then
            trained first.
        retrains: how many Retrains the command line trains, of one seed after the other, where ``retrain`` is an
            experiment file. Where it is None, nothing is trained, and a line says so.
        suite: name and version of the suite of attacks, for the result row; None where it is none of the package's.
        reference_models: whether Original and Retrain are measured in this run; a benchmark measures them once.
        cache: folder where the run keeps what does not depend on its own model, for other runs: what each attack finds
            of Original and the Retrains (see :mod:`lit_unlearn.attacks.kept`), the upper bound of gradient inversion
            beside the same Original, and the answers of the models in a pool. None computes it in each run. The command
            line's ``auto`` is ``.cache`` in the folder of all runs.
        pool: a folder with weights of other models of the same data, or a list of folders and files: Retrains of this
            run's split, Originals, and models of this run's method on this split, as a benchmark leaves them. Attacks
            take their reference models from it; see :mod:`lit_unlearn.attacks.pool`. None takes the Retrains, if there
            are several.

    Raises:
        UsageError: if ``retrain`` or ``pool`` is of another type, a mapping lacks one of those two keys or has others,
            or ``retrains`` is below 1.
    """

    checks_itself = ("retrain", "pool")

    def __init__(
        self,
        retrain: str | Path | OwnRetrain | Network | list[str | OwnRetrain | Network] | None = None,
        suite: str | None = None,
        reference_models: bool = True,
        cache: str | Path | None = None,
        retrains: int = 1,
        pool: str | Path | list[str] | None = None,
    ) -> None:
        given = retrain if isinstance(retrain, list) else [retrain]
        self.retrain = [check_retrain(each) for each in given if each is not None]
        check_at_least("evaluation.retrains", retrains, 1)
        self.retrains = retrains
        self.suite = suite
        self.reference_models = reference_models
        self.cache = cache
        self._retrains: list[LoadedRetrain] = []
        self.pool = check_pool(pool)
        self._pool: Pool | None = None
        self._results: Results | None = None
        self.raised: dict[str, str] = {}
        self._warnings: list[str] = []
        self._flags: list[Flag] = []

    @classmethod
    def ensure(cls, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Adds an Evaluation with the defaults to a Trainer that has none."""
        if not _evaluations(trainer):
            driver = cls()
            trainer.callbacks = [*_callbacks(trainer), driver]  # type: ignore[attr-defined]
            driver.setup(trainer, pl_module, stage)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Moves itself behind all other callbacks, loads Retrain, and looks at the pool and the cache.

        Raises:
            UsageError: if there are two Evaluations, the cache cannot be written to, the weights do not fit the
                backbone or belong to another split, or the pool has no Retrain of this split.
        """
        del stage
        if len(_evaluations(trainer)) > 1:
            raise UsageError("the Trainer's callbacks have two Evaluations: give one")
        # A new list, since Lightning is iterating over the old one.
        trainer.callbacks = [*(c for c in _callbacks(trainer) if c is not self), self]  # type: ignore[attr-defined]
        if self.cache is not None:
            check_folder("evaluation.cache", self.cache)
            installed_code()  # as it is now: it may change while the run trains
        self.began, self._results, self._warnings, self._flags = False, None, [], []
        self.raised = {}
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._retrains = load_retrains(self.retrain, pl_module, data)
        pool = self.pool or as_pool(self._retrains)
        self._pool = find_pool(pool, pl_module, data) if pool else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at Original and Retrain, and says what is doubtful."""
        self._warn_before(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for ``validate``."""
        if trainer.state.fn == "validate":
            self._warn_before(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for ``test``."""
        self._warn_before(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the run has begun."""
        del trainer, pl_module
        self.began = True

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the same for ``validate``."""
        del pl_module
        self.began = self.began or trainer.state.fn == "validate"

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the same for ``test``."""
        del trainer, pl_module
        self.began = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and attacks the unlearned model and the reference models."""
        self._measure_run(trainer, pl_module, attacks_of(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same after ``validate``."""
        if trainer.state.fn == "validate":
            self._measure_run(trainer, pl_module, attacks_of(trainer))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the models after ``test``, without an attack."""
        self._measure_run(trainer, pl_module, [])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Hands over what is known of a run that was interrupted after it began."""
        if self.began:
            results = self._results or self._new_results()
            line = f"{type(exception).__name__}: {exception}".removesuffix(": ").splitlines()[0]
            results.status, results.reason = "interrupted", f"{line}, in epoch {trainer.current_epoch}"
            self._hand_over(trainer, pl_module, results)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Frees the memory of Retrain."""
        del trainer, pl_module, stage
        self._retrains, self._results = [], None

    def _warn_before(self, trainer: Trainer, module: Any) -> None:
        """Says what is doubtful before anything is trained or attacked; the rows repeat it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        retrains = [each.backbone for each in self._retrains]
        for retrain in retrains:
            trainer.precision_plugin.convert_module(retrain)  # as the run's own network is
        with isolated():
            self._flags = list(before_run(data, module.original_copy(), retrains, module.device))
        self._flags += forgotten_original(module, data)
        for flag in self._flags:
            rank_zero_warn(flag.text)
        self._warnings = list(data.warnings)

    def _warn_after(self, trainer: Trainer, module: Any, target: Target) -> list[Flag]:
        """Says what is doubtful once a model is trained."""
        with isolated():
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            found = list(random_answers(target.model.backbone, data, module.device))
            found += large_weights(target.model.backbone, None if target.original is None else target.original.backbone)
        found += after_run(trainer, module) if module.is_trained_here else ()
        for flag in found:
            rank_zero_warn(flag.text)
        return found

    @ended_by_sigterm()
    def _measure_run(self, trainer: Trainer, module: Any, attacks: Sequence[Attack]) -> None:
        """Measures every model and hands over the results; what is complete is kept if an attack breaks."""
        results = self._results = self._new_results()
        with isolated():
            targets = self._targets(trainer, module)
            diverged = module.diverged or _overflow(trainer, targets["unlearned"])
        if diverged:
            results.status, results.reason = "diverged", diverged
            titles = [TITLE, *(attack.title for attack in attacks)]
            results.models["unlearned"].skipped.update(dict.fromkeys(titles, _DIVERGED))
        elif module.pruned:
            results.status, results.reason = "pruned", module.pruned
            measure(targets["unlearned"], [], results.models["unlearned"])
        else:
            for callback in _callbacks(trainer):
                if isinstance(callback, TakesModel):
                    callback.on_attacks_start(trainer, module)  # saves it, before anything may raise an error
            results.flags += self._warn_after(trainer, module, targets["unlearned"])
            self._measure(trainer, targets["unlearned"], attacks, results.models["unlearned"], tells=True)
            for logger in trainer.loggers if attacks else ():
                logger.log_metrics(results.models["unlearned"].attacks, step=trainer.global_step)
        for subject in self._references(trainer, module, targets):
            more = f" 1 of {len(self._retrains)}" if subject == "retrain" and len(self._retrains) > 1 else ""
            tell_progress(f"Measuring the reference model: {subject}{more}")
            found = measurement_of(self._retrains[0]) if subject == "retrain" else Measurement()
            self._measure(trainer, targets[subject], attacks, found)
            results.models[subject] = found
        if "retrain" in results.models:
            results.more_retrains = list(self._measure_more(trainer, module, targets["retrain"], attacks))
        references = [found for subject, found in results.models.items() if subject != "unlearned"]
        if kept := sum(bool(found.kept) for found in (*references, *results.more_retrains)):
            said = "one reference model" if kept == 1 else f"{kept} reference models"
            rank_zero_info(f"Numbers of {said} are of an earlier run with the same attacks and code: {self.cache}")
        self._hand_over(trainer, module, results)

    def _measure(
        self, trainer: Trainer, target: Target, attacks: Sequence[Attack], found: Measurement, tells: bool = False
    ) -> None:
        """Measures one model, and notes which attacks raised an error."""
        measure(target, attacks, found, goes_on=self.goes_on and trainer.world_size == 1, tells=tells)
        for title in found.raised:
            self.raised.setdefault(title, found.skipped[title])

    def _measure_more(
        self, trainer: Trainer, module: Any, first: Target, attacks: Sequence[Attack]
    ) -> Iterator[Measurement]:
        """Measures the Retrains after the first, one in memory at a time; their pictures are not kept."""
        for number, retrain in enumerate(self._retrains[1:], start=2):
            tell_progress(f"Measuring the reference model: retrain {number} of {len(self._retrains)}")
            found = measurement_of(retrain)
            set_memory_format(retrain.backbone, memory_format_of(module.backbone))
            model = EncodedData(retrain.backbone, first.data, module.device)
            self._measure(trainer, dataclasses.replace(first, model=model), attacks, found)
            model.release()
            found.artifacts = {}
            yield found

    def _new_results(self) -> Results:
        found = Results({"unlearned": Measurement()}, suite=self.suite)
        found.warnings, found.flags = list(self._warnings), list(self._flags)
        return found

    def _targets(self, trainer: Trainer, module: Any) -> dict[Subject, Target]:
        original: Backbone | None = module.original_copy()
        unchanged = original is not None and module.is_original()
        backbones: dict[Subject, Backbone | None] = {
            "original": original,
            "retrain": self._retrains[0].backbone if self._retrains else None,
            "unlearned": original if unchanged else module.frozen_copy(),
        }
        present = {subject: backbone for subject, backbone in backbones.items() if backbone is not None}
        for backbone in present.values():
            set_memory_format(backbone, memory_format_of(module.backbone))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        return make_targets(data, data.num_classes, module.device, present, Shared(self.cache), self._pool)

    def _references(self, trainer: Trainer, module: Any, targets: dict[Subject, Target]) -> list[Subject]:
        """The reference models that this run has; Original is none where it is the model that is audited itself."""
        if not self.reference_models:
            return []
        audits_original = not module.is_trained_here and module.is_original()
        subjects: list[Subject] = ["retrain"] if audits_original else ["original", "retrain"]
        return [subject for subject in subjects if subject in targets]

    def _hand_over(self, trainer: Trainer, module: LightningModule, results: Results) -> None:
        self.began = False
        for callback in _callbacks(trainer):
            if isinstance(callback, TakesResults):
                callback.on_attacks_end(trainer, module, results)


def _overflow(trainer: Trainer, target: Target) -> str | None:
    """Why a model cannot be measured whose logits are not finite on any process; its weights may be finite."""
    batches = (batch for split in target.data.split_names for batch in target.model.batches(split))
    finite = all(bool(batch.logits.isfinite().all()) for batch in batches)
    overflows = trainer.strategy.reduce_boolean_decision(not finite, all=False)
    return "the logits are not finite" if overflows else None


def _callbacks(trainer: Trainer) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _evaluations(trainer: Trainer) -> list[Evaluation]:
    return [callback for callback in _callbacks(trainer) if isinstance(callback, Evaluation)]
