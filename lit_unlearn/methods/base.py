"""What every unlearning method is: a LightningModule around a backbone.

A method names its batch order, takes its own arguments beside the four common ones, and writes one ``training_step``.
Loading the original weights, evaluation, timing, the watch for divergence and what goes into a checkpoint live here.
"""

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.errors import UsageError
from lit_unlearn.files import plain
from lit_unlearn.methods.description import describe_backbone, describe_optimizer
from lit_unlearn.methods.scoring import Labelled as Labelled  # what a method file needs, it finds here
from lit_unlearn.methods.scoring import SplitScoring
from lit_unlearn.seed import run_seed

Search = tuple[tuple[str, float, float], ...]
"""Settings that are worth tuning, each with its lowest and highest value."""

_FINITE_CHECK_EVERY = 50
_OBJECTS = ("backbone", "optimizer", "lr_scheduler")


class UnlearnModule(SplitScoring):
    """Base of all methods: a trained backbone goes in, one that has forgotten comes out.

    Args:
        backbone: the network, as constructed; its normalisation is inside, so images stay in [0, 1].
        weights: the original weights θo: a file, or a name in the manifest of ``checkpoints/``. None takes the
            backbone as it is for the original.
        optimizer: makes an optimizer from parameters.
        lr_scheduler: makes a scheduler from an optimizer; it steps once an epoch.

    Attributes:
        order: the batch order that the method eats, see :mod:`lit_unlearn.data.batches`; one that changes with the
            epoch is given by overriding :meth:`order_in`.
        from_scratch: whether training starts from the backbone's fresh initialisation and not from θo.
        needs_forget: whether the method is meaningless without a forget set.
        needs_classes: whether the method can only forget whole classes.
        search: what to tune, and where: searched evenly over the logarithm of each value; ``lr`` is the optimizer's.
        holdout: share of the retained samples of the classes to be forgotten from that training leaves out; they are
            the data's split ``validation``.
        diverged: None, or where and how the run diverged.
        seconds: seconds of unlearning so far; evaluation in between does not count.
    """

    order: ClassVar[str]
    from_scratch: ClassVar[bool] = False
    needs_forget: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False
    search: ClassVar[Search] = ()
    holdout: float = 0.0
    teacher: Backbone | None

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=list(_OBJECTS))
        if isinstance(weights, Path):
            self.hparams["weights"] = str(weights)  # a checkpoint with a Path inside cannot be read safely
        self.backbone = backbone
        self.teacher = None
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.diverged: str | None = None
        self.seconds = 0.0
        self._split_of_checkpoint: str | None = None
        self._started: float | None = None
        fresh = _clone(backbone.state_dict()) if self.from_scratch and weights is not None else None
        self.loaded = load_weights(backbone, weights) if weights is not None else None
        self._original = None if self.from_scratch and weights is None else _clone(backbone.state_dict())
        if fresh is not None:
            backbone.load_state_dict(fresh)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.backbone(images)
        return logits

    def order_in(self, epoch: int) -> str:
        """The batch order of one epoch; where a method overrides this, the loader is made anew for each epoch."""
        del epoch
        return self.order

    def frozen_copy(self) -> Backbone:
        """A copy of the backbone as it stands, in eval mode, without gradients."""
        return copy.deepcopy(self.backbone).eval().requires_grad_(False)

    def plain_backbone(self) -> Backbone:
        """The backbone in the original's shape: itself, but for methods that change the architecture."""
        return self.backbone

    def plain_copy(self) -> Backbone:
        """A copy of the backbone in the original's shape, in eval mode, without gradients."""
        return copy.deepcopy(self.plain_backbone()).eval().requires_grad_(False)

    def original_copy(self) -> Backbone | None:
        """A frozen copy of the original model, or None for a run that has none."""
        if self._original is None:
            return None
        original = self.plain_copy()
        original.load_state_dict(self._original)
        return original

    def is_original(self) -> bool:
        """Whether the backbone's parameters and buffers are, bit for bit, the original's."""
        if self._original is None:
            return False
        state = self.plain_backbone().state_dict()
        return all(torch.equal(state[name].cpu(), value.cpu()) for name, value in self._original.items())

    def describe(self) -> dict[str, Any]:
        """What a result row says of the method's side of a run, in plain types."""
        settings = dict(self.hparams)
        weights = settings.pop("weights", None)
        for name in (*_OBJECTS, "_class_path", "_instantiator"):
            settings.pop(name, None)
        return {
            "method": type(self).__name__,
            "hyperparameters": plain(settings),
            "optimizer": describe_optimizer(self.trainer),
            "backbone": describe_backbone(self.backbone),
            "weights": {"source": str(weights), "sha256": self.loaded.sha256} if self.loaded else {},
        }

    def prepare_data(self) -> None:
        """Checks the backbone against the data before a run writes anything.

        Raises:
            UsageError: if channels, image size or class count do not fit, the data cannot be split, nothing, or no
                whole class where it has to be one, is named to be forgotten, or the optimizer refuses its settings.
        """
        data = self._data()
        if self.needs_forget and self.trainer.state.fn == "fit" and "forget" not in data.split_names:
            raise UsageError(
                f"{type(self).__name__} needs samples to forget: set data.forget.classes, fraction or index_file"
            )
        if self.needs_classes and self.trainer.state.fn == "fit" and not self.forgotten_classes():
            raise UsageError(f"{type(self).__name__} can only forget whole classes: set data.forget.classes alone")
        self.plain_backbone().check(data.image_shape, data.num_classes)
        try:
            self.make_optimizer([nn.Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise UsageError(f"optimizer: {error}") from error
        if self.loaded is None and not self.from_scratch:
            rank_zero_warn("no weights were given: the backbone, as constructed, counts as the original model")

    def setup(self, stage: str) -> None:
        """Makes a counter for each split that the data has, and lets the Trainer follow an order that changes."""
        del stage
        if type(self).order_in is not UnlearnModule.order_in:
            self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
        self.count_on(self._data().split_names)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over whatever parameters still learn, and its schedule."""
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_lr_scheduler(optimizer)}

    def on_fit_start(self) -> None:
        """Refuses to resume a run on another split."""
        self._check_split()

    def on_train_start(self) -> None:
        """Starts the clock and puts the student, and only the student, in train mode."""
        self._started = time.perf_counter()
        self.backbone.train()
        for teacher in self._teachers().values():
            teacher.eval()

    def on_train_epoch_start(self) -> None:
        """Seeds this epoch, so that a resumed run draws what an uninterrupted one would have drawn.

        Where a method steps its optimizer itself, Lightning leaves the scheduler to it, too: then it is stepped here.
        """
        # Lightning would repeat, for this epoch, the numbers of a pass that only earlier ones had.
        for name in [name for name in self.trainer.callback_metrics if name.startswith("train/")]:
            del self.trainer.callback_metrics[name]
        seed = run_seed()
        torch.manual_seed((seed * 1_000_003 + self.current_epoch) * 4_099 + self.global_rank)
        scheduler = None if self.automatic_optimization else cast(Any, self.lr_schedulers())
        if scheduler is not None and self.current_epoch > 0:
            scheduler.step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stops a run whose loss is no longer a number."""
        del batch
        last = batch_idx + 1 == self.trainer.num_training_batches
        if self.diverged is None and (self.device.type == "cpu" or last or batch_idx % _FINITE_CHECK_EVERY == 0):
            finite = not outputs or bool(torch.isfinite(outputs["loss"]).all())
            self._stop_unless(finite, f"the loss is no longer finite in epoch {self.current_epoch}, step {batch_idx}")

    def on_train_epoch_end(self) -> None:
        """Reads the clock, and stops a run whose weights are no longer numbers."""
        self.share_statistics()
        finite = all(bool(torch.isfinite(p).all()) for p in self.backbone.parameters())
        self._stop_unless(finite, f"weights are no longer finite after epoch {self.current_epoch}")
        self._read_clock()

    def on_validation_start(self) -> None:
        """Says which model ``validate`` is about to score; refuses one of another split."""
        if self.trainer.state.fn == "validate":
            self._check_split()
            self._announce()

    def on_test_start(self) -> None:
        """Says which model ``test`` is about to score; refuses one of another split."""
        self._check_split()
        self._announce()

    def on_validation_epoch_start(self) -> None:
        """Pauses the clock."""
        self._read_clock()
        self._started = None

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<split>_acc`` as a fraction, and starts the clock again."""
        self._log_accuracies("val")
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._started = time.perf_counter()

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<split>_acc`` as a fraction."""
        self._log_accuracies("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves teachers out (every run makes its own) and says what the weights are."""
        teachers = self._teachers()
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if name.partition(".")[0] not in teachers
        }
        split = self._data().split.hash
        checkpoint["lit_unlearn"] = {"method": type(self).__name__, "split": split, "seconds": self.seconds}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts this module's own teachers back, so that loading stays strict, and the clock where it stood."""
        made = checkpoint.get("lit_unlearn", {})
        self._split_of_checkpoint = made.get("split") if self.needs_forget else None
        teachers = self._teachers()
        own = {name: value for name, value in self.state_dict().items() if name.partition(".")[0] in teachers}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **own}
        self.seconds = made.get("seconds", 0.0)

    def share_statistics(self) -> None:
        """Gives rank 0's running statistics, which a checkpoint holds, to all ranks; DDP does so before a pass only."""
        if self.trainer.world_size > 1:
            for buffer in self.backbone.buffers():
                torch.distributed.broadcast(buffer, 0)

    def forgotten_classes(self) -> list[int]:
        """The classes of which no sample is retained: those that class unlearning removes."""
        return list(self._data().split.forgotten_classes)

    def _data(self) -> Any:
        data = getattr(self.trainer, "datamodule", None)
        if data is None or not hasattr(data, "split_names"):
            raise UsageError(
                f"{type(self).__name__} needs an UnlearnDataModule as datamodule, but got {type(data).__name__}"
            )
        return data

    def _teachers(self) -> dict[str, Backbone]:
        """The frozen networks beside the backbone, by the attribute that holds them."""
        children = self.named_children()
        return {name: child for name, child in children if isinstance(child, Backbone) and name != "backbone"}

    def _check_split(self) -> None:
        made, here = self._split_of_checkpoint, self._data().split.hash
        if made not in (None, here):
            raise UsageError(
                f"the checkpoint forgets split {made}, but this run is on split {here}: give it the data of that split"
            )

    def _announce(self) -> None:
        if self.is_original():
            what = f"the original model, {self.loaded.source if self.loaded else 'the backbone as constructed'}"
        else:
            what = f"the model made by {type(self).__name__}, {self.trainer.ckpt_path or 'as it stands'}"
        rank_zero_info(f"Scoring {what}")

    def _log_accuracies(self, stage: str) -> None:
        self._stop_unless(self.log_accuracies(stage), f"the answers are not finite in epoch {self.current_epoch}")

    def _stop_unless(self, finite: bool, message: str) -> None:
        if self.diverged is None and self.trainer.strategy.reduce_boolean_decision(not finite, all=False):
            self.diverged = message
            self.trainer.should_stop = True

    def _read_clock(self) -> None:
        if self._started is None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds += now - self._started
        self._started = now


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
