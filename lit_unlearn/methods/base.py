"""What every unlearning method is: a LightningModule around a backbone.

A method names its batch order, takes its own arguments beside the four common ones, and writes one ``training_step``.
It overrides Lightning's hooks without a call to ``super()``: :mod:`lit_unlearn.methods.callbacks` has what all share.
The few that the base class needs itself are refused, see :data:`lit_unlearn.methods.checks.RESERVED`.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from lightning.pytorch import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gate import CHANGE, gate_of
from lit_unlearn.backbones.memory_format import MemoryFormatChoice, memory_format_of, set_memory_format
from lit_unlearn.backbones.saving import network_state, tensors_sha256, write_state
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.callbacks import CALLBACKS
from lit_unlearn.methods.checks import (
    KEPT_SHAPE,
    check_class,
    check_loadable,
    check_run,
    check_steps,
    check_trains,
    refused,
)
from lit_unlearn.methods.description import OBJECTS, describe_optimizer, describe_settings, describe_weights
from lit_unlearn.methods.networks import BackboneModule
from lit_unlearn.methods.protocols import Labelled as Labelled  # what a method file needs, it finds here
from lit_unlearn.methods.protocols import UnlearnData as UnlearnData
from lit_unlearn.options import TypedOptions

SearchSpace = tuple[
    tuple[str, float, float] | tuple[str, float, float, tuple[float, float]] | tuple[str, tuple[float, ...]], ...
]
"""Settings that are worth tuning: a range ``(name, low, high)``, of integers where both ends are; the same with the
values beyond which it must not be extended, ``(name, low, high, (lowest, highest))``; or choices in their order,
``(name, (value, value))``."""

_SHOWN = 300
"""How many letters of what does not fit a checkpoint are shown."""


class UnlearnModule(TypedOptions, BackboneModule):
    """Base of all methods: a trained backbone goes in, one that has forgotten comes out.

    Args:
        backbone: the network, as constructed; its normalisation is inside, so images stay in [0, 1].
        weights: the original weights θo: a file, a name in the manifest of ``checkpoints/``,
            ``hf-hub:owner/repository`` on Hugging Face's hub, or ``zoo:`` and a name in the zoo. None takes the
            backbone as it is for the original; so does ``fresh``, which the command line asks for.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.

    Raises:
        UsageError: for weights that do not fit, if no parameter learns, or for a subclass that has no order or
            overrides a hook that the base class needs.

    Attributes:
        order: the batch order that the method is trained on, see :mod:`lit_unlearn.data.batches`; one that changes with
            the epoch is given by overriding :meth:`order_in`.
        needs_forget: whether the method needs a forget set.
        needs_classes: whether the method can only forget all samples of some classes.
        raises_loss: whether it raises a loss. While the loss is near 0, its gradient is, too: little changes for long,
            then much at once. So a search ends no trial of it because nothing has changed yet.
        training_only: submodules, by name, that only training needs; a checkpoint without optimizer leaves them out.
        objects: arguments of the method that are objects, and so no hyperparameters of a row or a checkpoint.
        search: what to tune, and where: ranges are searched evenly over the logarithm. ``lr`` is the optimizer's,
            ``epochs`` the Trainer's, ``batch_size`` and ``forget_batch_size`` the data's, all else are arguments of the
            method. The reference setting lies within.
        memory_format: of all networks during a run: ``contiguous``, ``channels_last``, or ``auto``, the one that a
            probe of a few steps finds faster; a run that goes on with a checkpoint has that of the checkpoint.
        holdout: share of the retained samples that training leaves out, of each class that has samples to forget; the
            data gives them under the name ``holdout``.
        forget_every: in the order ``paired``, how many steps there are from one batch of the forget set to the next.
        diverged: None, or where and how the run diverged.
        finished: whether the method ended the run itself, with :meth:`finish`.
        pruned: None, or why a search ended the run early.
        seconds: seconds of unlearning so far; evaluation in between does not count.
        images_seen: images in the batches of training so far, over all devices, each as often as it came.
        split_of_checkpoint: the hash of the split that the loaded checkpoint was made on, or None.
        trained_before: whether the run is one of ``fit`` that was resumed after its last epoch, so that nothing is left
            but to measure.
        made_shapes: the shape of each tensor in its state dict when ``fit`` first began: what a newly made module has,
            and can load.
    """

    order: ClassVar[str]
    needs_forget: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = False
    raises_loss: ClassVar[bool] = False
    training_only: ClassVar[tuple[str, ...]] = ()
    objects: ClassVar[tuple[str, ...]] = ()
    search: ClassVar[SearchSpace] = ()
    memory_format: MemoryFormatChoice = "auto"
    holdout: float = 0.0
    forget_every: int = 1

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_class(type(self), UnlearnModule)
        super().__init__(backbone, weights)
        self.save_hyperparameters(ignore=[*OBJECTS, *self.objects])
        if isinstance(weights, Path):
            self.hparams["weights"] = str(weights)  # a checkpoint with a Path inside cannot be read safely
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.diverged: str | None = None
        self.pruned: str | None = None
        self.finished = False
        self.seconds = 0.0
        self.images_seen = 0
        self.split_of_checkpoint: str | None = None
        self.trained_before = False
        self.made_shapes: dict[str, tuple[int, ...]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuses a method whose backbone has no type: the command line could not make it.

        Raises:
            UsageError: naming the class.
        """
        super().__init_subclass__(**options)
        backbone = inspect.signature(cls.__init__).parameters.get("backbone")
        if backbone is not None and backbone.annotation is inspect.Parameter.empty:
            raise UsageError(f"{cls.__name__}.__init__: its argument backbone has no type, write backbone: Backbone")

    def __getattr__(self, name: str) -> Any:
        """An attribute that is not there, as PyTorch finds it.

        Raises:
            UsageError: if a subclass has not called ``super().__init__``.
        """
        if "_modules" not in self.__dict__ and not name.startswith("__"):
            kind = type(self).__name__
            raise UsageError(
                f"{kind} has no {name}: call super().__init__(backbone, weights, optimizer, lr_scheduler) first in its "
                "__init__"
            )
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out a default optimizer: it is a lambda, which ``pickle`` cannot write."""
        state: dict[str, Any] = super().__getstate__()
        is_default = state.get("make_optimizer") is _default_optimizer(type(self))
        return {name: value for name, value in state.items() if name != "make_optimizer" or not is_default}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`__getstate__` returned."""
        super().__setstate__({"make_optimizer": _default_optimizer(type(self)), **state})  # type: ignore[no-untyped-call]

    @property
    def is_trained_here(self) -> bool:
        """Whether the run that measures the model is the one that trains it."""
        return self.trainer.state.fn == "fit" or self.trained_before

    def order_in(self, epoch: int) -> str:
        """The batch order of one epoch; a method whose order depends on the epoch overrides this."""
        del epoch
        return self.order

    @property
    def order_changes(self) -> bool:
        """Whether the order depends on the epoch, so that the loader has to be made for each."""
        return type(self).order_in is not UnlearnModule.order_in

    def finish(self) -> None:
        """Ends the run after this epoch, because the method has nothing more to do; a row does not warn of that."""
        self.finished = True
        self.trainer.should_stop = True

    def check_data(self, data: UnlearnData) -> None:
        """A method's own checks before ``fit`` writes anything; it raises a UsageError."""

    def saved_state(self) -> dict[str, Any]:
        """What a method keeps in a checkpoint beside its modules, in plain types and tensors."""
        return {}

    def load_saved_state(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`saved_state` returned, or an empty dict, before the modules' weights are loaded."""

    def architecture_change(self) -> str | None:
        """How the network differs from the original's architecture, in words; a method that changes it says so."""
        return None if gate_of(self.backbone) is None else CHANGE

    def subject(self) -> str:
        """The model that ``validate`` or ``test`` scores, in words."""
        if self.is_original():
            return f"the original model, {self.loaded.source if self.loaded else 'the backbone as constructed'}"
        return f"the model made by {type(self).__name__}, {self.trainer.ckpt_path or 'as it stands'}"

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over the parameters that learn, and its schedule; a method that trains nothing returns []."""
        optimizer = self.make_optimizer([p for p in self.parameters() if p.requires_grad])
        if self.make_lr_scheduler is None:
            return optimizer
        scheduler = self.make_lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):  # Lightning's, which names the number that it follows
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Takes a step of the schedule, as Lightning does.

        Raises:
            UsageError: naming what the schedule refuses, such as a step after its last.
        """
        with refused(f"lr_scheduler: {type(scheduler).__name__}"):
            super().lr_scheduler_step(scheduler, metric)

    @property
    def data(self) -> UnlearnData:
        """The Trainer's data module.

        Raises:
            UsageError: if it has no forget split.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is None or not hasattr(data, "split_names"):
            raise UsageError(
                f"{type(self).__name__} needs an UnlearnDataModule as datamodule, but got {type(data).__name__}"
            )
        return cast(UnlearnData, data)

    def describe(self) -> dict[str, Any]:
        """The method's part of a result row, in plain types."""
        weights: dict[str, Any] = {}
        if self.loaded:
            weights |= {"source": str(self.hparams["weights"]), "sha256": self.loaded.sha256}
        if before := self.loaded_original:
            weights["original"] = {"source": before.source, "sha256": before.sha256}
        return {
            "method": type(self).__name__,
            "hyperparameters": describe_settings(self.hparams),
            "optimizer": describe_optimizer(self.trainer),
            "backbone": self.backbone.describe(),
            "memory_format": memory_format_of(self.backbone),
            "weights": weights,
        }

    def provenance(self) -> dict[str, Any]:
        """What a file with the weights says of them, in plain types: method, network, split, and what was forgotten."""
        return describe_weights(self)

    def save_network(self, path: str | Path) -> dict[str, str]:
        """Writes the weights under the names of the user's own network; returns what a result row says of them.

        Raises:
            UsageError: for an ending other than .pt and .safetensors, or a file that cannot be written.
        """
        state, change = network_state(self.backbone), self.architecture_change()
        found = {"sha256": write_state(path, state, self.provenance()), "tensors_sha256": tensors_sha256(state)}
        return found | ({"change": change} if change else {})

    def network_hash(self) -> dict[str, str]:
        """What a result row says of weights that no file was written of: a hash that any file of them has."""
        return {"tensors_sha256": tensors_sha256(network_state(self.backbone))}

    def prepare_data(self) -> None:
        """Checks data, backbone and optimizer before a run writes anything, see :mod:`lit_unlearn.methods.checks`.

        Raises:
            UsageError: as :func:`~lit_unlearn.methods.checks.check_run`, or if nothing would be trained.
        """
        fits = self.trainer.state.fn == "fit"
        if fits:
            check_trains(self.trainer)
        check_run(self, self.data, fits)

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks that every method needs, but for those that the Trainer has from an earlier run.

        Raises:
            UsageError: for a setting of the Trainer that a method which changes the weights itself cannot have.
        """
        check_steps(self)  # here, since Lightning checks the same next, in words of its own
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        present = {type(callback) for callback in callbacks}
        return [kind() for kind in CALLBACKS if kind not in present]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves teachers out, since every run makes its own, and adds what the weights are, and in which format."""
        if trouble := check_loadable(self):
            rank_zero_warn(trouble)
        left_out = {*self.teachers(), *(() if "optimizer_states" in checkpoint else self.training_only)}
        kept = {n: value for n, value in checkpoint["state_dict"].items() if n.partition(".")[0] not in left_out}
        checkpoint["state_dict"] = {n: value.contiguous() for n, value in kept.items()}
        cost = {"seconds": self.seconds, "images_seen": self.images_seen}
        made = {**self.provenance(), **cost, "memory_format": memory_format_of(self.backbone)}
        made |= {name: value for name in ("diverged", "finished") if (value := getattr(self, name))}
        checkpoint["lit_unlearn"] = made | ({"state": own} if (own := self.saved_state()) else {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds this module's own values of what was left out, so that loading stays strict, and takes up the rest."""
        made = checkpoint.get("lit_unlearn", {})
        self.split_of_checkpoint = made.get("split") if self.needs_forget else None
        self.seconds, self.images_seen = made.get("seconds", 0.0), made.get("images_seen", 0)
        self.finished = made.get("finished", False)
        if self.memory_format == "auto":
            set_memory_format(self, made.get("memory_format", "contiguous"))
        self.load_saved_state(made.get("state", {}))
        left_out = {*self.teachers(), *self.training_only}
        own = {n: value for n, value in self.state_dict().items() if n.partition(".")[0] in left_out}
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads weights as PyTorch does.

        Raises:
            UsageError: naming the tensors that do not fit.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            found = " ".join(str(error).partition("\n")[2].split())
            found = f"{found[:_SHOWN]} …" if len(found) > _SHOWN else found.removesuffix(".")
            raise UsageError(
                f"{type(self).__name__} cannot load this checkpoint: {found} (give the network and the options that it "
                f"was made with; {KEPT_SHAPE})"
            ) from error


def _default_optimizer(kind: type[UnlearnModule]) -> OptimizerCallable:
    """What the first class that takes an optimizer makes without one."""
    every = (inspect.signature(each).parameters.get("optimizer") for each in kind.__mro__)
    found: OptimizerCallable = next(each.default for each in every if each is not None)
    return found
