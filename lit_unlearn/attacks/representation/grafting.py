"""Grafting: the stages of one network feed the later stages and the head of Original, without training.

Threat model. An auditor holds the unlearned model, Original, Retrain and labelled images. It is no adversary's gain:
whoever holds Original's weights needs no graft. It shows up to which stage the unlearned model still is what Original's
later stages read, beside the same grafts of Retrain.

    Δ¹_l = a - a(Retrain's stages up to l, then Original's)     a: accuracy of Original on the forgotten images
    Δ²_l = a - a(this model's stages up to l, then Original's)
    depth = Σ_l Δ¹_l · clip(Δ²_l / Δ¹_l, 0, 1) / Σ_l Δ¹_l,      over the stages with Δ¹_l > 0

0 is nothing forgotten, 1 as Retrain. The score is that of arXiv 2605.24614 for language models
(github.com/gnueaj/unlearning-depth-score, commit fc316398: ``compute_uds.py``, lines 576-577 and 615-633; the hook that
replaces a layer's output, ``uds/core.py``, lines 327-352). Deviations: accuracy over a set of images in place of the
log-probability of each answer, so one score and no mean over examples; every stage with Δ¹_l > 0 counts, where theirs
asks for .05.

How to read it. A graft fails for two reasons: the forgotten classes are gone, or the stages no longer use Original's
coordinates. A Retrain from another start fails for the second, on retained images as well, so ``retained`` stands
beside ``forgotten``. Random weights get depth 1. A model whose first stage is Original's and whose other stages were
trained without the forget set has a graft as good as Original. So the verdict does not compare grafts.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.images import draw_own_share, in_chunks
from lit_unlearn.attacks.splits import forgotten_split
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.backbone import FEATURES
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.metrics.evaluation import SplitAccuracy
from lit_unlearn.results import AttackResult


class Graft(NamedTuple):
    """Accuracy of a graft on the forgotten images and on the retained test images."""

    forgotten: float
    retained: float

    @property
    def useful(self) -> float:
        """The lower of the two."""
        return min(self.forgotten, self.retained)


class Grafting(Attack):
    """Accuracy of Original when it goes on from each stage of this model.

    Numbers: ``<stage>/forgotten`` and ``<stage>/retained``, accuracy of the graft at that stage on the forgotten images
    (unseen ones of forgotten classes where there are, else the forget set) and on the retained test images; ``useful``,
    the largest over the stages of the lower of the two; ``depth``, the score, 0 where nothing is forgotten and 1 as
    Retrain. Notes: ``strongest``, the stage of ``useful``; ``depth``, why the score is undefined. A network without
    stages has one graft, at its features.

    The depth is undefined without Retrain, where Retrain's stages do not fit into Original, and where no graft of
    Retrain loses accuracy on the forgotten images.

    Args:
        images: of each split, so many at most are measured.
        seed: of their choice.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    family: ClassVar[str] = "representation"
    needs_original = True
    needs_forget = True

    def __init__(self, images: int = 1000, seed: int = 0, name: str = "grafting") -> None:
        super().__init__(name)
        check_at_least("images", images, 1)
        self.images, self.seed = images, seed

    def lacks(self, target: Target) -> str | None:
        """Says also where the stages do not fit into Original."""
        reason = super().lacks(target)
        return reason if reason or target.original is None else _misfit(target.model, target.original)

    def evaluate(self, target: Target) -> AttackResult:
        """The grafts of this model, stage by stage, and its depth beside those of Retrain."""
        grafts = self._grafts(target, target.model)
        numbers = {
            f"{stage}/{name}": value for stage, graft in grafts.items() for name, value in graft._asdict().items()
        }
        strongest = max(grafts, key=lambda stage: grafts[stage].useful)
        depth, reason = self._depth(target, grafts)
        notes = {"strongest": strongest, **({"depth": reason} if reason else {})}
        return AttackResult({"depth": depth, "useful": grafts[strongest].useful, **numbers}, notes)

    def _depth(self, target: Target, grafts: Mapping[str, Graft]) -> tuple[float, str | None]:
        """The score, or NaN and why it is undefined."""
        original, retrain = target.original, target.retrain
        assert original is not None
        if retrain is None:
            return math.nan, "it needs Retrain, which this run does not have"
        if reason := _misfit(retrain, original):
            return math.nan, f"Retrain: {reason}"
        start = next(iter(self._grafts(target, original).values())).forgotten  # its own graft is Original itself
        base = {stage: start - graft.forgotten for stage, graft in self._grafts(target, retrain).items()}
        return depth_score(base, {stage: start - graft.forgotten for stage, graft in grafts.items()})

    def _grafts(self, target: Target, source: EncodedData) -> dict[str, Graft]:
        """Stage → accuracies of the graft there; of a network and Original they are computed once."""
        assert target.original is not None
        key = "grafts", source.key, target.original.key, self.images, self.seed
        return target.shared.once(key, lambda: self._measure(target, source))

    def _measure(self, target: Target, source: EncodedData) -> dict[str, Graft]:
        assert target.original is not None
        known, networks = target.data.split_names, (source.backbone, target.original.backbone)
        found: list[dict[str, float]] = []
        for split in (forgotten_split(target.data.split_names), "test_retain"):
            chosen = [draw_own_share(target, split, self.images, self.seed)] if split in known else []
            found.append(graft_accuracies(*networks, chosen))
        return {stage: Graft(forgotten, found[1][stage]) for stage, forgotten in found[0].items()}


def depth_score(base: Mapping[str, float], own: Mapping[str, float]) -> tuple[float, str | None]:
    """The share of Retrain's losses that a model's grafts have too, stages weighted by Retrain's loss.

    Args:
        base: stage → Δ¹, accuracy on the forgotten images that Original loses by Retrain's graft there.
        own: stage → Δ², the same by the model's graft.

    Returns:
        The score and None; or NaN and the reason, where Retrain's grafts lose nothing.
    """
    lost = {stage: value for stage, value in base.items() if value > 0}
    if not lost:
        return math.nan, "no graft of Retrain loses accuracy on the forgotten images, so there is no depth to compare"
    shared = math.fsum(min(max(own[stage], 0.0), value) for stage, value in lost.items())
    return shared / math.fsum(lost.values()), None


@torch.no_grad()
def graft_accuracies(
    source: Backbone, receiver: Backbone, batches: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Stage → accuracy of the receiver going on from that stage of the source; NaN without images.

    Args:
        source: gives the stages, or its features where it has none.
        receiver: goes on from them.
        batches: this rank's images (n, C, H, W) and labels (n,); each image counts once over all ranks.
    """
    stages = source.stages or (FEATURES,)
    counters = {stage: SplitAccuracy().to(source.normalise.mean.device) for stage in stages}
    for images, labels in batches:
        for part, truth in in_chunks(images, labels):
            outputs = stage_outputs(source, part)
            for stage, counter in counters.items():
                counter.update(graft(receiver, part, stage, outputs[stage]), truth)
    return {stage: float(counter.compute()) for stage, counter in counters.items()}


def stage_outputs(backbone: Backbone, images: Tensor) -> dict[str, list[Tensor]]:
    """The outputs of all stages, and the features, of one pass of images (B, C, H, W).

    Raises:
        UsageError: if a stage gives no tensor.
    """
    found: dict[str, list[Tensor]] = {stage: [] for stage in backbone.stages}
    with ExitStack() as hooks:
        for stage, outputs in found.items():
            hooks.enter_context(backbone.stage(stage).register_forward_hook(_Keep(stage, outputs)))
        features = backbone.features(images)
    return {**found, FEATURES: [features]}


def graft(receiver: Backbone, images: Tensor, stage: str, outputs: list[Tensor]) -> Tensor:
    """Logits (B, C) of a network one of whose stages gives other outputs than its own; it is not changed.

    Args:
        receiver: the network. What it computes before the stage counts only where a later layer reads past the stage.
        images: (B, C, H, W), of which the outputs are.
        stage: the name of the stage, or ``"features"``.
        outputs: what the stage gives at each of its calls in one pass.
    """
    with ExitStack() as hooks:
        if stage != FEATURES:
            hooks.enter_context(receiver.stage(stage).register_forward_hook(_Replace(outputs)))
        logits: Tensor = receiver.head(outputs[0]) if stage == FEATURES else receiver(images)
    return logits


class _Keep:
    """A forward hook that keeps each output; a copy, since a later layer may work in place."""

    def __init__(self, stage: str, outputs: list[Tensor]) -> None:
        self.stage, self.outputs = stage, outputs

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        if not isinstance(output, Tensor):
            raise UsageError(f"the stage {self.stage!r} gives a {type(output).__name__}, not a tensor")
        self.outputs.append(output.clone())


class _Replace:
    """A forward hook that gives others in place of a module's outputs, call by call."""

    def __init__(self, outputs: list[Tensor]) -> None:
        self.left = iter(outputs)

    def __call__(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        return next(self.left).to(output.dtype)


@torch.no_grad()
def _misfit(source: EncodedData, original: EncodedData) -> str | None:
    """Why the stages of a network cannot stand in for Original's, from one image, or None."""
    ours, theirs = source.backbone.stages, original.backbone.stages
    if ours != theirs:
        return f"its stages are {', '.join(ours) or 'none'}, but Original's are {', '.join(theirs) or 'none'}"
    if source is original:
        return None
    splits = source.data.split_names
    batches = (images for split in splits for images, _ in source.data.evaluation_batches(split, source.device))
    image = next(batches)[:1]
    pair = [stage_outputs(net.backbone, image) for net in (source, original)]
    for stage in ours or (FEATURES,):
        own, other = (_shapes(outputs[stage]) for outputs in pair)
        if own != other:
            return f"its stage {stage!r} gives {own} for an image, but Original's gives {other}"
    return None


def _shapes(outputs: list[Tensor]) -> str:
    return ", ".join("×".join(map(str, output.shape[1:])) for output in outputs)
