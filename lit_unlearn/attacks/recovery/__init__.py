"""Training-free recovery: what can still be read out of the features of an unlearned model, and how easily?"""

from lit_unlearn.attacks.recovery.answers import MaskedAnswers
from lit_unlearn.attacks.recovery.base import Calibration, Layers, Normalisation, Recovery
from lit_unlearn.attacks.recovery.linear import FeatureMapping, HeadRecovery, LinearRecovery, StageRecovery
from lit_unlearn.attacks.recovery.readouts import (
    CapacityRecovery,
    ForgetProbe,
    KNNRecovery,
    LinearDiscriminant,
    NearestMean,
)
from lit_unlearn.attacks.recovery.spatial import SpatialRecovery
from lit_unlearn.attacks.recovery.transformed import TRANSFORMS, TransformedRecovery
from lit_unlearn.attacks.recovery.worst import WorstRecovery

__all__ = [
    "TRANSFORMS",
    "Calibration",
    "CapacityRecovery",
    "FeatureMapping",
    "ForgetProbe",
    "HeadRecovery",
    "KNNRecovery",
    "Layers",
    "LinearDiscriminant",
    "LinearRecovery",
    "MaskedAnswers",
    "NearestMean",
    "Normalisation",
    "Recovery",
    "SpatialRecovery",
    "StageRecovery",
    "TransformedRecovery",
    "WorstRecovery",
]
