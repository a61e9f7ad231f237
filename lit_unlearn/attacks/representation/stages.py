"""Similarity to Original and Retrain, and spread, stage by stage: where in the network did the forgetting happen?

Threat model. An auditor holds the unlearned model, the training images, the original and, as the reference, Retrain; no
label is read. None of this is an adversary's gain by itself: it shows how deep the change goes, and what a recovery
that fails has failed on, a set of features that lost its spread or one that merely moved.

    CKA = HSIC(X, Y) / √(HSIC(X, X) · HSIC(Y, Y)),   X this model's stage, Y the same stage of Original or Retrain

Linear CKA is Kornblith et al.'s (arXiv 1905.00414), here with the unbiased HSIC, since images are often not many more
than dimensions. A set that has collapsed to a point has no CKA: it is undefined, never a flattering 0, and variance and
effective rank are reported beside it. Deviation: stages are averaged over positions first, as all attacks see them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones.backbone import FEATURES
from lit_unlearn.metrics.cka import LinearCKA
from lit_unlearn.metrics.spread import Spread
from lit_unlearn.results import AttackResult

_SPLITS = ("forget", "retain")


class Representation(Attack):
    """CKA and spread of the training images at each stage and at the features.

    Numbers, for the splits forget and retain: ``<stage>/<split>_cka_original`` and ``<stage>/<split>_cka_retrain``;
    ``<stage>/<split>_variance``, the trace of the covariance; ``<stage>/<split>_rank``, the effective rank. And
    ``<stage>/norm_ratio``, the mean norm of forget images over that of retain images.

    Args:
        name: metric name prefix.

    Example:
        >>> Trainer(callbacks=[Representation(), IDI(), FeatureMap()])  # doctest: +SKIP
    """

    family: ClassVar[str] = "representation"

    def __init__(self, name: str = "stages") -> None:
        super().__init__(name)

    def evaluate(self, target: Target) -> AttackResult:
        """The numbers, in order of depth."""
        stages = [*target.model.backbone.stages, FEATURES]
        found: dict[str, dict[str, float]] = {stage: {} for stage in stages}
        norms: dict[str, dict[str, Tensor]] = {stage: {} for stage in stages}
        for split in [name for name in _SPLITS if name in target.data.split_names]:
            own = _spreads(target.model, split, stages)
            for name, other in (("original", target.original), ("retrain", target.retrain)):
                if other is not None:
                    for stage, cka in _similarities(target.model, other, split, own).items():
                        found[stage][f"{split}_cka_{name}"] = cka
            for stage, spread in own.items():
                found[stage] |= {f"{split}_{name}": float(spread[name]) for name in ("variance", "rank")}
                norms[stage][split] = spread["norm"]
        for stage, norm in norms.items():
            if norm.keys() == set(_SPLITS):
                found[stage]["norm_ratio"] = float(norm["forget"] / norm["retain"])
        numbers = {f"{stage}/{name}": value for stage, each in found.items() for name, value in each.items()}
        return AttackResult(numbers)


def _spreads(net: EncodedData, split: str, stages: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Mean, variance, effective rank and mean norm of each stage on a split."""
    spreads: dict[str, Spread] = {}
    for batch in net.batches(split):
        for stage in stages:
            x = _at(batch, stage)
            if stage not in spreads:
                spreads[stage] = Spread(x.shape[1]).to(x.device)
            spreads[stage].update(x)
    return {stage: spread.compute() for stage, spread in spreads.items()}


def _similarities(
    model: EncodedData, other: EncodedData, split: str, own: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, float]:
    """CKA of each stage of two networks on a split; ``own`` are the model's spreads there."""
    theirs = own if other is model else _spreads(other, split, list(own))
    metrics: dict[str, LinearCKA] = {}
    for stage, spread in own.items():
        centres = spread["mean"], theirs[stage]["mean"]
        cka = LinearCKA(len(centres[0]), len(centres[1]), unbiased=True, centre_x=centres[0], centre_y=centres[1])
        metrics[stage] = cka.to(model.device)
    for batch, beside in _pairs(model, other, split):
        for stage, cka in metrics.items():
            cka.update(_at(batch, stage), _at(beside, stage))
    return {stage: float(cka.compute()) for stage, cka in metrics.items()}


def _pairs(model: EncodedData, other: EncodedData, split: str) -> Iterator[tuple[Encoded, Encoded]]:
    if other is model:
        yield from ((batch, batch) for batch in model.batches(split))
    else:
        yield from zip(model.batches(split), other.batches(split), strict=True)


def _at(batch: Encoded, stage: str) -> Tensor:
    return batch.features if stage == FEATURES else batch.stages[stage]
