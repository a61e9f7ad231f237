"""Classes as a user would write them, which tests name by their import path."""

from lit_unlearn.attacks import HeadRecovery
from lit_unlearn.backbones import Backbone
from lit_unlearn.methods import FineTune


class Mine(FineTune):
    """A method with an option."""

    def __init__(self, backbone: Backbone, weights: str | None = None, k: int = 1) -> None:
        super().__init__(backbone, weights)
        self.k = k


class Probe(HeadRecovery):
    """An attack that needs no arguments."""

    def __init__(self) -> None:
        super().__init__(name="own")


class Needs(HeadRecovery):
    """An attack that needs an argument."""

    def __init__(self, k: int) -> None:
        super().__init__(name=f"own-{k}")
