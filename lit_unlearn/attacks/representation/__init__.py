"""What unlearning did to the inside of a network: similarity, spread, information and a map."""

from lit_unlearn.attacks.representation.distance import Distance
from lit_unlearn.attacks.representation.feature_map import FeatureMap
from lit_unlearn.attacks.representation.grafting import Grafting
from lit_unlearn.attacks.representation.idi import IDI
from lit_unlearn.attacks.representation.stages import Representation

__all__ = ["IDI", "Distance", "FeatureMap", "Grafting", "Representation"]
