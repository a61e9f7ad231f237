"""Information difference index: how much of what the stages tell about the forget set is left (arXiv 2405.17878).

Threat model. An auditor holds the unlearned model, Original, Retrain and the training images, and knows which of them
were to be forgotten. He reads no class label and no output, so a model whose head alone was changed cannot hide.

    IDI = Σ_l (I_θ - I_retrain) / Σ_l (I_θo - I_retrain),   I_l the InfoNCE bound of stage l on "forget or retain?"

0 is as Retrain, 1 as Original, below 0 less than Retrain. Deviations from Jeon et al.: the critic is a small network on
the stage's activations averaged over positions, where theirs trains the rest of the backbone anew, so the bound is
looser, for all three models alike; it scores images that it was not trained on; the two sets weigh one half each, so
that I is in bits, at most 1; and where Original's stages tell no more than Retrain's, the index is undefined.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.backbone import FEATURES
from lit_unlearn.errors import check_at_least
from lit_unlearn.metrics.information import balanced_mean, pointwise_information

_SPLITS = ("forget", "retain")


class Told(NamedTuple):
    """What L stages tell about each image's set, in bits (L, N + M): N forget images, then M retain images."""

    stages: tuple[str, ...]
    bits: Tensor
    forget: int

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over images (N + M,), each set weighing one half, and its standard error."""
        return balanced_mean(values, self.forget)


class IDI(Attack):
    """Information difference index from critics on every stage.

    Numbers: ``index``, 0 as Retrain and 1 as Original; ``error``, its standard error over images; ``<stage>/bits``,
    what a stage tells, between 0 and 1 up to noise. The index is undefined without Original or Retrain, with fewer than
    four forget images, and where Original exceeds Retrain by less than two standard errors.

    Args:
        samples: how many images of each of the two sets are looked at, at most.
        width: hidden units of a critic.
        steps: training steps of a critic.
        seed: of the choice of images and of the critics, alike for all models.
        name: how its numbers are called.
    """

    family: ClassVar[str] = "representation"

    def __init__(
        self, samples: int = 5000, width: int = 64, steps: int = 300, seed: int = 0, name: str = "idi"
    ) -> None:
        super().__init__(name)
        for option, value, least in (("samples", samples, 4), ("width", width, 1), ("steps", steps, 1)):
            check_at_least(option, value, least)
        self.samples, self.width, self.steps, self.seed = samples, width, steps, seed

    def run(self, target: Target) -> Mapping[str, float]:
        """The index, its error, and the bits of each stage."""
        own = self.told(target.model)
        if own is None:
            return {"index": math.nan}
        bits = {f"{stage}/bits": float(own.mean(row)[0]) for stage, row in zip(own.stages, own.bits, strict=True)}
        original, retrain = self._sum(target.original), self._sum(target.retrain)
        if original is None or retrain is None:
            return {"index": math.nan, **bits}
        lost = original - retrain
        whole, noise = own.mean(lost)
        if not whole > 2 * noise:
            return {"index": math.nan, **bits}
        left = own.bits.sum(0) - retrain
        index = own.mean(left)[0] / whole
        error = own.mean(left - index * lost)[1] / whole
        return {"index": float(index), "error": float(error), **bits}

    def told(self, net: EncodedData) -> Told | None:
        """What a network's stages tell about each image's set, or None with fewer than four images in a set."""
        known = _told.setdefault(net, {})
        options = self.samples, self.width, self.steps, self.seed
        if options not in known:
            known[options] = self._measure(net)
        return known[options]

    def _sum(self, net: EncodedData | None) -> Tensor | None:
        told = None if net is None else self.told(net)
        return None if told is None else told.bits.sum(0)

    def _measure(self, net: EncodedData) -> Told | None:
        if not set(_SPLITS) <= set(net.data.split_names):
            return None
        draw, sets = torch.Generator().manual_seed(self.seed), []
        for split in _SPLITS:
            whole = net.whole(split)
            if len(whole.labels) < 4:
                return None
            chosen = torch.randperm(len(whole.labels), generator=draw)[: self.samples].sort().values.to(net.device)
            layers = whole.stages or {FEATURES: whole.features}
            sets.append({stage: x[chosen] for stage, x in layers.items()})
        forget, retain = sets
        settings = self.width, self.steps, self.seed
        bits = [pointwise_information(x, retain[stage], *settings) for stage, x in forget.items()]
        return Told(tuple(forget), torch.stack(bits), len(next(iter(forget.values()))))


_told: WeakKeyDictionary[EncodedData, dict[tuple[int, ...], Told | None]] = WeakKeyDictionary()
