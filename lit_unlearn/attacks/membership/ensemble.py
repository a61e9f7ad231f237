"""Scores of a method and not of one model: many models of it beside many Retrains, all from the pool."""

from typing import NamedTuple

import torch
from torch import Tensor

from lit_unlearn.attacks.membership.answers import Answers, answers_of, other_models
from lit_unlearn.attacks.membership.single_model import MembershipAttack
from lit_unlearn.attacks.pool import Pool
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import check_at_least

Ensemble = list[dict[str, Answers]]


class Sides(NamedTuple):
    """Equally many models to judge and Retrains, each with its answers by split."""

    judged: Ensemble
    retrained: Ensemble


class EnsembleAttack(MembershipAttack):
    """Base of what compares two sets of models.

    Beside the unlearned model stand the pool's models of the same method, beside Original the pool's Originals.
    Retrain's value is that of one half of the Retrains beside the other: what chance gives for so many models. Few
    models look more different than many, so where Retrain's value can be had, all have as many models as it has.

    Args:
        name: metric name prefix.
        models: fewest models on each side; with fewer in the pool the score is left out.
        seed: of what is drawn.
    """

    def __init__(self, name: str, models: int, seed: int = 0) -> None:
        super().__init__(name, seed)
        check_at_least("models", models, 2)
        self.models = models

    def lacks(self, target: Target) -> str | None:
        """Why the score cannot be had for a target, or None."""
        if target.pool is None:
            return f"it needs a pool with at least {self.models} models of each kind: name a folder in evaluation.pool"
        if target.subject == "retrain":
            if len(target.pool.retrains) < 2 * self.models:
                has = len(target.pool.retrains)
                return f"it needs at least {2 * self.models} Retrains, two times {self.models}, but the pool has {has}"
            return super().lacks(target)
        counts = len(self._kin(target)), len(target.pool.retrains)
        if min(counts) < self.models:
            kind = "Originals" if target.model is target.original else f"unlearned models of {target.pool.method}"
            return (
                f"it needs at least {self.models} {kind} and {self.models} Retrains, but the pool has {counts[0]} and "
                f"{counts[1]}"
            )
        return super().lacks(target)

    def sides(self, target: Target) -> Sides:
        """The models to judge, with the target's own, and the Retrains; equally many, so that noise is alike."""
        assert target.pool is not None
        splits = self.splits(target)
        own = answers_of(target.model, splits)
        retrained = other_models(target, target.pool.retrains, own, splits)
        if target.subject == "retrain":
            every = [own, *retrained]
            judged, retrained = every[::2], every[1::2]
        else:
            judged = [own, *other_models(target, self._kin(target), own, splits)]
        count = min(len(judged), len(retrained), self._most(target.pool))
        return Sides(judged[:count], retrained[:count])

    def _most(self, pool: Pool) -> int:
        """The most models on a side that both Retrain and the unlearned model can have."""
        counts = [len(pool.unlearned), len(pool.retrains) // 2]
        return min((count for count in counts if count >= self.models), default=len(pool.retrains))

    def _kin(self, target: Target) -> tuple[str, ...]:
        """The pool's models that were made as the target's was."""
        assert target.pool is not None
        return target.pool.originals if target.model is target.original else target.pool.unlearned


def log_odds(side: Ensemble, split: str) -> Tensor:
    """φ of every model and sample, (models, N)."""
    return torch.stack([answers[split].phi for answers in side])


def accuracies(side: Ensemble, split: str) -> Tensor:
    """Accuracy of every model, (models,)."""
    return torch.stack([answers[split].correct.double().mean() for answers in side])
