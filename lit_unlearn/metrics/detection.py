"""How well a score separates two groups, and the scores that a classifier's answer offers."""

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

STATISTICS = ("feature_norm", "logit_norm", "entropy", "confidence")


def answer_statistics(features: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """What can be read off each answer without a label, in float64.

    Args:
        features: (N, d).
        logits: (N, C).

    Returns:
        Each of (N,): ``feature_norm`` ‖h‖₂, ``logit_norm`` ‖z‖₂, ``entropy`` of the softmax in nats, and
        ``confidence``, its largest probability.
    """
    features, logits = features.double(), logits.double()
    log_p = log_softmax(logits, 1)
    found = (features.norm(dim=1), logits.norm(dim=1), -(log_p.exp() * log_p).sum(1), log_p.amax(1).exp())
    return dict(zip(STATISTICS, found, strict=True))


def auc(positives: Tensor, negatives: Tensor) -> float:
    """The chance that a positive scores above a negative, ties counting half (area under the ROC curve).

    Args:
        positives: scores (n,).
        negatives: scores (m,).

    Returns:
        A number in [0, 1], 0.5 without information; NaN where a group is empty or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score

    scores = torch.cat([positives, negatives])
    if not len(positives) or not len(negatives) or not bool(scores.isfinite().all()):
        return math.nan
    truth = torch.arange(len(scores)) < len(positives)
    return float(roc_auc_score(truth.numpy(), scores.cpu().numpy()))
