"""The score of the NeurIPS 2023 unlearning challenge: forgetting quality F, times what is kept of utility.

For each forgotten image an attacker tells unlearned models from Retrains by the log odds φ of the image, with the best
of two kinds of rule: φ is above a threshold; φ lies in an interval about the narrower of the two distributions. With
rates FPR and FNR over models,

    ε(x) = max over rules of max(log(1 - δ - FPR) - log FNR, log(1 - δ - FNR) - log FPR),    δ = 1e-5
    F = mean over x of H(ε),    H = 2^-k in [k/2, (k + 1)/2), and 0 beyond what so many models can show
    score = F · (RA_unlearned / RA_retrain) · (TA_unlearned / TA_retrain)

Source: arXiv 2406.09073; google-deepmind/unlearning_evaluation, metric.py:24-348 and main.py:337, with 512 models a
side (main.py:52). Deviations: every rule that separates models is tried, where that code tries a grid of thresholds .01
apart; where no rule is left ε is 0, where that code stops. The interval of a value is ± 1.96 standard deviations over
bootstrap samples of the models on both sides; forget images are the same in all. Percentiles would lie too low: models
that were drawn twice are easier to separate.

The best rule is chosen on the models that it is scored on, so F of Retrain itself is no 1: on log odds with a standard
deviation of 1 it is about .18, for 10 as for 128 models. Retrain's own value belongs beside it. ``models`` is 20 unless
it is set: with 20 the interval is ± a sixth of F where images are independent, and ± half of it where models err on all
images alike.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_unlearn.attacks.membership.ensemble import EnsembleAttack, accuracies, log_odds
from lit_unlearn.attacks.membership.likelihood_ratio import median
from lit_unlearn.attacks.membership.single_model import FORGET
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.results import AttackResult

DELTA = 1e-5
LARGEST_EPSILON = 50.0
BUCKET = 0.5
REACH = 2.0
"""How far beyond the narrower distribution's ends the ends of an interval may lie, in units of φ."""
PEAKED = 0.01
"""A range below this share of the other's is a distribution that anybody recognises."""
LEAST_MODELS = 20

_AT_ONCE = 2**22
_KEPT = ("retain", "test_retain")
_NAMES = ("score", "forgetting", "retain_ratio", "test_ratio")


def epsilons(unlearned: Tensor, retrained: Tensor, delta: float = DELTA) -> Tensor:
    """ε of each image: how well the best rule separates two sets of models by their log odds of it.

    Args:
        unlearned: φ of m ≥ 2 models, (m, N).
        retrained: φ of k ≥ 2 Retrains, (k, N).
        delta: of (ε, δ)-unlearning.

    Returns:
        (N,) in [0, 50], float64.

    Raises:
        UsageError: if the shapes do not fit.
    """
    if unlearned.ndim != 2 or retrained.shape[1:] != unlearned.shape[1:] or min(len(unlearned), len(retrained)) < 2:
        shapes = f"{tuple(unlearned.shape)} and {tuple(retrained.shape)}"
        raise UsageError(f"log odds have shapes {shapes}: expected (m, N) and (k, N) with m and k at least 2")
    known = _epsilon_of_errors(len(unlearned), len(retrained), delta)
    size = max(1, _AT_ONCE // (len(unlearned) + len(retrained) + 1) ** 2)
    pieces = (slice(start, start + size) for start in range(0, unlearned.shape[1], size))
    return torch.cat([_Cuts(unlearned[:, each].double(), retrained[:, each].double()).best(known) for each in pieces])


class _Cuts:
    """The places between the sorted log odds of all models, where a rule may begin or end.

    Args:
        unlearned: (m, N).
        retrained: (k, N).

    Attributes:
        low: largest value below each place, (m + k + 1, N), -inf below the first.
        high: smallest value above it.
        below: how many unlearned models and how many Retrains lie below it.
    """

    def __init__(self, unlearned: Tensor, retrained: Tensor) -> None:
        self.sides = unlearned, retrained
        values, order = torch.cat(self.sides).sort(0)
        ours = order < len(unlearned)
        none = torch.zeros(1, values.shape[1], dtype=torch.long)
        self.below = tuple(torch.cat([none, each.long().cumsum(0)]) for each in (ours, ~ours))
        beyond = torch.full((1, values.shape[1]), math.inf, dtype=values.dtype)
        self.low, self.high = torch.cat([-beyond, values]), torch.cat([values, beyond])
        self.there = self.high > self.low  # no rule separates equal values

    def best(self, known: Tensor) -> Tensor:
        """The largest ε of all rules, (N,); ``known`` is that of :func:`_epsilon_of_errors`."""
        ranges = [side.amax(0) - side.amin(0) for side in self.sides]
        largest, smallest = torch.maximum(*ranges), torch.minimum(*ranges)
        higher = median(self.sides[0]) >= median(self.sides[1])
        found = torch.maximum(self._above(known, higher), self._inside(known, ranges[0] < ranges[1], smallest))
        return torch.where(smallest < PEAKED * largest, LARGEST_EPSILON, found)

    def _above(self, known: Tensor, unlearned_is_higher: Tensor) -> Tensor:
        """Of the rules that call what is above a threshold the side with the larger median."""
        (m, k), (ours, theirs) = map(len, self.sides), self.below
        errors = torch.where(unlearned_is_higher, ours, m - ours), torch.where(unlearned_is_higher, k - theirs, theirs)
        return known[errors].where(self.there, 0.0).amax(0)

    def _inside(self, known: Tensor, unlearned_is_narrow: Tensor, width: Tensor) -> Tensor:
        """Of the rules that call what is inside of an interval the narrower side."""
        m, k = map(len, self.sides)
        i, j = torch.triu_indices(len(self.low), len(self.low), 1)
        ours, theirs = (below[j] - below[i] for below in self.below)
        top = torch.where(unlearned_is_narrow, self.sides[0].amax(0), self.sides[1].amax(0))
        # The right end lies within REACH of the narrower side's largest value, the left end within REACH of one width
        # further down.
        first, last = torch.maximum(self.low[j], top - REACH), torch.minimum(self.high[j], top + REACH)
        near = (self.low[j] <= top + REACH) & (self.high[j] > top - REACH)
        near &= (self.high[i] >= first - width - REACH) & (self.low[i] < last - width + REACH)
        errors = torch.where(unlearned_is_narrow, m - ours, ours), torch.where(unlearned_is_narrow, theirs, k - theirs)
        return known[errors].where(near & self.there[i] & self.there[j], 0.0).amax(0)


def _epsilon_of_errors(m: int, k: int, delta: float) -> Tensor:
    """ε of a rule that is wrong about a of m models on one side and b of k on the other, (m + 1, k + 1).

    Without any error it is the largest. Without errors on one side alone there are too few models to say, so it is 0.
    """
    one, other = torch.arange(m + 1).double()[:, None] / m, torch.arange(k + 1).double()[None] / k
    ways = (1 - delta - one).log() - other.log(), (1 - delta - other).log() - one.log()
    found = torch.fmax(*ways).nan_to_num(nan=0.0).clamp(0, LARGEST_EPSILON)
    perfect = (one == 0).long() + (other == 0).long()
    return torch.where(perfect == 2, LARGEST_EPSILON, torch.where(perfect == 1, 0.0, found))


def forgetting_quality(epsilon: Tensor, models: int) -> float:
    """F: the mean of 2^-k over images with ε in [k/2, (k + 1)/2), where buckets end at ⌈log(models - 1)⌉.

    Args:
        epsilon: (N,).
        models: on each side.
    """
    bucket = (epsilon / BUCKET).floor()
    return float(torch.where((bucket + 1) * BUCKET <= math.ceil(math.log(models - 1)), 0.5**bucket, 0.0).mean())


class ForgettingQuality(EnsembleAttack):
    """The challenge's score of the method, with intervals over models.

    Args:
        models: fewest models on each side; the challenge has 512.
        bootstrap: samples of models for the intervals. A sample costs N·(2·models)² steps for N forget images: with 20
            models and 1,000 images a tenth of a second, with 512 about a minute.
        seed: of these samples.
        name: metric name prefix.

    Raises:
        UsageError: if ``models`` is below 3 or ``bootstrap`` below 2.
    """

    def __init__(
        self, models: int = LEAST_MODELS, bootstrap: int = 100, seed: int = 0, name: str = "forgetting_quality"
    ) -> None:
        super().__init__(name, models, seed)
        check_at_least("models", models, 3)
        check_at_least("bootstrap", bootstrap, 2)
        self.bootstrap = bootstrap

    def splits(self, target: Target) -> Sequence[str]:
        """Forgotten samples, and for utility retained and test samples."""
        return (FORGET, *_KEPT)

    def evaluate(self, target: Target) -> AttackResult:
        """``score``, ``forgetting``, ``retain_ratio`` and ``test_ratio``, each with ``_low`` and ``_high``.

        Beside them ``epsilon_median`` over images, and the number of ``models`` a side.
        """
        sides = self.sides(target)
        odds = [log_odds(side, FORGET) for side in sides]
        kept = [torch.stack([accuracies(side, split) for split in _KEPT]) for side in sides]
        epsilon = epsilons(odds[0], odds[1])
        numbers = {"models": float(len(odds[0])), "epsilon_median": float(epsilon.median())}
        values = _values(epsilon, kept, len(odds[0]))
        spread = torch.stack(self._resampled(odds, kept)).std(0)
        for name, value, error in zip(_NAMES, values, spread, strict=True):
            numbers[name] = float(value)
            numbers[f"{name}_low"] = max(0.0, float(value - 1.96 * error))
            numbers[f"{name}_high"] = float(value + 1.96 * error)
        return AttackResult(numbers)

    def _resampled(self, odds: list[Tensor], kept: list[Tensor]) -> list[Tensor]:
        """The values on models that are drawn with replacement, each side by itself."""
        draw = torch.Generator().manual_seed(self.seed)
        count, found = len(odds[0]), []
        for _ in range(self.bootstrap):
            ours, theirs = (torch.randint(count, (count,), generator=draw) for _ in odds)
            accuracy = [kept[0][:, ours], kept[1][:, theirs]]
            found.append(_values(epsilons(odds[0][ours], odds[1][theirs]), accuracy, count))
        return found


def _values(epsilon: Tensor, kept: list[Tensor], models: int) -> Tensor:
    """Score, F, and the ratios of mean accuracy on retained and on test images, (4,)."""
    quality = torch.tensor(forgetting_quality(epsilon, models), dtype=torch.float64)
    ratios = kept[0].mean(1) / kept[1].mean(1)
    return torch.stack([quality * ratios.prod(), quality, *ratios])
