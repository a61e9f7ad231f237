"""Distance in the weights from Original, and the loss barrier on the way to Original and to Retrain.

Threat model. An auditor holds the unlearned model, Original, Retrain and labelled test images. No attacker gains
anything; but models that are near Original, with no barrier in between, were found to relearn soon (arXiv 2505.22310).

    distance = ‖θ - θo‖,   relative to ‖θo‖, and to Retrain's own ‖θr - θo‖
    barrier  = max_t [ CE((1-t) θ + t θ') - ((1-t) CE(θ) + t CE(θ')) ],   t in [0, 1], θ' Original or Retrain

The barrier is 0 at least, since the ends count, and 0 where the loss is convex on the way (Entezari et al., arXiv
2110.06296). All learned parameters count in the distance, those of norms too, and no running statistics. So it is in
the published code (github.com/shoaibahmed/vision_relearning, commit 7b9a1cca: ``model_utils.py``, lines 125-127, the
norm in ``vision_unlearner.py``, lines 1293-1308), which picks parameters by the ends of their names; ours counts tokens
and position embeddings as well.

Running statistics of batch norm are interpolated like weights, as the published code does (``vision_unlearner.py``,
lines 790-796 and 1334-1335): the ends then are exactly the two models, and no training image is needed. Between
networks trained apart such statistics are not those of the network in between, which adds to the barrier (Jordan et
al., REPAIR, arXiv 2211.08403). ``recalibrate`` measures them again, at each point and at both ends. Deviation: the
published code evaluates losses every .05 on whole sets of images and reports them all.
"""

import copy
import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.images import CHUNK, draw, draw_own_share, in_chunks, sum_over_ranks
from lit_unlearn.attacks.splits import forgotten_split
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.metrics import relative_change, weight_distance
from lit_unlearn.results import AttackResult

Images = tuple[Tensor, Tensor]
"""Images (n, C, H, W) and labels (n,) of this rank."""


class Distance(Attack):
    """How far the weights are from Original's, and how high the loss rises in between.

    Numbers: ``distance``; ``relative_distance``, as a share of the norm of Original's weights; ``retrain_ratio``, as a
    share of Retrain's own distance; ``barrier_original/forgotten`` and ``barrier_original/retained``, the barrier to
    Original on the forgotten images (unseen ones of forgotten classes where there are, else the forget set) and on the
    retained test images, in nats; ``barrier_retrain/…``, that to Retrain. What concerns Retrain is undefined without
    one, or where its weights have other names or shapes.

    Args:
        points: on the way, the ends included.
        images: of each split, so many at most are measured.
        recalibrate: on how many retained training images the statistics of batch norm are measured again at each
            point; at least 2, or 0, which interpolates them.
        seed: of the choice of images.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    family: ClassVar[str] = "representation"
    needs_original = True

    def __init__(
        self, points: int = 11, images: int = 1000, recalibrate: int = 0, seed: int = 0, name: str = "distance"
    ) -> None:
        super().__init__(name)
        for option, value, least in (("points", points, 3), ("images", images, 1), ("recalibrate", recalibrate, 0)):
            check_at_least(option, value, least)
        if recalibrate == 1:
            raise UsageError("recalibrate is 1, but must be 0 or at least 2")
        self.points, self.images, self.recalibrate, self.seed = points, images, recalibrate, seed

    def lacks(self, target: Target) -> str | None:
        """Says also where the weights are not those of the same network as Original's."""
        if target.original is None:
            return super().lacks(target)
        return misfit(target.model.backbone, target.original.backbone)

    def evaluate(self, target: Target) -> AttackResult:
        """The distances and the barriers."""
        model, original, retrain = target.model, target.original, target.retrain
        assert original is not None
        if retrain is not None and misfit(retrain.backbone, original.backbone):
            retrain = None
        pair = original.backbone, model.backbone
        theirs = 0.0 if retrain is None else weight_distance(original.backbone, retrain.backbone)
        numbers = {
            "distance": weight_distance(*pair),
            "relative_distance": relative_change(*pair),
            "retrain_ratio": weight_distance(*pair) / theirs if theirs else math.nan,
        }
        for name, other in (("original", original), ("retrain", retrain)):
            numbers |= {f"barrier_{name}/{kind}": value for kind, value in self._barriers(target, other).items()}
        return AttackResult(numbers)

    def _barriers(self, target: Target, other: EncodedData | None) -> dict[str, float]:
        """The barriers between the model and another one, which both ways are one."""
        if other is None or other is target.model:
            return dict.fromkeys(("forgotten", "retained"), math.nan if other is None else 0.0)
        networks = frozenset((target.model.key, other.key))
        key = ("barrier", networks, self.points, self.images, self.recalibrate, self.seed)
        return target.shared.once(key, lambda: self._measure(target, other))

    def _measure(self, target: Target, other: EncodedData) -> dict[str, float]:
        sets = {"forgotten": self._chosen(target, forgotten_split(target.data.split_names))}
        sets["retained"] = self._chosen(target, "test_retain")
        known = {kind: images for kind, images in sets.items() if images is not None}
        calibration = draw(target, "retain", self.recalibrate, self.seed)[0].float() if self.recalibrate else None
        pair = target.model.backbone, other.backbone
        losses = losses_between(*pair, list(known.values()), self.points, calibration)
        found = {kind: barrier(losses[:, place]) for place, kind in enumerate(known)}
        return {kind: found.get(kind, math.nan) for kind in sets}

    def _chosen(self, target: Target, split: str) -> Images | None:
        """This rank's share of the images of a split that are measured, or None where it has none."""
        if split not in target.data.split_names:
            return None
        images, labels = draw_own_share(target, split, self.images, self.seed)
        return images.float(), labels


def misfit(network: nn.Module, original: nn.Module) -> str | None:
    """Why two networks have no segment between them, or None."""
    ours, theirs = (
        {name: tuple(value.shape) for name, value in each.state_dict().items()} for each in (network, original)
    )
    if apart := sorted(ours.keys() ^ theirs.keys()):
        who, whom = ("it has", "Original has not") if apart[0] in ours else ("Original has", "it has not")
        return f"{who} weights {apart[0]!r}, which {whom}"
    name = next((name for name, shape in ours.items() if shape != theirs[name]), None)
    return None if name is None else f"its weights {name!r} are of shape {ours[name]}, Original's of {theirs[name]}"


def barrier(losses: Tensor) -> float:
    """The largest excess of losses (P,), at even steps from one end to the other, over the line between the ends."""
    line = torch.lerp(losses[0], losses[-1], torch.linspace(0, 1, len(losses)).to(losses))
    return float((losses - line).max())


@torch.no_grad()
def losses_between(
    one: nn.Module, two: nn.Module, sets: list[Images], points: int, calibration: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy on several sets of images at even steps from one network to another.

    Args:
        one: a network in eval mode.
        two: another with the same names and shapes of weights.
        sets: this rank's share of each set.
        points: P, the ends included.
        calibration: images (n, C, H, W), the same on every rank, on which statistics of batch norm are measured again;
            None interpolates them.

    Returns:
        (P, number of sets), float64, over all ranks; NaN for a set without images.
    """
    network = copy.deepcopy(one).float().eval()
    ends = one.state_dict(), two.state_dict()
    rows = []
    for step in range(points):
        _set_between(network, ends, step / (points - 1))
        if calibration is not None:
            recalibrate(network, calibration)
        rows.append([_sum_of_losses(network, images, labels) for images, labels in sets])
    rows.append([float(len(labels)) for _, labels in sets])
    device = next(network.parameters()).device
    sums = sum_over_ranks(torch.tensor(rows, dtype=torch.float64, device=device))
    return sums[:-1] / sums[-1]


def recalibrate(network: nn.Module, images: Tensor) -> None:
    """Measures the running statistics of batch norm again: their mean over batches of images (n, C, H, W), n ≥ 2."""
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for batch in torch.tensor_split(images, -(-len(images) // CHUNK)) if norms else ():
        network(batch)
    for norm in norms:
        norm.eval()


def _set_between(network: nn.Module, ends: tuple[Mapping[str, Tensor], Mapping[str, Tensor]], share: float) -> None:
    """Sets weights and statistics to (1 - share) of the one end and share of the other; counts of batches stay."""
    one, two = ends
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(one[name].float(), two[name].float(), share))


def _sum_of_losses(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    parts = in_chunks(images, labels)
    return math.fsum(float(cross_entropy(network(x).double(), y, reduction="sum")) for x, y in parts)
