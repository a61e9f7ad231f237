"""What a result row says of a method's run, in plain types that JSON can hold."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from lit_unlearn.files import plain

if TYPE_CHECKING:
    from lit_unlearn.methods.base import UnlearnModule

OBJECTS = ("backbone", "optimizer", "lr_scheduler")
"""Arguments of every method that are no plain values, and are described by what became of them."""


def describe_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A method's own arguments, without those that every method has."""
    common = (*OBJECTS, "weights", "_class_path", "_instantiator")
    settings: dict[str, Any] = plain({name: value for name, value in arguments.items() if name not in common})
    return settings


def describe_optimizer(trainer: Trainer) -> dict[str, Any]:
    """The optimizer's class and settings, and those of its schedule; empty where nothing is trained."""
    described: dict[str, Any] = {}
    for optimizer in trainer.optimizers:
        described = {"class": type(optimizer).__name__, **plain(_in_use(optimizer))}
    for config in trainer.lr_scheduler_configs:
        state = {name: value for name, value in config.scheduler.state_dict().items() if name[0] != "_"}
        described["lr_scheduler"] = {"class": type(config.scheduler).__name__, **plain(state)}
    return described


def describe_weights(module: "UnlearnModule") -> dict[str, Any]:
    """What a file with a method's weights says of them: method, network, split, and what was forgotten.

    Only a new start that takes nothing from the original says what it was never trained on (``left_out``), and of which
    images that is.
    """
    split = module.data.split
    found: dict[str, Any] = {"method": type(module).__name__, "split": split.hash}
    found["network"] = module.backbone.describe()
    if module.needs_forget:
        found["forgotten"] = split.requests()
    if module.needs_forget and module.from_scratch and not module.needs_original:
        found["left_out"] = split.left_out
        found["train_sha256"] = getattr(module.data, "train_sha256", None)
    if change := module.architecture_change():
        found["architecture_change"] = change
    return found


def _in_use(optimizer: Optimizer) -> dict[str, Any]:
    """The settings that an optimizer works with; a list where its groups differ, the initial rate below a schedule."""
    groups = [{**group, "lr": group.get("initial_lr", group.get("lr"))} for group in optimizer.param_groups]
    settings = {}
    for name in groups[0].keys() - {"params", "initial_lr"} if groups else ():  # Lightning's stands for no optimizer
        values = [group.get(name) for group in groups]
        settings[name] = values[0] if all(value == values[0] for value in values) else values
    return dict(sorted(settings.items()))
