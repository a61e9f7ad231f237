"""Mathematics and streaming statistics that methods and attacks are measured by."""

from lit_unlearn.metrics.cka import LinearCKA
from lit_unlearn.metrics.contraction import contraction_loss, effective_rank, entropy_floor, per_dimension_variance
from lit_unlearn.metrics.detection import answer_statistics, auc
from lit_unlearn.metrics.evaluation import SplitAccuracy, gap_to_retrain, tow, unlearning_scores
from lit_unlearn.metrics.normal_equations import LinearMap, Moments, NormalEquations, solve
from lit_unlearn.metrics.spread import Spread

__all__ = [
    "LinearCKA",
    "LinearMap",
    "Moments",
    "NormalEquations",
    "SplitAccuracy",
    "Spread",
    "answer_statistics",
    "auc",
    "contraction_loss",
    "effective_rank",
    "entropy_floor",
    "gap_to_retrain",
    "per_dimension_variance",
    "solve",
    "tow",
    "unlearning_scores",
]
