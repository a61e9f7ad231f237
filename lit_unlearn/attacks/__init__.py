"""The attacks. To add one: its file, one import here, its name in ``__all__``, one config."""

from lit_unlearn.attacks.adaptive_relearn import AdaptiveRelearn
from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.compression import Prune, Quantise
from lit_unlearn.attacks.detectability import DetectClasses, DetectSamples
from lit_unlearn.attacks.evaluation import Evaluation
from lit_unlearn.attacks.inversion import GradientInversion
from lit_unlearn.attacks.membership import (
    ForgettingQuality,
    KLoM,
    MembershipProbe,
    ReferenceMembership,
    SVCEfficacy,
    ThresholdMembership,
)
from lit_unlearn.attacks.perturbation import PerturbedImages
from lit_unlearn.attacks.recovery import (
    CapacityRecovery,
    FeatureMapping,
    ForgetProbe,
    HeadRecovery,
    KNNRecovery,
    LinearDiscriminant,
    MaskedAnswers,
    NearestMean,
    SpatialRecovery,
    StageRecovery,
    TransformedRecovery,
    WorstRecovery,
)
from lit_unlearn.attacks.relearn import Relearn
from lit_unlearn.attacks.representation import IDI, Distance, FeatureMap, Grafting, Representation
from lit_unlearn.attacks.retrain import OwnRetrain
from lit_unlearn.attacks.target import Target
from lit_unlearn.attacks.universal import UniversalPerturbation
from lit_unlearn.results import AttackResult

__all__ = [
    "IDI",
    "AdaptiveRelearn",
    "Attack",
    "AttackResult",
    "CapacityRecovery",
    "DetectClasses",
    "DetectSamples",
    "Distance",
    "Evaluation",
    "FeatureMap",
    "FeatureMapping",
    "ForgetProbe",
    "ForgettingQuality",
    "GradientInversion",
    "Grafting",
    "HeadRecovery",
    "KLoM",
    "KNNRecovery",
    "LinearDiscriminant",
    "MaskedAnswers",
    "MembershipProbe",
    "NearestMean",
    "OwnRetrain",
    "PerturbedImages",
    "Prune",
    "Quantise",
    "ReferenceMembership",
    "Relearn",
    "Representation",
    "SVCEfficacy",
    "SpatialRecovery",
    "StageRecovery",
    "Target",
    "ThresholdMembership",
    "TransformedRecovery",
    "UniversalPerturbation",
    "WorstRecovery",
]
