"""What every run of a method needs beside the method, each as a callback: clock, checks, seeds, modes, accuracies.

:meth:`UnlearnModule.configure_callbacks` adds them after the user's callbacks. Lightning calls a hook of all callbacks
before the same hook of the module. So a method overrides Lightning's hooks freely, and what it does in
``on_train_start`` runs in the right modes and counts as time of unlearning. What a method changes in its own
``on_train_epoch_end`` after the last epoch is checked in ``on_train_end``.
"""

# ruff: noqa: D102  (each class says what its hooks do)

import time
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_unlearn.backbones.memory_format import (
    MemoryFormat,
    check_memory_format,
    faster_format,
    memory_format_of,
    set_memory_format,
)
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.checks import check_loadable, check_loss, trains_by_trainer
from lit_unlearn.seed import seed_epoch

if TYPE_CHECKING:
    from lit_unlearn.methods.base import UnlearnModule

_FINITE_CHECK_EVERY = 50


class NetworkFormat(Callback):
    """Puts the method's networks into the memory format that it names, or that is faster, until the run is over.

    A checkpoint that is then loaded has the last word. Nothing is tried in a dry run, for a compiled network, or where
    a strategy lays out the weights itself.
    """

    def __init__(self) -> None:
        self._before: MemoryFormat = "contiguous"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        method = _method(pl_module)
        self._before = memory_format_of(method.backbone)
        device = trainer.strategy.root_device
        check_memory_format(method.memory_format, method.backbone, method.data.image_shape, device)
        if method.memory_format != "auto":
            set_memory_format(method, method.memory_format)
        elif not (trainer.fast_dev_run or method.backbone.compiled):  # type: ignore[attr-defined]
            set_memory_format(method, self._faster(trainer, method))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        set_memory_format(pl_module, self._before)

    def _faster(self, trainer: Trainer, method: "UnlearnModule") -> MemoryFormat:
        strategy, data, found = trainer.strategy, method.data, self._before
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            return found
        if trainer.is_global_zero:
            sizes = data.image_shape, data.batch_size
            found = faster_format(method.backbone, *sizes, strategy.root_device, trainer.precision_plugin)
        return strategy.broadcast(found)


class BatchOrder(Callback):
    """Has Lightning make the training loader for each epoch, where the method's order depends on it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if _method(pl_module).order_changes:
            trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]


class Accuracies(Callback):
    """Logs ``val/<split>_acc`` and ``test/<split>_acc``, fractions, for each split that the data has."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        method = _method(pl_module)
        method.configure_metrics(method.data.split_names)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _method(pl_module).log_accuracies("val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _method(pl_module).log_accuracies("test")


class SplitCheck(Callback):
    """Refuses to resume or to score a checkpoint that was made on another split.

    Raises:
        UsageError: naming both splits by their hashes.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(_method(pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(_method(pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(_method(pl_module))

    def _check(self, method: "UnlearnModule") -> None:
        made, here = method.split_of_checkpoint, method.data.split.hash
        if made not in (None, here):
            raise UsageError(
                f"the checkpoint forgets split {made}, but this run is on split {here}: give it the data of that split"
            )


class Announcement(Callback):
    """Prints which model ``validate`` or ``test`` scores."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            rank_zero_info(f"Scoring {_method(pl_module).subject()}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank_zero_info(f"Scoring {_method(pl_module).subject()}")


class Modes(Callback):
    """Puts the student into train mode and teachers into eval mode when training starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        method = _method(pl_module)
        method.backbone.train()
        for teacher in method.teachers().values():
            teacher.eval()


class EpochSeed(Callback):
    """Seeds each epoch, so that a resumed run draws the numbers of an uninterrupted one."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_epoch(trainer.current_epoch, trainer.global_rank)


class EpochMetrics(Callback):
    """Removes the last epoch's training metrics when an epoch starts.

    Lightning keeps each value in ``callback_metrics`` until the same name is logged again, and offers no way to forget
    it. A method whose passes change with the epoch would show the old value for every later epoch.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in [name for name in trainer.callback_metrics if name.startswith("train/")]:
            del trainer.callback_metrics[name]


class SchedulerStep(Callback):
    """Steps the scheduler once an epoch for a method that steps its optimizer itself; Lightning does it otherwise."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found: Any = None if pl_module.automatic_optimization else pl_module.lr_schedulers()
        for scheduler in found if isinstance(found, list) else [found]:
            if scheduler is not None and trainer.current_epoch > 0:
                scheduler.step()


class StepCheck(Callback):
    """Refuses a method that trains nothing, or from whose steps no checkpoint could be loaded."""

    def __init__(self) -> None:
        self._empty = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        method = _method(pl_module)
        shapes = {name: tuple(value.shape) for name, value in method.state_dict().items()}
        method.made_shapes = method.made_shapes or shapes

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._empty = 0
        if trouble := check_loadable(_method(pl_module)):
            raise UsageError(trouble)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        check_loss(_method(pl_module), loss)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._empty += not outputs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        nothing = trains_by_trainer(_method(pl_module)) and self._empty == trainer.num_training_batches
        if trainer.strategy.reduce_boolean_decision(nothing):
            raise UsageError(
                f"{type(pl_module).__name__}.training_step returned None for all {self._empty} batches of epoch "
                f"{trainer.current_epoch}: return the loss; a method that trains no parameter sets "
                "automatic_optimization = False"
            )


class SharedStatistics(Callback):
    """Gives rank 0's running statistics, which a checkpoint holds, to all ranks; DDP does so before a pass only."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            for buffer in _method(pl_module).backbone.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)


class DivergenceWatch(Callback):
    """Stops a run whose loss, weights or answers are not finite, and notes where in the module's ``diverged``."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        method, last = _method(pl_module), batch_idx + 1 == trainer.num_training_batches
        if method.diverged is None and (
            method.device.type == "cpu" or last or batch_idx % _FINITE_CHECK_EVERY == 0  # a GPU would have to wait
        ):
            finite = not outputs or bool(torch.isfinite(outputs["loss"]).all())
            where = f"epoch {trainer.current_epoch}, step {batch_idx}"
            _stop_unless(finite, trainer, method, f"the loss is no longer finite in {where}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_weights(trainer, _method(pl_module), f"epoch {trainer.current_epoch}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_weights(trainer, _method(pl_module), "the last epoch")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_answers(trainer, _method(pl_module))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_answers(trainer, _method(pl_module))

    def _check_weights(self, trainer: Trainer, method: "UnlearnModule", after: str) -> None:
        finite = all(bool(torch.isfinite(p).all()) for p in method.backbone.parameters())
        _stop_unless(finite, trainer, method, f"weights are no longer finite after {after}")

    def _check_answers(self, trainer: Trainer, method: "UnlearnModule") -> None:
        message = f"the answers are not finite in epoch {trainer.current_epoch}"
        _stop_unless(method.answers_finite(), trainer, method, message)


class ImagesSeen(Callback):
    """Counts the images in the batches of training in the module's ``images_seen``."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        _method(pl_module).images_seen += trainer.world_size * sum(len(images) for images, *_ in batch.values())


class Clock(Callback):
    """Adds the seconds of unlearning to the module's ``seconds``; evaluation in between does not count."""

    def __init__(self) -> None:
        self._started: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._started = None  # a run before may have been interrupted

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(_method(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._started = time.perf_counter()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._read(_method(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(_method(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(_method(pl_module))

    def _stop(self, method: "UnlearnModule") -> None:
        self._read(method)
        self._started = None

    def _read(self, method: "UnlearnModule") -> None:
        if self._started is None:
            return
        if method.device.type == "cuda":
            torch.cuda.synchronize(method.device)
        now = time.perf_counter()
        method.seconds += now - self._started
        self._started = now


CALLBACKS = (
    ImagesSeen,
    NetworkFormat,
    BatchOrder,
    Accuracies,
    SplitCheck,
    Announcement,
    Modes,
    EpochSeed,
    EpochMetrics,
    SchedulerStep,
    StepCheck,
    SharedStatistics,
    DivergenceWatch,
    Clock,
)
"""All of them, in the order in which Lightning calls them: the clock starts last and reads last."""


def _method(module: LightningModule) -> "UnlearnModule":
    return cast("UnlearnModule", module)


def _stop_unless(finite: bool, trainer: Trainer, method: "UnlearnModule", message: str) -> None:
    if method.diverged is None and trainer.strategy.reduce_boolean_decision(not finite, all=False):
        method.diverged = message
        trainer.should_stop = True
