"""Membership inference with reference models: RMIA (arXiv 2312.03262), LiRA (arXiv 2112.03570), U-LiRA (2403.01218).

Threat model. The attacker sees logits of the model, knows the labels, and can train models of their own: OUT models
without the forget set (Retrain with other seeds), and for two methods also IN models, which saw it: Originals, or
models that unlearned it by the same method. That is the strongest attacker of the family: what any model finds easy
counts for nothing.

    rmia         ratio(x) = p(x) / ((1 + a)/2 · mean_out(x) + (1 - a)/2),  score = Pr_z[ratio(x) ≥ γ ratio(z)]
    lira         score = (φ - median_out)/σ_out, in the order of the paper's offline score 1 - Φ(…)
    lira_online  score = log N(φ; IN) - log N(φ; OUT), IN Originals, against OUT models left out in turn
    u_lira       the same, IN models that unlearned

``rmia`` and ``lira`` separate forget samples from unseen ones of the same classes; RMIA's z are the unseen samples of
the calibration half. The two others look at the forget samples alone, since no model saw the unseen ones, and compare
models: ``lira_online`` asks whether this model still knows them as an Original does, ``u_lira`` whether it unlearned
them or never saw them. A model that never saw them has an AUC of .5 in both. Any other recipe of training differs from
Retrain's, whether or not it remembers, so theirs is called ``auc_of_models``, and the verdict does not compare it.

p of RMIA is the plain softmax, and γ is 1, as in the authors' present code (ml_privacy_meter, modules/mia/attacks/
rmia.py:145). Their paper's configs have ``signal: taylor``, a soft-margin Taylor softmax at temperature 2, with γ 2
(research/2023_rmia/attack_configs/cifar10/rmia_offline_127_ref_models.yaml at 44f9051), and so has AMUN's evaluation
(rmia_evaluate.py:48, 52, 56). It finds more in models that have memorised images, where the softmax is 1, and less in
some others: whoever attacks one model tries both. Here γ changes no number: all x are compared with the same z, and
samples of equal score are ordered by their ratios, so that only the order of the ratios counts.

Deviations. Each image is asked about once, while the authors of LiRA average over augmented copies and those of RMIA
ask up to 18 times: the attacker here is weaker. RMIA's authors leave out the outermost fifth of the references on each
side of a mean (``proportiontocut``) and search a (modules/mia/attack.py:82-100); here all count, and a is given.
U-LiRA's authors have one attacker for each image, with many models of both kinds; here the images of one model are
pooled, which share its noise, and one model is judged beside few. The fixed variance is that around each sample's own
mean over the references, not that of all log odds together; φ is exact where the papers' p/(1 - p) rounds; samples of
equal RMIA score are ordered by their ratios; the direction of ``rmia`` and ``lira`` is learnt on the calibration half,
so a model that answers forget samples *worse* than one that never saw them is detected; a reference that has the
weights of the model under attack, or answers exactly as it does, is that model, and does not count.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_unlearn.attacks.membership.answers import Answers, answers_of, other_models
from lit_unlearn.attacks.membership.likelihood_ratio import (
    VARIANCES,
    Variance,
    lira_offline,
    rmia_ordered,
    unlearned_lira,
)
from lit_unlearn.attacks.membership.signals import HELD_OUT_NUMBERS, Scores, held_out_attack, matched_halves
from lit_unlearn.attacks.membership.single_model import FORGET, MembershipAttack
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.errors import UsageError, check_at_least, check_fraction, unknown
from lit_unlearn.results import AttackResult

Signal = Literal["softmax", "taylor"]
Method = Literal["rmia", "lira", "lira_online", "u_lira"]
LogOdds = dict[str, Tensor]

_SIGNALS = ("softmax", "taylor")
_LEAST: dict[str, tuple[int, int]] = {"rmia": (1, 0), "lira": (2, 0), "lira_online": (3, 2), "u_lira": (3, 2)}
"""Fewest OUT models, and fewest IN models."""

_OF_MODELS = tuple("auc_of_models" if name == "auc" else name for name in HELD_OUT_NUMBERS)
"""What numbers are called that tell models apart, and not images."""


class _References(NamedTuple):
    """Files of reference models: trained without the forget set, and those that saw it."""

    out: Sequence[str]
    inside: Sequence[str]


class ReferenceMembership(MembershipAttack):
    """Detects forget samples by comparing the model with other models, trained without the forget set or unlearned.

    Args:
        method: ``rmia``, at least 1 reference; ``lira``, 2; ``lira_online``, 3 and 2 Originals; ``u_lira``, 3 and 2
            that unlearned.
        references: weights (files, or names in the manifest) of models trained without the forget set of this run, in
            the original's shape. Without any they are the Retrains of the run's pool; without a pool, or with one that
            has too few, the attack is left out.
        unlearned_references: for ``u_lira``, weights of models that were trained with the forget set and unlearned it;
            without any they are the pool's, of the same method. The Originals of ``lira_online`` are always the pool's.
        variance: for LiRA, ``fixed`` or ``per_sample``; the latter wants dozens of references.
        a: for RMIA, between 0 and 1, see :func:`~lit_unlearn.attacks.membership.likelihood_ratio.rmia_offline`.
        gamma: for RMIA, above 0; it moves a threshold and no number of this attack, see the module.
        seed: of the draw that matches classes.
        name: metric name prefix; the method by default.
        signal: for RMIA, p: ``softmax``, or ``taylor`` as in the paper's configs, see the module.

    Raises:
        UsageError: for an unknown method, variance or signal, a number out of range, too few references, one that is
            named twice, or ``unlearned_references`` for another method than ``u_lira``.
    """

    def __init__(
        self,
        method: Method = "rmia",
        references: Sequence[str] = (),
        unlearned_references: Sequence[str] = (),
        variance: Variance = "fixed",
        a: float = 0.3,
        gamma: float = 1.0,
        seed: int = 0,
        name: str | None = None,
        signal: Signal = "softmax",
    ) -> None:
        if method not in _LEAST:
            raise unknown("method of membership inference", method, _LEAST)
        super().__init__(name or method, seed)
        if variance not in VARIANCES:
            raise unknown("variance", variance, VARIANCES)
        if signal not in _SIGNALS:
            raise unknown("signal", signal, _SIGNALS)
        check_fraction("a", a, zero=True, one=True)
        check_at_least("gamma", gamma, 0, strict=True)
        self.method, self.variance, self.a, self.signal, self.gamma = method, variance, a, signal, gamma
        self.references, self.unlearned_references = list(references), list(unlearned_references)
        self._check_counts()

    def _check_counts(self) -> None:
        least, least_unlearned = _LEAST[self.method]
        twice = [each for each in self._files() if self._files().count(each) > 1]
        if twice:
            raise UsageError(f"reference {twice[0]!r} is named twice")
        if self.unlearned_references and self.method != "u_lira":
            raise UsageError(f"{self.method} takes no unlearned_references: method u_lira does")
        if self._files() and len(self.references) < least:
            raise UsageError(f"{self.method} needs at least {least} references, not {len(self.references)}")
        if self._files() and self.method == "u_lira" and len(self.unlearned_references) < least_unlearned:
            given = len(self.unlearned_references)
            raise UsageError(f"{self.method} needs at least {least_unlearned} unlearned_references, not {given}")

    def _files(self) -> list[str]:
        return [*self.references, *self.unlearned_references]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes sure, before anything is trained, that every reference can be used.

        Raises:
            UsageError: if weights cannot be loaded, belong to another split, or say that they are not Retrain's.
        """
        super().setup(trainer, pl_module, stage)
        here = trainer.datamodule.split.hash  # type: ignore[attr-defined]
        for reference in self._files():
            loaded = load_weights(cast(Any, pl_module).reference_copy(), reference)
            if loaded.split != here:
                raise UsageError(
                    f"reference {reference!r} was made on split {loaded.split or 'unknown'}, but this run is on split "
                    f"{here}: name weights whose forget set is this run's"
                )
            if reference in self.references and loaded.method not in (None, "Retrain"):
                raise UsageError(f"reference {reference!r} is of {loaded.method}, but must be a Retrain of this split")

    def splits(self, target: Target) -> Sequence[str]:
        """The forget set, and unseen samples where the method reads them."""
        return (FORGET,) if _LEAST[self.method][1] else super().splits(target)

    def lacks(self, target: Target) -> str | None:
        """Why the attack cannot be run on a target, or None."""
        if target.pool is None and not self.references:
            return (
                "it needs several Retrains in files that this package wrote, and a network, or weights with "
                "trained_without, does not count: give evaluation.retrains more than one, or name the files in "
                "references, or a folder of them in evaluation.pool"
            )
        found = self._named(target)
        least, least_inside = _LEAST[self.method]
        if len(found.out) < least or len(found.inside) < least_inside:
            kind = "Originals" if self.method == "lira_online" else "models that unlearned"
            also = f" and {least_inside} {kind}" if least_inside else ""
            has = f" and {len(found.inside)}" if least_inside else ""
            return f"it needs at least {least} Retrains{also}, but has {len(found.out)}{has}"
        return super().lacks(target)

    def _named(self, target: Target) -> _References:
        """The attack's own references, and from the pool what it names none of."""
        pool = target.pool
        out = self.references or (pool.retrains if pool else ())
        if self.method == "lira_online":
            return _References(out, pool.originals if pool else ())
        return _References(out, self.unlearned_references or (pool.unlearned if pool else ()))

    def evaluate(self, target: Target) -> AttackResult:
        """AUC and the like on the evaluation half, see :func:`~.signals.held_out_attack`.

        Beside IN models it is the mean over the OUT models that are left out in turn, and called ``auc_of_models``.
        """
        splits, named = self.splits(target), self._named(target)
        answers = answers_of(target.model, splits)
        least, least_inside = _LEAST[self.method]
        asked = (named.out, named.inside if least_inside else ())
        out, inside = (
            [self._told(each, splits) for each in other_models(target, files, answers, splits)] for files in asked
        )
        if len(out) < least or len(inside) < least_inside:
            return AttackResult(dict.fromkeys(_OF_MODELS if least_inside else HELD_OUT_NUMBERS, math.nan))
        own = self._told(answers, splits)
        if least_inside:
            return AttackResult(self._on_the_same_samples(own, inside, out))
        return AttackResult(self._on_the_same_classes(target, own, out))

    def _told(self, answers: Mapping[str, Answers], splits: Sequence[str]) -> LogOdds:
        """What is compared of a model's answers: log odds, or p itself where it is another one than theirs."""
        taylor = self.method == "rmia" and self.signal == "taylor"
        return {split: answers[split].taylor if taylor else answers[split].phi for split in splits}

    def _on_the_same_samples(self, own: LogOdds, inside: list[LogOdds], out: list[LogOdds]) -> dict[str, float]:
        seen, unseen = (torch.stack([odds[FORGET] for odds in side]) for side in (inside, out))
        asked, never = unlearned_lira(own[FORGET], seen, unseen, self.variance)
        halves = [
            [Scores(one[half::2], other[half::2]) for half in (0, 1)] for one, other in zip(asked, never, strict=True)
        ]
        # Scores beside one left-out model are compared with one another only: they have the same references.
        found = [held_out_attack(even, odd, directed=True) for even, odd in halves]
        means = [fmean(each[name] for each in found) for name in HELD_OUT_NUMBERS]
        return dict(zip(_OF_MODELS, means, strict=True))

    def _on_the_same_classes(self, target: Target, own: LogOdds, out: list[LogOdds]) -> dict[str, float]:
        splits = self.splits(target)
        labels = [target.data.labels(split).cpu() for split in splits]
        halves = matched_halves(labels[0], labels[1], torch.Generator().manual_seed(self.seed))
        parts = [(split, chosen) for half in halves for split, chosen in zip(splits, half, strict=True)]
        counts = [len(chosen) for _, chosen in parts]
        if not counts[1]:
            return dict.fromkeys(HELD_OUT_NUMBERS, math.nan)
        phi = torch.cat([own[split][chosen] for split, chosen in parts])
        others = torch.stack([torch.cat([odds[split][chosen] for split, chosen in parts]) for odds in out])
        scores = torch.split(self._score(phi, others, slice(counts[0], counts[0] + counts[1])), counts)
        return held_out_attack(Scores(scores[0], scores[1]), Scores(scores[2], scores[3]))

    def _score(self, phi: Tensor, out: Tensor, population: slice) -> Tensor:
        """Of all that are compared, of both sets together: (N,) of log odds (N,) and those of references (k, N)."""
        if self.method == "lira":
            return lira_offline(phi, out, self.variance)
        p, others = (phi, out) if self.signal == "taylor" else (phi.sigmoid(), out.sigmoid())
        return rmia_ordered(p, others, p[population], others[:, population], self.a, self.gamma)
