"""The attacks. To add one: its file, one import here, its name in ``__all__``, one config."""

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.evaluation import Evaluation
from lit_unlearn.attacks.recovery import FeatureMapping, HeadRecovery
from lit_unlearn.attacks.target import Target

__all__ = ["Attack", "Evaluation", "FeatureMapping", "HeadRecovery", "Target"]
