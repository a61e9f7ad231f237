"""Membership inference: was the forget set trained on, and does the model still show it?"""

from lit_unlearn.attacks.membership.forgetting_quality import ForgettingQuality
from lit_unlearn.attacks.membership.klom import KLoM
from lit_unlearn.attacks.membership.probe import MembershipProbe
from lit_unlearn.attacks.membership.reference import ReferenceMembership
from lit_unlearn.attacks.membership.single_model import MembershipAttack, SVCEfficacy, ThresholdMembership

__all__ = [
    "ForgettingQuality",
    "KLoM",
    "MembershipAttack",
    "MembershipProbe",
    "ReferenceMembership",
    "SVCEfficacy",
    "ThresholdMembership",
]
