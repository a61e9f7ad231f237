"""Mathematics and streaming statistics that methods and attacks are measured by."""

from lit_unlearn.metrics.cka import LinearCKA
from lit_unlearn.metrics.detection import answer_statistics, auc
from lit_unlearn.metrics.effective_rank import effective_rank
from lit_unlearn.metrics.evaluation import SplitAccuracy
from lit_unlearn.metrics.normal_equations import LinearMap, Moments, NormalEquations, solve
from lit_unlearn.metrics.relative_change import relative_change, weight_distance
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
    "effective_rank",
    "relative_change",
    "solve",
    "weight_distance",
]
