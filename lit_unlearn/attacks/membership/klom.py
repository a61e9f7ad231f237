"""KLoM: per sample, how far the margins of N unlearned models are from those of N Retrains (arXiv 2410.23232).

KLoM(x) = KL(P ‖ Q), P and Q the histograms of the margin φ(x) over the unlearned models and over the Retrains, with 20
equal bins over their common range. It judges a method, since one model has no distribution. 0 on all splits: nobody can
tell the models apart by what they say of single images; large on retained images alone: utility is lost.

Source: data-unlearning-bench, unlearning_bench/eval.py:80-130, with N = 100 (unlearning_bench/config.py:93).
Deviation: the largest margin of all counts in the last bin, where that code drops it.

With few models most bins are empty, and KLoM of two sets of Retrains is far from 0: on normal margins 3.1 nats with 20
models on each side, .9 with 50, .4 with 100. One standard deviation of difference (.5 nats) then reads 4.0, 2.0, 1.2.
So Retrain's own value, at the same number of models, belongs beside it, and ``models`` is 20 unless it is set.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_unlearn.attacks.membership.ensemble import EnsembleAttack, log_odds
from lit_unlearn.attacks.membership.single_model import FORGET
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import UsageError
from lit_unlearn.results import AttackResult

BINS = 20
SMALLEST_SHARE = 1e-5
"""What a bin without any Retrain counts as, so that the divergence stays finite."""
LARGEST_MARGIN = 100.0

_OPTIONAL = ("validation", "test_forget")


def klom(unlearned: Tensor, retrained: Tensor, bins: int = BINS, smallest: float = SMALLEST_SHARE) -> Tensor:
    """KL(P ‖ Q) between histograms of each column, in nats.

    Args:
        unlearned: margins of the models to judge, (m, N); beyond ±100 they count as ±100.
        retrained: margins of Retrains, (k, N).
        bins: of each histogram, over the range of both.
        smallest: share of a bin that has models on the side of P alone.

    Returns:
        (N,), float64.

    Raises:
        UsageError: if the shapes do not fit.
    """
    if unlearned.ndim != 2 or retrained.ndim != 2 or unlearned.shape[1] != retrained.shape[1]:
        shapes = f"{tuple(unlearned.shape)} and {tuple(retrained.shape)}"
        raise UsageError(f"margins have shapes {shapes}: expected (m, N) and (k, N)")
    sides = [side.double().clamp(-LARGEST_MARGIN, LARGEST_MARGIN) for side in (unlearned, retrained)]
    both = torch.cat(sides)
    low, high = both.amin(0), both.amax(0)
    width = torch.where(high > low, high - low, 1.0) / bins
    p, q = (_shares(((side - low) / width).long().clamp(max=bins - 1), bins) for side in sides)
    q = torch.where(p > 0, q.clamp(min=smallest), q)
    found: Tensor = torch.special.xlogy(p, p / (q / q.sum(0)).where(p > 0, 1.0)).sum(0)
    return found


def _shares(bin_of: Tensor, bins: int) -> Tensor:
    """Share of the models in each bin, (bins, N), of their bins (m, N)."""
    counts = torch.zeros(bins, bin_of.shape[1], dtype=torch.float64)
    return counts.scatter_add(0, bin_of, torch.ones_like(bin_of, dtype=torch.float64)) / len(bin_of)


class KLoM(EnsembleAttack):
    """KLoM of the method on forgotten, retained and unseen images.

    Args:
        models: fewest models on each side, by default as many as there are bins; the released code has 100.
        name: metric name prefix.

    Raises:
        UsageError: if ``models`` is below 2.
    """

    def __init__(self, models: int = BINS, name: str = "klom") -> None:
        super().__init__(name, models)

    def splits(self, target: Target) -> Sequence[str]:
        """Forgotten, retained and test samples, and where they are there those held out or of forgotten classes."""
        return (FORGET, "retain", "test_retain", *(name for name in _OPTIONAL if name in target.data.split_names))

    def evaluate(self, target: Target) -> AttackResult:
        """``<split>_mean``, ``<split>_median`` and ``<split>_p95`` in nats, and the number of ``models`` a side."""
        judged, retrained = self.sides(target)
        numbers = {"models": float(len(judged))}
        for split in self.splits(target):
            found = klom(log_odds(judged, split), log_odds(retrained, split))
            middle, high = torch.quantile(found, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
            numbers |= {f"{split}_mean": float(found.mean()), f"{split}_median": middle, f"{split}_p95": high}
        return AttackResult(numbers)
