"""How well a model remembers and forgets: exact accuracy, and the field's scores derived from it.

Accuracies are fractions under the names of a result row (``forget_acc``, ``retain_acc``, ``test_retain_acc``), and so
is the efficacy of membership inference (``membership/svc/efficacy``, among the row's attacks); scores are in percent,
as the papers print them. What is unknown is absent, never 0.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_unlearn.errors import UsageError, check_fraction

MIA_EFFICACY = "membership/svc/efficacy"
"""Where a result row keeps the share of forget samples that the field's attack takes for non-members."""


class SplitAccuracy(Metric):
    """Accuracy over one split, counted in integers, so that it is exact across batches and ranks.

    torchmetrics' own accuracy says 0 for a split without samples and float32 for the rest; here an empty split is
    undefined.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        """Starts from no samples."""
        super().__init__()
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch, which may be empty.

        Args:
            logits: scores (B, C); a row that holds NaN is no answer and counts as wrong.
            labels: class indices (B,).

        Raises:
            UsageError: if the shapes do not fit.
        """
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
            raise UsageError(f"logits and labels have shapes {shapes}: expected (B, C) and (B,)")
        hits = (logits.argmax(1) == labels) & ~logits.isnan().any(1)
        self.correct = self.correct + hits.sum()
        self.total = self.total + len(labels)

    def compute(self) -> Tensor:
        """The share of correct answers, float64, shape (); NaN without samples."""
        return self.correct.double() / self.total

    @property
    def value(self) -> float | None:
        """The share of correct answers, or None without samples; read it on every rank."""
        accuracy = float(self.compute())
        return None if math.isnan(accuracy) else accuracy


def unlearning_scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """The field's scores in percent: UA = 100 - forget accuracy, RA, TA on the retained classes, and MIA efficacy.

    Args:
        metrics: numbers of a row (``row.metrics | row.attacks``) as fractions; what is missing or NaN leaves its score
            out.

    Raises:
        UsageError: if one is outside [0, 1].
    """
    names = ("forget_acc", "retain_acc", "test_retain_acc", MIA_EFFICACY)
    forget, retain, test, efficacy = (_fraction(metrics, name) for name in names)
    scores = {
        "UA": None if forget is None else 100 - 100 * forget,
        "RA": None if retain is None else 100 * retain,
        "TA": None if test is None else 100 * test,
        "MIA": None if efficacy is None else 100 * efficacy,
    }
    return {name: score for name, score in scores.items() if score is not None}


def gap_to_retrain(metrics: Mapping[str, float], retrain: Mapping[str, float]) -> dict[str, float]:
    """Distance to the model that never saw the forget set, in percentage points: lower is better.

    Args:
        metrics: numbers of the unlearned model, as fractions, see :func:`unlearning_scores`.
        retrain: those of the retrained model.

    Returns:
        |ΔUA|, |ΔRA|, |ΔTA| and |ΔMIA| under ``UA``, ``RA``, ``TA`` and ``MIA``, each where both models have it, and
        ``mean`` of them where the three accuracies are known: the papers' "Avg. gap", of four where MIA is known too.

    Raises:
        UsageError: if a number is outside [0, 1].
    """
    ours, theirs = unlearning_scores(metrics), unlearning_scores(retrain)
    gaps = {name: abs(ours[name] - theirs[name]) for name in ours if name in theirs}
    return {**gaps, "mean": sum(gaps.values()) / len(gaps)} if gaps.keys() >= {"UA", "RA", "TA"} else gaps


def tow(metrics: Mapping[str, float], retrain: Mapping[str, float]) -> float | None:
    """Tug of war, (1 - |ΔUA|)(1 - |ΔRA|)(1 - |ΔTA|) on fractions: 1 is a perfect match with Retrain (arXiv 2406.01257).

    Args:
        metrics: accuracies of the unlearned model, as fractions.
        retrain: those of the retrained model.

    Returns:
        A number in [0, 1], or None where one of the six accuracies is unknown.

    Raises:
        UsageError: if an accuracy is outside [0, 1].
    """
    gaps = gap_to_retrain(metrics, retrain)
    if "mean" not in gaps:
        return None
    return math.prod(1 - gaps[name] / 100 for name in ("UA", "RA", "TA"))


def _fraction(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(name)
    if value is None or math.isnan(value):
        return None
    check_fraction(name, value, zero=True, one=True)
    return value
