"""The attacks. To add one: its file, one import here, its name in ``__all__``, one config."""

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.compression import Prune, Quantise
from lit_unlearn.attacks.detectability import DetectClasses, DetectSamples
from lit_unlearn.attacks.evaluation import Evaluation
from lit_unlearn.attacks.membership import SVCEfficacy, ThresholdMembership
from lit_unlearn.attacks.recovery import FeatureMapping, HeadRecovery
from lit_unlearn.attacks.reference_membership import ReferenceMembership
from lit_unlearn.attacks.relearn import Relearn
from lit_unlearn.attacks.target import Target

__all__ = [
    "Attack",
    "DetectClasses",
    "DetectSamples",
    "Evaluation",
    "FeatureMapping",
    "HeadRecovery",
    "Prune",
    "Quantise",
    "ReferenceMembership",
    "Relearn",
    "SVCEfficacy",
    "Target",
    "ThresholdMembership",
]
