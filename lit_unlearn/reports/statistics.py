"""Bounds on a difference between two groups of models that are measured on the same images.

Two things vary: the training of the models, and the images that happen to be measured.

    d    = mean(M) - mean(R)                              M_1 … M_k, R_1 … R_n one number of each model
    s²   = (ν₀ s₀² + Σ(M - M̄)² + Σ(R - R̄)²) / (ν₀ + k - 1 + n - 1)
    SE²  = (s² + w) (1/k + 1/n) + v                       v the sampling variance of the images
    ν    = (ν₀ + k + n - 2) · (SE² / (s² (1/k + 1/n)))²   Satterthwaite; v and w are taken as known

Few models say little on their deviation, so it is drawn towards a known one, s₀, that counts as ν₀ observations (the
moderated variance of Smyth, "Linear models and empirical Bayes methods", 2004). With one model on each side s₀ alone
counts. These bounds take the deviation to be that of both groups. They test whether M could be more models like R, only
shifted. Where the models of a method differ more than Retrains, their mean can be far from the true one by chance. So
where M deviates more beyond doubt (an F test), and for a bound that must hold however M deviates, it is the wider one
of these and Welch's, in which the deviation of M is its own:

    SE²  = s_M² / k + s_R² / n + v                        s_M² the variance of M alone, s_R² that of R drawn towards s₀²

With one model of the method there is no s_M, and its deviation is taken to be Retrain's.

Of few images each model varies more than is known, since it is right or wrong about each by itself: w is the variance
that s₀ lacks, 0 where there are as many images as it is known of.

The images count once: all models are measured on the same ones. That is a compromise. Of two groups that answer each
image alike the sampling errors cancel, and the bounds are too wide; where they are right about different images these
add up to 2 v, and the bounds are up to a third too narrow (docs/verdict.md has simulations).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_PRIOR_OBSERVATIONS = 4
"""ν₀: five Retrains and a known deviation then count alike."""

_PSEUDO = 2.0
"""Successes and failures that are added, so that a share of 0 or 1 has a variance (Agresti and Coull, 1998)."""

_MOST_SEEDS = 100

_BY_CHANCE = 0.05
"""The probability that a group is taken for one that deviates more, though it does not."""


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
        each: variance of one model by its luck with few images, w.
        own: s_M, between models of the first group; None where there is one.
        others: s_R, between models of the second group, drawn towards what is known.
    """

    mean: float
    deviation: float
    freedom: float
    ours: int
    theirs: int
    sampling: float
    own: float | None = None
    others: float = 0.0
    each: float = 0.0

    @property
    def error(self) -> float:
        """The standard error SE."""
        return math.sqrt((self.deviation**2 + self.each) * (1 / self.ours + 1 / self.theirs) + self.sampling)

    @property
    def varies_more(self) -> bool:
        """Whether the first group deviates more than the second one, drawn towards what is known, beyond doubt."""
        from scipy.special import fdtri

        if not self.own or self.ours < 2:
            return False
        freedom = self.ours - 1, _PRIOR_OBSERVATIONS + self.theirs - 1
        return self.own**2 > float(fdtri(*freedom, 1 - _BY_CHANCE)) * self.others**2

    def low(self, alpha: float) -> float:
        """A lower bound that is above the true difference with probability alpha, of groups that may vary alike."""
        return self.mean - (self._any if self.varies_more else self._alike)(alpha)

    def high(self, alpha: float) -> float:
        """An upper bound that is below the true difference with probability alpha, of groups that may vary alike."""
        return self.mean + (self._any if self.varies_more else self._alike)(alpha)

    def lowest(self, alpha: float) -> float:
        """A lower bound that holds for any deviation of the first group."""
        return self.mean - self._any(alpha)

    def highest(self, alpha: float) -> float:
        """An upper bound that holds for any deviation of the first group."""
        return self.mean + self._any(alpha)

    def of_images(self, alpha: float) -> float:
        """How far a mean is above its true value for the images alone, at most, but with probability alpha."""
        return math.sqrt(self.sampling) * _quantile(alpha, math.inf)

    def seeds_until(self, decided: Callable[["Difference"], bool]) -> int | None:
        """How many models of each group would decide, if mean and deviations stay as they are; None where none would.

        Args:
            decided: of the difference of so many models.
        """
        for count in range(max(self.ours, 1), _MOST_SEEDS + 1):
            n = max(count, self.theirs)
            found = replace(self, ours=count, theirs=n, freedom=self.freedom + count - self.ours + n - self.theirs)
            if decided(found):
                return count
        return None

    def _alike(self, alpha: float) -> float:
        training = self.deviation**2 * (1 / self.ours + 1 / self.theirs)
        freedom = self.freedom * (self.error**2 / training) ** 2 if training else math.inf
        return self.error * _quantile(alpha, freedom)

    def _any(self, alpha: float) -> float:
        return max(self._alike(alpha), self._welch(alpha))

    def _welch(self, alpha: float) -> float:
        if self.own is None:
            return 0.0
        ours, theirs = self.own**2 / self.ours, self.others**2 / self.theirs
        variance = ours + theirs + self.sampling
        doubt = ours**2 / (self.ours - 1) + theirs**2 / (_PRIOR_OBSERVATIONS + self.theirs - 1)
        return math.sqrt(variance) * _quantile(alpha, variance**2 / doubt if doubt else math.inf)


def difference(
    ours: Sequence[float], theirs: Sequence[float], known: float, sampling: float, each: float = 0.0
) -> Difference:
    """The difference of two groups of at least one model each.

    Args:
        ours: a number of each model.
        theirs: the same number of each model of the other group.
        known: s₀, the deviation between models that is known of such a number.
        sampling: v, the variance of a mean over the images.
        each: w, the variance of one model that the known deviation lacks.
    """
    means = [sum(group) / len(group) for group in (ours, theirs)]
    groups = zip((ours, theirs), means, strict=True)
    own, others = (sum((value - mean) ** 2 for value in group) for group, mean in groups)
    prior = _PRIOR_OBSERVATIONS * known**2
    freedom = _PRIOR_OBSERVATIONS + len(ours) + len(theirs) - 2
    return Difference(
        means[0] - means[1],
        math.sqrt((prior + own + others) / freedom),
        freedom,
        len(ours),
        len(theirs),
        sampling,
        math.sqrt(own / (len(ours) - 1)) if len(ours) > 1 else None,
        math.sqrt((prior + others) / (_PRIOR_OBSERVATIONS + len(theirs) - 1)),
        each,
    )


def share_variance(share: float, images: int) -> float:
    """Sampling variance of a share of images, above 0 for a share of 0 or 1 too.

    Args:
        share: in [0, 1].
        images: how many; with none the variance is that of one pseudo-image.
    """
    return one_share(share, images) / (images + 2 * _PSEUDO)


def one_share(share: float, images: int) -> float:
    """Variance of whether one image counts, above 0 for a share of 0 or 1 too; arguments as for the share's."""
    p = _shrunk(share, images)
    return p * (1 - p)


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


def _quantile(alpha: float, freedom: float) -> float:
    """How many standard errors Student's t exceeds with probability alpha."""
    from scipy.special import ndtri, stdtrit

    return -float(ndtri(alpha) if math.isinf(freedom) or freedom > 1e6 else stdtrit(freedom, alpha))
