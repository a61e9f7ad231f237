"""What is checked of every run before it writes anything, beside what a method checks itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau as PlainPlateau

from lit_unlearn.errors import UsageError, first_line, unknown
from lit_unlearn.orders import KEYS

if TYPE_CHECKING:
    from lit_unlearn.methods.base import UnlearnModule
    from lit_unlearn.methods.protocols import UnlearnData

RESERVED = {
    "prepare_data": "check_data(data) is for checks of your own",
    "configure_callbacks": "give callbacks to the Trainer",
    "validation_step": "a callback or an attack is for measurements of your own",
    "test_step": "a callback or an attack is for measurements of your own",
    "on_save_checkpoint": "saved_state() is for what a checkpoint keeps beside the weights",
    "on_load_checkpoint": "load_saved_state(state) takes up what saved_state() returned",
}
"""Lightning's hooks that the base class needs itself → what a method does in place of overriding it."""

KEPT_SHAPE = (
    "a tensor that a method makes while it trains needs its fixed shape in __init__, or saved_state() and "
    "load_saved_state(state)"
)

_LIMITS = ("max_epochs", "max_steps", "limit_train_batches")


def check_run(module: "UnlearnModule", data: "UnlearnData", fits: bool) -> None:
    """Checks data, backbone and optimizer before a run writes anything.

    Args:
        module: the method.
        data: the data module of the run.
        fits: whether it is to be trained.

    Raises:
        UsageError: if channels, image size or class count do not fit, the data cannot be split or does not name what
            the method needs, the optimizer refuses its settings, the weights would learn again what they forgot, or for
            what the method's ``check_data`` refuses.
    """
    name = type(module).__name__
    if fits and module.needs_forget and "forget" not in data.split_names:
        raise UsageError(f"{name} needs samples to forget: set data.forget.classes, fraction or index_file")
    if fits and module.needs_classes and not data.split.forgotten_classes:
        raise UsageError(f"{name} can only forget whole classes: set data.forget.classes alone")
    module.unwrapped_backbone().check(data.image_shape, data.num_classes)
    recipe = module.backbone.recipe
    if recipe is not None and set(data.image_shape[1:]) != {recipe.size}:
        rank_zero_warn(
            f"the backbone was pretrained on {recipe.size}x{recipe.size} pixels, but images have "
            f"{data.image_shape[1]}x{data.image_shape[2]}: the transforms PretrainedTransforms give it its own size"
        )
    _check_optimizer(module)
    if fits:
        _warn_of_frozen(module)
        check_requests(module, data)
        module.check_data(data)


def _check_optimizer(module: "UnlearnModule") -> None:
    """Makes optimizer and schedule for a weight of its own, and takes a step with each."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    with refused("optimizer"):
        optimizer = module.make_optimizer([weight])
    with refused("lr_scheduler"):
        scheduler = None if module.make_lr_scheduler is None else module.make_lr_scheduler(optimizer)
    with refused("optimizer"):
        optimizer.step(lambda: 0.0)
    if isinstance(scheduler, PlainPlateau):
        if not isinstance(scheduler, ReduceLROnPlateau):
            raise UsageError(
                "lr_scheduler: torch's ReduceLROnPlateau does not say which number it follows: take "
                "lightning.pytorch.cli.ReduceLROnPlateau, with monitor: val/retain_acc or another"
            )
    elif scheduler is not None:
        with refused(f"lr_scheduler: {type(scheduler).__name__}"):
            scheduler.step()


@contextmanager
def refused(option: str) -> Iterator[None]:
    """Says in one line what an optimizer or a schedule refuses in the block.

    Args:
        option: as the user knows it.

    Raises:
        UsageError: naming the option, and what the error said.
    """
    try:
        yield
    except UsageError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{option}: {first_line(error)}") from error


def _warn_of_frozen(module: "UnlearnModule") -> None:
    """Says that the user has frozen a part of the network, which methods leave as it is."""
    if module.frozen and module.trains:
        backbone = module.backbone
        every = sum(parameter.numel() for parameter in backbone.parameters())
        frozen = sum(backbone.get_parameter(name).numel() for name in module.frozen)
        rank_zero_warn(
            f"{every - frozen:,} of {every:,} parameters of the network learn: the others, such as "
            f"{backbone.name_in_network(module.frozen[0])}, are frozen (requires_grad is False) and stay as they are"
        )


def check_class(kind: type["UnlearnModule"], base: type["UnlearnModule"]) -> None:
    """Refuses a method that overrides a hook of the base class, or has no batch order.

    Args:
        kind: of the method.
        base: of all methods.

    Raises:
        UsageError: naming the class, the hook, and what is there in its place.
    """
    for name, instead in RESERVED.items():
        if getattr(kind, name) is not getattr(base, name):
            raise UsageError(f"{kind.__name__} overrides {name}, which the base class needs itself: {instead}")
    order = getattr(kind, "order", None)
    if kind.order_in is base.order_in and order not in KEYS:
        if order is None:
            raise UsageError(f"{kind.__name__} has no order: set one of {', '.join(map(repr, KEYS))} (docs/orders.md)")
        raise unknown(f"order of {kind.__name__}:", order, KEYS)


def check_loadable(module: "UnlearnModule") -> str | None:
    """One line on a tensor that a newly made module would not load from a checkpoint, or None.

    A method that keeps a state of its own makes such tensors when it takes that up. Strategies that lay out the weights
    themselves give them other shapes.
    """
    usual = isinstance(module.trainer.strategy, SingleDeviceStrategy | DDPStrategy)
    if not usual or not module.made_shapes or module.saved_state():
        return None
    teachers = module.teachers()
    for name, value in module.state_dict().items():
        if module.made_shapes.get(name) != tuple(value.shape) and name.partition(".")[0] not in teachers:
            made = "made" if name not in module.made_shapes else "given another shape"
            return (
                f"{type(module).__name__}: the tensor {name} was {made} after __init__, so that a checkpoint could not "
                f"be loaded: {KEPT_SHAPE}"
            )
    return None


def trains_by_trainer(module: "UnlearnModule") -> bool:
    """Whether the Trainer itself steps an optimizer of the module's parameters."""
    own = {id(parameter) for parameter in module.parameters()}
    groups = (group for optimizer in module.trainer.optimizers for group in optimizer.param_groups)
    return module.automatic_optimization and any(id(each) in own for group in groups for each in group["params"])


def check_loss(module: "UnlearnModule", loss: Tensor) -> None:
    """Refuses a loss without a gradient.

    Raises:
        UsageError: naming the class and what is wrong with it.
    """
    name = f"{type(module).__name__}.training_step returned a loss"
    if loss.numel() != 1:
        raise UsageError(f"{name} of shape {tuple(loss.shape)}, but it must be a single number, such as its mean")
    if not loss.requires_grad:
        raise UsageError(
            f"{name} that depends on no parameter that learns: it was detached, or made without the network's answers"
        )


def check_trains(trainer: Trainer) -> None:
    """Refuses a run that would train nothing and leave no result.

    Raises:
        UsageError: naming the setting that is 0.
    """
    for name in _LIMITS:
        value = getattr(trainer, name)
        if value == 0 and not isinstance(value, bool):
            raise UsageError(f"trainer.{name} is 0: nothing would be trained; give at least 1, or take validate")


def check_steps(module: "UnlearnModule") -> None:
    """Refuses what the Trainer does at its own optimizer steps, for a method that changes the weights itself.

    Raises:
        UsageError: naming the setting.
    """
    if module.automatic_optimization:
        return
    trainer = module.trainer
    given = {
        "gradient_clip_val": trainer.gradient_clip_val,
        "accumulate_grad_batches": trainer.accumulate_grad_batches if trainer.accumulate_grad_batches > 1 else None,
    }
    for name, value in given.items():
        if value:
            raise UsageError(
                f"trainer.{name} is {value}, but {type(module).__name__} changes the weights itself and not in the "
                "Trainer's steps: leave it out"
            )


def check_requests(module: "UnlearnModule", data: "UnlearnData") -> None:
    """Refuses to teach again what the weights have forgotten.

    Raises:
        UsageError: naming the earlier request, if its images are neither this forget set nor in ``forgotten_before``.
    """
    if module.loaded is None or not module.needs_forget:
        return
    known = {str(each["request"]) for each in data.split.requests()}
    lost = [each for each in module.loaded.forgotten if str(each.get("request")) not in known]
    if lost:
        specs = ", ".join(str(each.get("spec", each.get("request"))) for each in lost)
        raise UsageError(
            f"weights {module.loaded.source}: they have forgotten {specs} already, and this run would train on it "
            f"again, as a part of the retain set. Name it in data.forgotten_before; if its images are deleted, start "
            f"from weights that `lit-unlearn export` wrote as .pt"
        )


def check_original(module: "UnlearnModule", data: "UnlearnData") -> None:
    """Refuses to measure as the original a model that has forgotten what the run forgets; says what is taken as it.

    Raises:
        UsageError: naming the weights, and how they are audited.
    """
    loaded = module.loaded
    if loaded is None or not module.is_original():
        return
    audited = f"--model Audit --model.weights {loaded.source} --model.original ORIGINAL"
    earlier = [str(each["request"]) for each in data.split.before]
    own = {str(each["request"]) for each in data.split.requests()} - set(earlier)
    if own & {str(each.get("request")) for each in loaded.forgotten}:
        raise UsageError(
            f"model.weights {loaded.source}: {loaded.method} made this model forget what this run forgets, so it is no "
            f"original: to audit it, give {audited}"
        )
    if not loaded.entry:
        rank_zero_info(
            f"The weights {loaded.source} are taken as the original; a model that has forgotten is audited with "
            f"{audited}"
        )
