"""What one attack finds out about one target, and a callback that keeps the results of a run."""

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_unlearn.attacks import Attack, Target
from lit_unlearn.attacks.measuring import run_attack
from lit_unlearn.results import Measurement, Results


def attacked(attack: Attack, target: Target) -> Measurement:
    """As a run measures it: with prefixes, without undefined numbers."""
    found = Measurement()
    run_attack(attack, target, found)
    return found


class Keeps(Callback):
    """Takes the results of every run."""

    def __init__(self) -> None:
        self.all: list[Results] = []

    def on_attacks_end(self, trainer: Trainer, pl_module: LightningModule, results: Results) -> None:
        self.all.append(results)

    @property
    def results(self) -> Results:
        """Those of the last run."""
        return self.all[-1]
