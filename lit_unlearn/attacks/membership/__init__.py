"""Membership inference: was the forget set trained on, and does the model still show it?"""

from lit_unlearn.attacks.membership.reference import ReferenceMembership
from lit_unlearn.attacks.membership.single_model import MembershipAttack, SVCEfficacy, ThresholdMembership

__all__ = ["MembershipAttack", "ReferenceMembership", "SVCEfficacy", "ThresholdMembership"]
