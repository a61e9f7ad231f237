"""Membership inference by what one model says: was the forget set trained on, and does the model still show it?

Threat model. The attacker sees the model's answers (logits) to images whose labels they know, some of which they know
to have been trained on or not; they hold no other model.

SVCEfficacy is the field's "MIA" column: a support vector machine learns to separate retained from test samples by p_y,
and the value is the share of forget samples that it calls non-members. It says nothing by itself: a class that was
never seen has a p_y like neither. Match Retrain; higher is not better.

ThresholdMembership separates forget samples from samples of the same classes that nobody trained on. Direction and
threshold are learnt on one half of the samples and scored on the other, so no direction is assumed: forget samples that
look *less* seen than unseen ones are found too. .5 is no memory, and Retrain's value is what chance gives.

Sources: Song and Mittal (arXiv 2003.10595) for the signals; Jia et al. (arXiv 2304.04934, code Unlearn-Sparse) and Fan
et al. (arXiv 2310.12508, code Unlearn-Saliency) for the SVC score. Deviations from their code, which ``legacy`` undoes:
members are drawn at random with balanced classes and are not the first of the training set; only p_y is scored.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.membership.signals import (
    SIGNALS,
    Scores,
    class_balanced,
    confidence,
    held_out_attack,
    matched_halves,
    published_signals,
    svc_non_member_share,
)
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import check_at_least, unknown
from lit_unlearn.results import AttackResult

FORGET = "forget"
Signal = Literal["loss", "confidence", "entropy", "m_entropy", "margin"]


class MembershipAttack(Attack):
    """Base of the family: skipped, with the reason, where a split that it reads has no samples.

    Args:
        name: metric name prefix.
        seed: of the subsets that it draws.
    """

    family: ClassVar[str] = "membership"

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name)
        self.seed = seed

    def splits(self, target: Target) -> Sequence[str]:
        """What it reads: the forget set, and unseen samples, which are of the forgotten classes if those are whole."""
        return (FORGET, "test_forget" if "test_forget" in target.data.split_names else "test_retain")

    def lacks(self, target: Target) -> str | None:
        """Why the attack cannot be run on a target: a split that it reads has no samples."""
        missing = [name for name in self.splits(target) if name not in target.data.split_names]
        return f"it needs samples in {' and '.join(missing)}" if missing else super().lacks(target)


class SVCEfficacy(MembershipAttack):
    """MIA-efficacy: the share of forget samples that a support vector machine takes for non-members.

    Members are a class-balanced random subset of the retained samples, non-members the test samples of the retained
    classes. There are as many of each: of the larger side a random subset, since a machine that is given few members
    among many others calls everything a non-member. Training is quadratic: 10,000 of each take 14 s on one core.

    Args:
        legacy: the published definition with its mistakes, to compare with papers: ``confidence`` is their MIA column,
            beside ``correctness``, ``entropy``, ``m_entropy`` and ``prob``. Members are the first of the training set.
        max_samples: how many of each are used at most; None for all.
        seed: of the subsets.
        name: metric name prefix; the average gap to Retrain reads ``svc``.

    Raises:
        UsageError: if ``max_samples`` is below 1.
    """

    def __init__(self, legacy: bool = False, max_samples: int | None = None, seed: int = 0, name: str = "svc") -> None:
        super().__init__(name, seed)
        if max_samples is not None:
            check_at_least("max_samples", max_samples, 1)
        self.legacy, self.max_samples = legacy, max_samples

    def splits(self, target: Target) -> Sequence[str]:
        """Retained, test and forget samples."""
        return ("retain", "test_retain", FORGET)

    def evaluate(self, target: Target) -> AttackResult:
        """``efficacy``, or with ``legacy`` the five of the published code; fractions."""
        members, non_members = (target.data.labels(split).cpu() for split in ("retain", "test_retain"))
        draw = torch.Generator().manual_seed(self.seed)
        count = min(len(members), len(non_members), self.max_samples or len(non_members))
        unseen = torch.randperm(len(non_members), generator=draw)[:count].sort().values
        seen = torch.arange(count) if self.legacy else class_balanced(members, count, draw)
        chosen = zip(self.splits(target), (seen, unseen, None), strict=True)
        sides = [target.model.gather(split, index=index, what=["logits"]) for split, index in chosen]
        if not self.legacy:
            return AttackResult({"efficacy": svc_non_member_share(*(confidence(s.logits, s.labels) for s in sides))})
        signals = [published_signals(side.logits, side.labels) for side in sides]
        return AttackResult({name: svc_non_member_share(*(side[name] for side in signals)) for name in signals[0]})


class ThresholdMembership(MembershipAttack):
    """Separates forget samples from unseen samples of the same classes by one signal.

    ``loss``, ``confidence`` and ``margin`` order samples alike, but for confidences that round to 1.

    Args:
        score: ``margin``, the log odds of the true class; ``loss``; ``confidence``; ``entropy``, which reads no label;
            ``m_entropy``, entropy that knows the label.
        seed: of the draw that matches classes.
        name: metric name prefix; the score by default.

    Raises:
        UsageError: for an unknown score.
    """

    def __init__(self, score: Signal = "margin", seed: int = 0, name: str | None = None) -> None:
        if score not in SIGNALS:
            raise unknown("membership score", score, SIGNALS)
        super().__init__(name or score, seed)
        self.score = score

    def evaluate(self, target: Target) -> AttackResult:
        """AUC and the like on the evaluation half, see :func:`~.signals.held_out_attack`."""
        sides = [target.model.gather(split, what=["logits"]) for split in self.splits(target)]
        members, non_members = (SIGNALS[self.score](side.logits, side.labels).cpu() for side in sides)
        draw = torch.Generator().manual_seed(self.seed)
        halves = matched_halves(sides[0].labels.cpu(), sides[1].labels.cpu(), draw)
        calibration, evaluation = (Scores(members[ours], non_members[theirs]) for ours, theirs in halves)
        return AttackResult(held_out_attack(calibration, evaluation))
