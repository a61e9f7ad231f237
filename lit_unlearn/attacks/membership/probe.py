"""Membership by a learned probe: does anything inside the network mark the forget set?

    P(forgotten | h(x)) = σ(w·h(x) + b)   h(x) the features, the logits and every stage's mean over its positions, each
                                          standardised; w by logistic regression with a ridge

Attacks on answers see what the logits of an image say of its class. A network may give an image the answer of Retrain
and keep, in a direction that its head does not read, that it was on the list: whoever has the list's other images finds
that direction. It is learnt on one half of the forget set and of unseen images of the same classes, and scored on the
other.

Threat model. The attacker holds the unlearned weights, half of the forget set and unseen images; no other model. The
probe is our own; a probe of hidden layers for membership is that of Nasr et al., arXiv 1812.00910.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.membership.signals import Scores, held_out_attack, matched_halves
from lit_unlearn.attacks.membership.single_model import MembershipAttack
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import check_at_least
from lit_unlearn.results import AttackResult


class MembershipProbe(MembershipAttack):
    """Separates forget samples from unseen samples of the same classes by all that the network computes of them.

    Args:
        penalty: weight of ‖w‖²/2 beside the sum of the losses, > 0.
        most: samples of each side at most, drawn by ``seed``.
        seed: of the draws.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    def __init__(self, penalty: float = 100.0, most: int = 5000, seed: int = 0, name: str = "probe") -> None:
        super().__init__(name, seed)
        check_at_least("penalty", penalty, 0, strict=True)
        check_at_least("most", most, 2)
        self.penalty, self.most = penalty, most

    def evaluate(self, target: Target) -> AttackResult:
        """AUC and the like on the evaluation half, see :func:`~.signals.held_out_attack`.

        The probe has learnt on other images which side is which: it has no direction, and an AUC below .5 is chance.
        """
        draw = torch.Generator().manual_seed(self.seed)
        sides = []
        for split in self.splits(target):
            count = len(target.data.labels(split))
            index = torch.randperm(count, generator=draw)[: self.most].sort().values
            sides.append(target.model.gather(split, index=index))
        halves = matched_halves(sides[0].labels.cpu(), sides[1].labels.cpu(), draw)
        forgotten, unseen = (_all_of(side) for side in sides)
        if not all(len(positions) for half in halves for positions in half):
            nothing = Scores(torch.empty(0), torch.empty(0))
            return _found(nothing, nothing)
        (ours, theirs), _ = halves
        scores = self._probe(forgotten[ours], unseen[theirs])
        learnt, held_out = (Scores(scores(forgotten[one]), scores(unseen[other])) for one, other in halves)
        return _found(learnt, held_out)

    def _probe(self, forgotten: Tensor, unseen: Tensor) -> Callable[[Tensor], Tensor]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        machine = LogisticRegression(C=1 / self.penalty, class_weight="balanced", max_iter=1000)
        kind = torch.cat([torch.ones(len(forgotten)), torch.zeros(len(unseen))])
        probe = make_pipeline(StandardScaler(), machine).fit(torch.cat([forgotten, unseen]).numpy(), kind.numpy())
        return lambda samples: torch.from_numpy(probe.decision_function(samples.numpy()))


def _all_of(side: Encoded) -> Tensor:
    """Features, logits and stages side by side, (N, …) in float64, on the CPU."""
    return torch.cat([side.features, side.logits, *side.stages.values()], 1).double().cpu()


def _found(learnt: Scores, held_out: Scores) -> AttackResult:
    numbers = held_out_attack(learnt, held_out, directed=True)
    return AttackResult({name: value for name, value in numbers.items() if name != "direction"})
