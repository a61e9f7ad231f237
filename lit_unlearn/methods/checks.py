"""What is checked of every run before it writes anything, beside what a method checks itself."""

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lit_unlearn.errors import UsageError

if TYPE_CHECKING:
    from lit_unlearn.methods.base import UnlearnModule
    from lit_unlearn.methods.protocols import UnlearnData

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
    try:
        module.make_optimizer([nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer: {error}") from error
    if fits:
        _warn_of_frozen(module)
        check_requests(module, data)
        module.check_data(data)


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
            f"weights {module.loaded.source}: this model has forgotten {specs} already, and would learn it again as a "
            f"part of the retain set: name it in data.forgotten_before"
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
