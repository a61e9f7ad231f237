"""Mathematics and streaming statistics that methods and attacks are measured by."""

from lit_unlearn.metrics.cka import LinearCKA
from lit_unlearn.metrics.detection import answer_statistics, auc
from lit_unlearn.metrics.effective_rank import effective_rank
from lit_unlearn.metrics.evaluation import SplitAccuracy
from lit_unlearn.metrics.information import balanced_mean, pointwise_information
from lit_unlearn.metrics.likelihood_ratio import lira_offline, lira_online, rmia_offline
from lit_unlearn.metrics.membership import held_out_attack, margin, modified_entropy
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
    "balanced_mean",
    "effective_rank",
    "held_out_attack",
    "lira_offline",
    "lira_online",
    "margin",
    "modified_entropy",
    "pointwise_information",
    "rmia_offline",
    "solve",
]
