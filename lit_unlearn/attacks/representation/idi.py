"""Information difference index: how much of what the stages say about the forget set is left (arXiv 2405.17878).

Threat model. An auditor holds the unlearned model, Original, Retrain and the training images, and knows which of them
were to be forgotten. They read no class label and no output, so a change of the head alone hides nothing.

    IDI = Σ_l (I_θ - I_retrain) / Σ_l (I_θo - I_retrain),   I_l the InfoNCE bound of stage l on "forget or retain?"

0 is as Retrain, 1 as Original, below 0 less than Retrain. A bound below 0 counts as 0: no information is negative, and
how far a critic that learnt nothing falls below depends on the features' rank and not on what they say. Deviations from
Jeon et al.: the critic is a small network on the stage's activations averaged over positions, where theirs trains the
rest of the backbone again, so the bound is looser, for all three models alike; it scores images that it was not trained
on; the two sets weigh one half each, so that I is in bits, at most 1; and where Original's stages say no more than
Retrain's, the index is undefined.
"""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.representation.information import balanced_mean, pointwise_information
from lit_unlearn.attacks.shared import Shared
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.backbone import FEATURES
from lit_unlearn.errors import check_at_least
from lit_unlearn.results import AttackResult

_SPLITS = ("forget", "retain")


class PointwiseInformation(NamedTuple):
    """What L stages say about each image's set, in bits (L, N + M): N forget images, then M retain images.

    The bits of a stage whose mean is below 0 are all 0.
    """

    stages: tuple[str, ...]
    bits: Tensor
    forget: int

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over images (N + M,), each set weighing one half, and its standard error."""
        return balanced_mean(values, self.forget)


class IDI(Attack):
    """Information difference index from critics on every stage.

    Numbers: ``index``, 0 as Retrain and 1 as Original; ``error``, its standard error over images; ``lead_error``, that
    of Original's lead over Retrain, as a share of it; ``<stage>/bits``, what a stage says, between 0 and 1.
    The index is undefined without Original or Retrain, with fewer than four forget images, and where Original exceeds
    Retrain by less than two standard errors.

    Args:
        samples: how many images of each of the two sets are looked at, at most.
        width: hidden units of a critic.
        steps: training steps of a critic.
        seed: of the choice of images and of the critics, alike for all models.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    family: ClassVar[str] = "representation"
    needs_forget = True

    def __init__(
        self, samples: int = 5000, width: int = 64, steps: int = 300, seed: int = 0, name: str = "idi"
    ) -> None:
        super().__init__(name)
        for option, value, least in (("samples", samples, 4), ("width", width, 1), ("steps", steps, 1)):
            check_at_least(option, value, least)
        self.samples, self.width, self.steps, self.seed = samples, width, steps, seed

    def evaluate(self, target: Target) -> AttackResult:
        """The index, its error, and the bits of each stage."""
        own = self.information(target.model, target.shared)
        if own is None:
            return AttackResult({"index": math.nan})
        bits = {f"{stage}/bits": float(own.mean(row)[0]) for stage, row in zip(own.stages, own.bits, strict=True)}
        original, retrain = (self._sum(net, target.shared) for net in (target.original, target.retrain))
        if original is None or retrain is None:
            return AttackResult({"index": math.nan, **bits})
        lost = original - retrain
        total, noise = own.mean(lost)
        if not total > 2 * noise:
            return AttackResult({"index": math.nan, **bits})
        left = own.bits.sum(0) - retrain
        index = own.mean(left)[0] / total
        error = own.mean(left - index * lost)[1] / total
        errors = {"error": float(error), "lead_error": float(noise / total)}
        return AttackResult({"index": float(index), **errors, **bits})

    def information(self, net: EncodedData, shared: Shared) -> PointwiseInformation | None:
        """What a network's stages say about each image's set, or None with fewer than four images in a set."""
        key = ("pointwise information", net.key, self.samples, self.width, self.steps, self.seed)
        return shared.once(key, lambda: self._measure(net))

    def _sum(self, net: EncodedData | None, shared: Shared) -> Tensor | None:
        information = None if net is None else self.information(net, shared)
        return None if information is None else information.bits.sum(0)

    def _measure(self, net: EncodedData) -> PointwiseInformation | None:
        if not set(_SPLITS) <= set(net.data.split_names):
            return None
        draw, sets = torch.Generator().manual_seed(self.seed), []
        for split in _SPLITS:
            count = len(net.data.labels(split))
            if count < 4:
                return None
            chosen = torch.randperm(count, generator=draw)[: self.samples].sort().values
            samples = net.gather(split, index=chosen, what=["stages" if net.backbone.stages else "features"])
            sets.append(dict(samples.stages) or {FEATURES: samples.features})
        forget, retain = sets
        both = list(forget.values()), [retain[stage] for stage in forget]
        bits, count = pointwise_information(*both, self.width, self.steps, self.seed), len(both[0][0])
        says_something = balanced_mean(bits, count)[0] > 0
        return PointwiseInformation(tuple(forget), torch.where(says_something[:, None], bits, 0.0), count)
