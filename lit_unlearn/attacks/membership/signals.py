"""Was a sample seen in training? Signals of single samples, fair comparison sets, and how well a score separates.

Every signal is oriented alike: the higher, the more a sample looks like one that was trained on. All are float64.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_unlearn.errors import UsageError, check_fraction
from lit_unlearn.metrics.detection import auc


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """φ = z_y - logsumexp of the other logits, the log odds of the true class.

    log(p / (1 - p)) is the same on paper, but infinite as soon as p rounds to 1.

    Args:
        logits: (B, C), finite, C ≥ 2.
        labels: class indices (B,).

    Returns:
        φ, (B,), float64.

    Raises:
        UsageError: if the shapes do not fit or there are fewer than two classes.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] < 2:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise UsageError(f"logits and labels have shapes {shapes}: expected (B, C) and (B,) with C of at least 2")
    logits, own = logits.double(), labels[:, None]
    return logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -math.inf).logsumexp(1)


TEMPERATURE, SOFT_MARGIN, TERMS = 2.0, 0.6, 4
"""Of the soft-margin Taylor softmax, as in the configs of RMIA's paper: rmia_offline_127_ref_models.yaml."""


def taylor_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """RMIA's p (arXiv 2312.03262, appendix): t(c_y − m) / (t(c_y − m) + Σ_{i≠y} t(c_i)), c = z / T.

    t is the Taylor polynomial of exp with :data:`TERMS` terms. It grows slower than exp: images that a network
    has memorised still differ, where the softmax is 1 for all. Where t is not above 0, for logits far below 0, it is
    taken to be the smallest number. Source: ml_privacy_meter at 44f9051, research/2023_rmia/signals.py:22-28, 143-153.

    Args:
        logits: (B, C).
        labels: class indices (B,).

    Returns:
        p in (0, 1], (B,), float64.
    """
    scaled, own = logits.double() / TEMPERATURE, labels[:, None]
    true = _taylor(scaled.gather(1, own).squeeze(1) - SOFT_MARGIN)
    return true / (true + _taylor(scaled).scatter(1, own, 0.0).sum(1))


def _taylor(values: Tensor) -> Tensor:
    terms = (values**power / math.factorial(power) for power in range(TERMS))
    return sum(terms, torch.zeros_like(values)).clamp(min=torch.finfo(values.dtype).tiny)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax in nats, (B,), float64, of logits (B, C)."""
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def modified_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-(1 - p_y) log p_y - Σ_{i≠y} p_i log(1 - p_i): entropy that knows the label (Song and Mittal, arXiv 2003.10595).

    Args:
        logits: (B, C), C ≥ 2.
        labels: class indices (B,).

    Returns:
        Nats, at least 0, (B,), float64: 0 for a sure right answer, without bound for a sure wrong one.

    Raises:
        UsageError: as for :func:`margin`.
    """
    phi, own = margin(logits, labels), labels[:, None]
    p = logits.double().softmax(1)
    top = p.argmax(1, keepdim=True)
    # 1 - p is lost to rounding only in the largest p, whose log odds give it exactly.
    log_rest = torch.log1p(-p).scatter(1, top, logsigmoid(-margin(logits, top.squeeze(1)))[:, None])
    others = (p * log_rest).scatter(1, own, 0.0).sum(1)
    return -torch.sigmoid(-phi) * logsigmoid(phi) - others


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability p_y of the true class, (B,), float64; the arguments are :func:`margin`'s."""
    return margin(logits, labels).sigmoid()


SIGNALS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": lambda logits, labels: logsigmoid(margin(logits, labels)),
    "confidence": confidence,
    "entropy": lambda logits, labels: -entropy(logits),
    "m_entropy": lambda logits, labels: -modified_entropy(logits, labels),
    "margin": margin,
}
"""From logits (B, C) and labels (B,) to what looks the more like training the higher it is, (B,)."""


def published_signals(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The five signals of the field's SVC score as its published code computes them, in float32, mistakes included.

    ``m_entropy`` is not the modified entropy. With S the classes that occur among the labels it is
    -Σ_{c∈S} (1 - p_c) log p_c - Σ_{c∉S} p_c log p_c: the swap meant for each sample's own class is done in the columns
    of all labels at once, and log(1 - p) is log p. A p of 0 counts as 1e-30 in the logarithm.

    Args:
        logits: (B, C).
        labels: class indices (B,), of the whole set that is scored: they take part in ``m_entropy``.

    Returns:
        ``correctness``, ``confidence``, ``entropy`` and ``m_entropy`` (B,), and ``prob`` (B, C).
    """
    p = logits.float().softmax(1)
    log_p = torch.where(p > 0, p, 1e-30).log()
    occurs = torch.isin(torch.arange(p.shape[1], device=p.device), labels)
    return {
        "correctness": (p.argmax(1) == labels).float(),
        "confidence": p.gather(1, labels[:, None]).squeeze(1),
        "entropy": -(p * log_p).sum(1),
        "m_entropy": -(torch.where(occurs, 1 - p, p) * log_p).sum(1),
        "prob": p,
    }


def class_balanced(labels: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """A random subset in which the classes are as equal in number as they can be.

    Args:
        labels: class indices (N,), on the CPU.
        size: how many to take; all where there are fewer.
        draw: the source of chance.

    Returns:
        Positions in ``labels``.
    """
    order = torch.randperm(len(labels), generator=draw)
    return order[_rank_in_class(labels[order]).argsort(stable=True)[:size]]


def class_matched(labels: Tensor, wanted: Tensor, draw: torch.Generator) -> Tensor:
    """The largest random subset in which classes have the shares that they have among ``wanted``.

    Classes that do not occur on both sides are left out.

    Args:
        labels: class indices (N,) to choose from, on the CPU.
        wanted: class indices (M,), on the CPU.
        draw: the source of chance.

    Returns:
        Positions in ``labels``; none where no class occurs on both sides.
    """
    width = len(torch.cat([labels, wanted]).bincount())
    there, goal = labels.bincount(minlength=width), wanted.bincount(minlength=width)
    both = (there > 0) & (goal > 0)
    if not both.any():
        return labels.new_empty(0)
    scarcest = (there / goal).where(both, torch.inf).argmin()
    quota = (goal * there[scarcest] // goal[scarcest]).where(both, 0)
    order = torch.randperm(len(labels), generator=draw)
    shuffled = labels[order]
    return order[_rank_in_class(shuffled) < quota[shuffled]].sort().values


def matched_halves(members: Tensor, non_members: Tensor, draw: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """The calibration half (even positions) and the evaluation half (odd ones) of a fair comparison.

    In each half the non-members have the members' class shares; members of a class that no non-member has are left out.

    Args:
        members: class indices (N,), on the CPU.
        non_members: class indices (M,), on the CPU.
        draw: the source of chance.

    Returns:
        For each half, positions in ``members`` and positions in ``non_members``.
    """
    halves = []
    for start in (0, 1):
        ours, theirs = members[start::2], non_members[start::2]
        matched = class_matched(theirs, ours, draw)
        comparable = torch.isin(ours, theirs[matched]).nonzero().flatten()
        halves.append((2 * comparable + start, 2 * matched + start))
    return halves


def _rank_in_class(labels: Tensor) -> Tensor:
    """How many samples of its class come before each sample."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    return torch.empty_like(labels).scatter(0, by_class, torch.arange(len(labels)) - first)


def svc_non_member_share(members: Tensor, non_members: Tensor, forget: Tensor) -> float:
    """Share of the forget samples that a support vector machine takes for non-members (rbf, C = 3, gamma auto).

    Args:
        members: signals of samples that the model was trained on, (n,) or (n, f).
        non_members: of samples that it never saw.
        forget: of the samples in question.

    Returns:
        A fraction; NaN where one of the three is empty.
    """
    from sklearn.svm import SVC

    if not (len(members) and len(non_members) and len(forget)):
        return math.nan
    known, asked = (x.cpu().reshape(len(x), -1).numpy() for x in (torch.cat([members, non_members]), forget))
    is_member = [1] * len(members) + [0] * len(non_members)
    machine = SVC(C=3, gamma="auto", kernel="rbf").fit(known, is_member)
    return float((machine.predict(asked) == 0).mean())


class Scores(NamedTuple):
    """Scores of members (n1,) and of non-members (n0,), on the CPU."""

    members: Tensor
    non_members: Tensor


def tpr_at_fpr(scores: Scores, level: float) -> float:
    """The largest share of members that a threshold finds at a share of false alarms of at most ``level``.

    NaN where there are fewer than 1/level non-members, too few for such a share, or no members.

    Args:
        scores: of members and non-members.
        level: between 0 and 1, both excluded.

    Raises:
        UsageError: if the level is out of range.
    """
    from sklearn.metrics import roc_curve

    check_fraction("level", level)
    if len(scores.non_members) < round(1 / level) or not len(scores.members):
        return math.nan
    fpr, tpr, _ = roc_curve(*_labelled(scores), drop_intermediate=False)
    return float(tpr[fpr <= level].max())


HELD_OUT_NUMBERS = ("auc", "tpr_at_1pct", "tpr_at_0.1pct", "balanced_accuracy", "direction")


def held_out_attack(calibration: Scores, evaluation: Scores, directed: bool = False) -> dict[str, float]:
    """An attack by threshold: direction and threshold are learnt on one half of the samples and scored on the other.

    Members are taken to score higher, unless in the calibration half they score lower by more than two standard errors
    of an AUC without any signal: chance would otherwise turn a weak signal round. The threshold has the best balanced
    accuracy there.

    Args:
        calibration: scores of one half.
        evaluation: scores of the other half.
        directed: takes members to score higher whatever the calibration half says, as of a likelihood ratio.

    Returns:
        ``auc``, ``tpr_at_1pct``, ``tpr_at_0.1pct`` and ``balanced_accuracy`` on the evaluation half, and ``direction``,
        -1 where members are taken to score lower and else 1. What is undefined is NaN.
    """
    from sklearn.metrics import roc_curve

    if not all(len(side) for half in (calibration, evaluation) for side in half):
        return dict.fromkeys(HELD_OUT_NUMBERS, math.nan)
    noise = math.sqrt(sum(1 / len(side) for side in calibration) / 12)
    direction = -1.0 if not directed and auc(*calibration) < 0.5 - 2 * noise else 1.0
    learn, test = (Scores(direction * half.members, direction * half.non_members) for half in (calibration, evaluation))
    fpr, tpr, thresholds = roc_curve(*_labelled(learn), drop_intermediate=False)
    threshold = thresholds[(tpr - fpr).argmax()]
    found, alarms = (float((side >= threshold).double().mean()) for side in test)
    rates = (tpr_at_fpr(test, level) for level in (0.01, 0.001))
    numbers = (auc(*test), *rates, (found + 1 - alarms) / 2, direction)
    return dict(zip(HELD_OUT_NUMBERS, numbers, strict=True))


def _labelled(scores: Scores) -> tuple[list[int], list[float]]:
    """Membership and scores of all samples, as scikit-learn takes them."""
    is_member = [1] * len(scores.members) + [0] * len(scores.non_members)
    return is_member, torch.cat([scores.members, scores.non_members]).tolist()
