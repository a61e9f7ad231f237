"""Signs that the numbers of a run will be wrong, each a flag: a name, and a sentence on what was found.

Before a run: an Original that is poor on its own training images, a Retrain that was not trained out, and a network
that answers differently when it is asked again. After it: weights that hardly changed, training of a few steps, and
training that ended early.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from torch import Tensor

from lit_unlearn.backbones import Backbone
from lit_unlearn.metrics import relative_change
from lit_unlearn.results import Flag

MOST_IMAGES, LEAST_IMAGES, MOST_PIXELS = 1000, 100, 2**24
"""Images that are looked at before a run: fewer where they are large, since each is passed through a network or two."""

POOR = 0.5
DOUBTFUL = 0.9
BETTER = 0.05
RETRAIN_BELOW = 0.05
UNCHANGED = 1e-4
FEW_STEPS = 10
SAME_ANSWER = 1e-3
LARGE = 5.0
"""A larger norm than so many times Original's; of 70 models of all methods on memorised images none has 3.3 times."""
_ASKED = 64
_NORMALISATIONS = {
    "mean 0 and std 1": (0.0, 1.0),
    "mean 0.5 and std 0.5": (0.5, 0.5),
    "ImageNet's mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225]": (
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    ),
}


def before_run(
    data: Any, original: Backbone | None, retrains: Sequence[Backbone], device: torch.device
) -> Iterator[Flag]:
    """What is doubtful before anything is trained.

    Args:
        data: the data module.
        original: the original model, or None.
        retrains: Retrains of the run, if there are any.
        device: where to compute.
    """
    if original is None:
        return
    original = copy.deepcopy(original).to(device)
    original.check_answers(next(iter(data.shuffled_batches("retain", device, _ASKED)))[0])
    count = max(LEAST_IMAGES, min(MOST_IMAGES, MOST_PIXELS // math.prod(data.image_shape)))
    yield from _poor_original(original, list(data.shuffled_batches("retain", device, count)))
    if retrains and "test_retain" in data.split_names:
        batches = list(data.shuffled_batches("test_retain", device, count))
        for retrain in retrains:
            yield from _poor_retrain(original, copy.deepcopy(retrain).to(device), batches)


def forgotten_original(module: Any, data: Any) -> Iterator[Flag]:
    """Whether the weights that are measured as Original say that they have forgotten this forget set already."""
    loaded = module.origin()
    if loaded is not None and data.split.request in {str(each.get("request")) for each in loaded.forgotten}:
        yield Flag(
            "forgotten original",
            f"{loaded.source}, which is measured as Original, has forgotten this forget set already ({loaded.method}): "
            "what is compared with Original says little",
        )


def after_run(trainer: Trainer, module: Any) -> Iterator[Flag]:
    """What is doubtful once a run has ended: weights that hardly changed, few steps, and an early end."""
    change = _relative_change(module)
    if change is not None and change < UNCHANGED:
        text = f"the weights hardly differ from Original's (relative change {change:.1e}): nothing may have been learnt"
        yield Flag("small change", text)
    if trainer.optimizers and trainer.global_step < FEW_STEPS:
        steps = f"training made {trainer.global_step} optimizer step{'' if trainer.global_step == 1 else 's'} in all"
        yield Flag("few steps", f"{steps}: so few change little; give more epochs, or smaller batches (batch_size)")
    if not module.finished:
        yield from _cut_short(trainer)


def random_answers(network: Backbone, data: Any, device: torch.device) -> Iterator[Flag]:
    """Whether a network, in eval mode, answers differently when it is asked the same again, or among other images.

    Attacks then see another model at each step, and their numbers say little. Images of every split are asked: those of
    a split in one batch, all in one batch, and each by itself.

    Raises:
        UsageError: if the network that was split into features and head answers otherwise than these.
    """
    each = max(1, _ASKED // len(data.split_names))
    batches = (next(iter(data.shuffled_batches(split, device, each)), None) for split in data.split_names)
    found = [batch[0] for batch in batches if batch is not None]
    together = torch.cat(found)
    network.check_answers(together)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in together])
        asked = zip(*(whole.split([len(x) for x in found]) for whole in (network(together), alone)), strict=True)
        first = [network(images) for images in found]
    pairs = [(one, other) for one, others in zip(first, asked, strict=True) for other in others]
    apart = max(float((one - other).norm() / one.norm().clamp(min=torch.finfo(one.dtype).tiny)) for one, other in pairs)
    if not apart <= SAME_ANSWER:
        text = "the answers to the same images differ from pass to pass, or with what else is in the batch"
        yield Flag("random answers", f"{text}, by {100 * apart:.2g} %")


def large_weights(network: Backbone, original: Backbone | None) -> Iterator[Flag]:
    """Whether a kernel or matrix is so much larger than Original's that relearning hardly moves it.

    What a normalisation layer follows can be multiplied by any number, and the network gives the same answers; a step
    of the same learning rate then changes it less by the square of that number.
    """
    before = {} if original is None else dict(original.named_parameters())
    for name, value in network.named_parameters():
        # No normalisation layer follows a head, and tokens that begin near 0 are no kernels.
        encodes = name in before and name.endswith("weight") and not name.startswith("head.")
        if encodes and value.ndim > 1 and value.shape == before[name].shape:
            own_size, size = (float(each.detach().float().norm()) for each in (value, before[name]))
            if size and (times := own_size / size) > LARGE:
                own = network.name_in_network(name)
                text = f"{own} is {times:.0f} times as large as Original's, so that relearning at a fixed rate hardly "
                yield Flag("large weights", f"{text}moves it: its numbers say little")
                return


def _poor_original(original: Backbone, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Flag]:
    accuracy = _accuracy(original, batches)
    if accuracy >= DOUBTFUL:
        return
    said = f"Original classifies only {100 * accuracy:.0f} % of its own training images correctly"
    tried = {name: _accuracy(other, batches) for name, other in _otherwise_normalised(original, batches)}
    best = max(tried, key=lambda name: tried[name], default="")
    if best and tried[best] > accuracy + BETTER:
        text = f"{said}; with {best}, {100 * tried[best]:.0f} %: set the backbone's mean and std"
        yield Flag("poor original", text)
    elif accuracy < POOR:
        mean, std = original.describe()["mean"], original.describe()["std"]
        yield Flag(
            "poor original",
            f"{said}: is the normalisation right? The images are in [0, 1]; set the backbone's mean and std (now "
            f"{mean} and {std}), and check the order of the classes",
        )


def _otherwise_normalised(
    original: Backbone, batches: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[str, Backbone]]:
    """The same network under other usual normalisations, each with its name."""
    pixels = torch.cat([images for images, _ in batches]).float()
    own = [pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()]
    rounded = [[round(value, 3) for value in values] for values in own]
    for name, (mean, std) in {**_NORMALISATIONS, f"mean {rounded[0]} and std {rounded[1]}": own}.items():
        other = copy.deepcopy(original)
        for buffer, values in ((other.normalise.mean, mean), (other.normalise.std, std)):
            given = torch.tensor(values, dtype=buffer.dtype).flatten()
            if len(given) in (1, buffer.numel()):
                buffer.copy_(given.clamp(min=1e-3 if buffer is other.normalise.std else 0.0).view(-1, 1, 1))
        yield name, other


def _poor_retrain(original: Backbone, retrain: Backbone, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Flag]:
    before, after = (_accuracy(network, batches) for network in (original, retrain))
    count = sum(len(labels) for _, labels in batches)
    error = math.sqrt(sum(p * (1 - p) for p in (before, after)) / max(count, 1))
    if before - after > RETRAIN_BELOW + 2 * error:
        yield Flag(
            "poor retrain",
            f"Retrain classifies {100 * after:.1f} % of the retained test images correctly, Original "
            f"{100 * before:.1f} %: a Retrain that is not trained out makes a poor reference; train it longer",
        )


def _accuracy(network: Backbone, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in batches)
    return right / max(1, sum(len(labels) for _, labels in batches))


def _relative_change(module: Any) -> float | None:
    """‖θu − θo‖ / ‖θo‖ over all parameters, or None without an original, or where what changed is the architecture."""
    original = None if module.from_scratch or module.architecture_change() else module.original_copy()
    return None if original is None else relative_change(original, module.unwrapped_backbone())


def _cut_short(trainer: Trainer) -> Iterator[Flag]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    timers = [c for c in callbacks if isinstance(c, Timer)]
    epochs, planned = trainer.current_epoch, trainer.max_epochs or -1
    ended = f"training ended after {epochs} of {planned} epochs" if planned > 0 else f"training ended in epoch {epochs}"
    if any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers):
        yield Flag("cut short", f"{ended}: max_time was over")
    elif any(isinstance(c, EarlyStopping) and c.stopped_epoch for c in callbacks):
        yield Flag("cut short", f"{ended}: stopped early by EarlyStopping")
    elif 0 <= epochs < planned and not 0 < trainer.max_steps <= trainer.global_step:
        yield Flag("cut short", ended)
