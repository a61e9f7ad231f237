"""Detectability: does the unlearned model itself show what was forgotten?

Threat model. The attacker holds the unlearned model and no original. To name samples, they have some that are known
to be forgotten, and unseen images of retained classes (the ``calibration`` half of each split); they learn from them
the direction of each score, and which score is best, and are scored on the other half. To name classes, they have the
weights, and a held-out set of images of all classes; the direction of a score is fixed, because unlearning
makes things small.

    samples   s(x) ∈ {‖h‖, ‖z‖, H(p), max p},   AUC of forgotten against unseen retained images
    classes   s(c) from the row and bias of the head, or the mean over held-out images; AUC over the classes

An AUC of .5 is no information. Below .5 a learnt direction does not generalise, or, for classes, forgetting made things
large. Retrain too has never seen a forgotten class and is unsure of it: what exceeds Retrain's value is the effect of
unlearning. Where single images were forgotten no class is, and classes are undefined. After the streisand effect of
arXiv 1911.04933; scores without calibration as in arXiv 1610.02136.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.splits import unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.metrics.detection import STATISTICS, answer_statistics, auc
from lit_unlearn.results import AttackResult

_READ = ("features", "logits")


class DetectSamples(Attack):
    """Separates forgotten images from unseen ones of the retained classes by one score.

    Numbers: ``<split>_<score>_auc`` for the images of ``forget`` and, where whole classes are forgotten, of
    ``test_forget``; ``<split>_auc`` is that of the score that was best on the calibration half.

    Args:
        name: metric name prefix.
    """

    family: ClassVar[str] = "detectability"
    needs_forget = True

    def __init__(self, name: str = "samples") -> None:
        super().__init__(name)

    def evaluate(self, target: Target) -> AttackResult:
        """One AUC for each split and score."""
        found: dict[str, float] = {}
        unseen = unseen_split(target.data.split_names)
        negatives = [_statistics(target, unseen, part) for part in ("calibration", "evaluation")]
        for split in ("forget", "test_forget"):
            if split in target.data.split_names:
                positives = [_statistics(target, split, part) for part in ("calibration", "evaluation")]
                learnt, held_out = (
                    {name: auc(positives[half][name], negatives[half][name]) for name in STATISTICS} for half in (0, 1)
                )
                evaluated = {name: held_out[name] if learnt[name] >= 0.5 else 1 - held_out[name] for name in STATISTICS}
                best = max(STATISTICS, key=lambda name: abs(learnt[name] - 0.5) if learnt[name] >= 0 else -1.0)
                found |= {f"{split}_auc": evaluated[best]}
                found |= {f"{split}_{name}_auc": value for name, value in evaluated.items()}
        return AttackResult(found)


class DetectClasses(Attack):
    """Ranks the classes by how small something of theirs is, and says whether the forgotten ones come first.

    Numbers, each an AUC over the classes: from the weights alone ``head_norm_auc`` and ``head_bias_auc``; from
    unlabelled held-out images ``frequency_auc``, how much probability a class gets; from labelled ones, by the mean
    over a class's images, ``confidence_auc``, ``feature_norm_auc`` and ``logit_norm_auc``.

    Args:
        name: metric name prefix.
    """

    family: ClassVar[str] = "detectability"
    needs_forget = True

    def __init__(self, name: str = "classes") -> None:
        super().__init__(name)

    def evaluate(self, target: Target) -> AttackResult:
        """One AUC for each score; all undefined where no class is forgotten whole."""
        splits = [split for split in ("test_forget", "test_retain") if split in target.data.split_names]
        whole = [target.model.gather(split, what=_READ) for split in splits]
        scores = {**_of_head(target), **_of_answers(whole, target.num_classes)}
        gone = torch.zeros(target.num_classes, dtype=torch.bool, device=target.device)
        if "test_forget" in target.data.split_names:
            gone[torch.unique(whole[0].labels)] = True
        return AttackResult({f"{name}_auc": auc(-score[gone], -score[~gone]) for name, score in scores.items()})


def _statistics(target: Target, split: str, part: str) -> dict[str, Tensor]:
    if next(target.model.batches(split, part), None) is None:  # half of one image
        return dict.fromkeys(STATISTICS, torch.empty(0, device=target.device))
    encoded = target.model.gather(split, part, what=_READ)
    return answer_statistics(encoded.features, encoded.logits)


def _of_head(target: Target) -> dict[str, Tensor]:
    """Norms of the rows and biases of the head, (C,) each; NaN where it has none."""
    head, classes = target.model.backbone.head, target.num_classes
    weight, bias = (getattr(head, name, None) for name in ("weight", "bias"))
    undefined = torch.full((classes,), math.nan, device=target.device)
    return {
        "head_norm": weight.detach()[:classes].double().norm(dim=1) if isinstance(weight, Tensor) else undefined,
        "head_bias": bias.detach()[:classes].double() if isinstance(bias, Tensor) else undefined,
    }


def _of_answers(whole: list[Encoded], classes: int) -> dict[str, Tensor]:
    """Means over held-out images, (C,) each: of a class's probability over all, of the rest over the class's own."""
    features, logits, labels = (
        torch.cat([getattr(part, name) for part in whole]) for name in ("features", "logits", "labels")
    )
    frequency = logits.double().softmax(1).mean(0)[:classes]
    statistics = answer_statistics(features, logits)
    own = torch.nn.functional.one_hot(labels, classes).double()
    means = {name: statistics[name] @ own / own.sum(0) for name in ("confidence", "feature_norm", "logit_norm")}
    return {"frequency": frequency, **means}
