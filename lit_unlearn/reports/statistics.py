"""Bounds on a difference between two groups of models that are measured on the same images.

Two things vary: the training of the models, and the images that happen to be measured.

    d    = mean(M) - mean(R)                              M_1 … M_k, R_1 … R_n one number of each model
    s²   = (ν₀ s₀² + Σ(M - M̄)² + Σ(R - R̄)²) / (ν₀ + k - 1 + n - 1)
    SE²  = s² (1/k + 1/n) + v                             v the sampling variance of the images
    ν    = (ν₀ + k + n - 2) · (SE² / (SE² - v))²          Satterthwaite; v is taken as known

Few models say little on their deviation, so it is drawn towards a known one, s₀, that counts as ν₀ observations (the
moderated variance of Smyth, "Linear models and empirical Bayes methods", 2004). With one model on each side s₀ alone
counts. The images count once and not twice, because all models are measured on the same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_PRIOR_OBSERVATIONS = 4
"""ν₀: five Retrains and a known deviation then count alike."""

_PSEUDO = 2.0
"""Successes and failures that are added, so that a share of 0 or 1 has a variance (Agresti and Coull, 1998)."""

_MOST_SEEDS = 100


@dataclass(frozen=True)
class Difference:
    """How far the mean of one group is above that of another.

    Attributes:
        mean: the difference d.
        deviation: s, between models of a group.
        freedom: degrees of freedom of s.
        ours: models of the first group, k.
        theirs: models of the second group, n.
        sampling: variance of the images, v.
    """

    mean: float
    deviation: float
    freedom: float
    ours: int
    theirs: int
    sampling: float

    @property
    def error(self) -> float:
        """The standard error SE."""
        return _error(self, self.ours, self.theirs)

    def low(self, alpha: float) -> float:
        """A lower bound that is above the true difference with probability alpha."""
        return self.mean - self.error * _quantile(alpha, _satterthwaite(self, self.ours, self.theirs))

    def high(self, alpha: float) -> float:
        """An upper bound that is below the true difference with probability alpha."""
        return self.mean + self.error * _quantile(alpha, _satterthwaite(self, self.ours, self.theirs))

    def seeds_for(self, width: float, alpha_low: float, alpha_high: float) -> int | None:
        """How many models of each group make the bounds so near; None where no number does, for the images are few."""
        for count in range(max(self.ours, 1), _MOST_SEEDS + 1):
            others = max(count, self.theirs)
            freedom = _satterthwaite(self, count, others)
            spread = _quantile(alpha_low, freedom) + _quantile(alpha_high, freedom)
            if _error(self, count, others) * spread <= width:
                return count
        return None


def difference(ours: Sequence[float], theirs: Sequence[float], known: float, sampling: float) -> Difference:
    """The difference of two groups of at least one model each.

    Args:
        ours: a number of each model.
        theirs: the same number of each model of the other group.
        known: s₀, the deviation between models that is known of such a number.
        sampling: v, the variance of a mean over the images.
    """
    means = [sum(group) / len(group) for group in (ours, theirs)]
    groups = zip((ours, theirs), means, strict=True)
    squares = sum((value - mean) ** 2 for group, mean in groups for value in group)
    freedom = _PRIOR_OBSERVATIONS + len(ours) + len(theirs) - 2
    variance = (_PRIOR_OBSERVATIONS * known**2 + squares) / freedom
    return Difference(means[0] - means[1], math.sqrt(variance), freedom, len(ours), len(theirs), sampling)


def share_variance(share: float, images: int) -> float:
    """Sampling variance of a share of images, above 0 for a share of 0 or 1 too.

    Args:
        share: in [0, 1].
        images: how many; with none the variance is that of one pseudo-image.
    """
    p = _shrunk(share, images)
    return p * (1 - p) / (images + 2 * _PSEUDO)


def auc_variance(auc: float, positives: int, negatives: int) -> float:
    """Sampling variance of an area under the ROC curve (Hanley and McNeil, 1982), above 0 for an area of 1 too.

    Args:
        auc: in [0, 1].
        positives: images of one kind.
        negatives: images of the other kind.
    """
    a, more, others = _shrunk(auc, min(positives, negatives)), max(positives, 1), max(negatives, 1)
    both, either = a / (2 - a) - a * a, 2 * a * a / (1 + a) - a * a
    return (a * (1 - a) + (more - 1) * both + (others - 1) * either) / (more * others)


def _shrunk(share: float, images: int) -> float:
    return (share * images + _PSEUDO) / (images + 2 * _PSEUDO)


def _error(found: Difference, ours: int, theirs: int) -> float:
    return math.sqrt(found.deviation**2 * (1 / ours + 1 / theirs) + found.sampling)


def _satterthwaite(found: Difference, ours: int, theirs: int) -> float:
    training = found.deviation**2 * (1 / ours + 1 / theirs)
    freedom = found.freedom + ours - found.ours + theirs - found.theirs
    return freedom * ((training + found.sampling) / training) ** 2 if training else math.inf


def _quantile(alpha: float, freedom: float) -> float:
    """How many standard errors Student's t exceeds with probability alpha."""
    from scipy.special import ndtri, stdtrit

    return -float(ndtri(alpha) if math.isinf(freedom) or freedom > 1e6 else stdtrit(freedom, alpha))
