"""Relearning: how few steps of training restore what was forgotten?

Threat model. The attacker holds the unlearned weights, labelled retained images and k labelled images of the forget set
(``samples``; 0: retained images only), and fine-tunes a copy. They try every learning rate, with the head as it is
and with a fresh one, and the run that gets most counts. They do not hold the original.

    step    SGD on CE of a batch, ``retain_share`` of it retained and the rest from the k images; lr falls to 0
    useful  min(accuracy on forgotten, accuracy on retained), both on images that were not trained on
    got     of classes useful; of single images their lead, accuracy on forgotten − accuracy on unseen test images
    steps   the first at which useful ≥ ``recovered`` · that of Original on the same images

Useful and not the accuracy on the forgotten alone, since a model that calls everything forgotten relearnt nothing, and
half of each batch invites it to. Forgotten images are the unseen ones of the forgotten classes (``test_forget``), or
where no class is forgotten whole, those of the forget set that are not among the k. The useful accuracy says nothing of
these: a network that has forgotten them names them as it names any image. So of single images the lead chooses the run:
its mean over the steps, which is what the verdict compares. The lead at the end is noisy, and none is left of it where
a run breaks the network on its way.

The fresh head starts at zero and reads features scaled to one length: a head taught never to name a class has to be
unlearnt first, which makes a model that forgot in its head alone look slower than Retrain, and features that are merely
small give plain training nothing to climb. Batch norm takes the statistics of the batches and moves its own, also for
few images: with its statistics frozen, training diverged at the learning rates that served the attacker best. Dropout
is off. That training on retained images alone may restore memory is shown in arXiv 2505.22310, that a few samples a
class and a new head row may in 2506.01318; the sweep, the useful accuracy and the scaled features are our own.
"""

import copy
from collections.abc import Iterator, Sequence
from itertools import product
from statistics import fmean, stdev
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.fine_tuning import (
    EvalSubset,
    FineTuneBatches,
    FineTuneRun,
    Measured,
    UnitHead,
    averaged,
    balanced,
    cycled,
    end_accuracies,
    useful_curve,
)
from lit_unlearn.attacks.images import joined, packed_pick, packed_share, unpacked
from lit_unlearn.attacks.splits import forgotten_split, unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, check_fraction, unknown
from lit_unlearn.results import AttackResult

Head = Literal["kept", "fresh"]
HEADS: tuple[Head, ...] = ("kept", "fresh")
RATE, FRESH, RESET, AT_EDGE = "learning_rate", "fresh_head", "reset", "rate_at_edge"
_UNSEEN = 3
"""How many times as many unseen images are measured beside single images, of which there are few."""


class Relearn(Attack):
    """Fine-tunes copies on a few forget samples and retained ones, and counts the steps until recovery.

    Numbers: ``after_<n>``, the useful accuracy after n steps, and ``auc``, its mean over the steps, of the run that
    got most on average over the steps; where single images are forgotten ``mean_forget_acc`` and
    ``mean_test_retain_acc`` (or ``mean_test_matched_acc``), the accuracies of which its lead is, on average over
    the steps; ``<split>_acc`` at its end; its ``learning_rate`` and ``fresh_head`` (1 or 0). ``steps`` is the
    fewest of any run; where none gets there, ``steps_above``, the steps that did not suffice, comes in its place.
    ``samples`` is the k that were there to take, ``images`` how many forgotten ones the means are of, and of single
    images ``unseen``, how many test images. Each is the mean over the repeats (``steps_above`` where one of them
    does not get there; the learning rate and the head are those of the strongest), and ``auc_std`` the deviation
    between them. Of three learning rates or more, ``rate_at_edge`` is 1 where the best is the smallest or the
    largest.

    Args:
        samples: k, how many forget samples the attacker holds, spread evenly over the classes; at most half of
            the forget set, since the rest is needed to measure.
        steps: how long they train.
        batch_size: samples in a batch, at least 2.
        retain_share: share of retained samples in a batch, in [0, 1]; without forget samples it is 1.
        learning_rates: those that are tried.
        heads: those that are tried, ``kept``, ``fresh`` or both.
        momentum: of SGD, in [0, 1).
        freeze_encoder: trains the head alone.
        recovered: share of Original's useful accuracy that counts as back, in (0, 1]; without an original, a useful
            accuracy of 1 stands in its place.
        every: steps from one measurement to the next.
        measured: of each split, so many samples at most are measured during training, beside single images three times
            as many unseen ones; at the end 10,000 at most.
        seed: of the choice of samples and their order.
        repeats: how often all is repeated, with the next seeds: which few samples are held makes the end noisy.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    family: ClassVar[str] = "relearn"
    needs_forget = True

    def __init__(
        self,
        samples: int = 30,
        steps: int = 40,
        batch_size: int = 64,
        retain_share: float = 0.5,
        learning_rates: Sequence[float] = (0.01, 0.1),
        heads: Sequence[Head] = HEADS,
        momentum: float = 0.9,
        freeze_encoder: bool = False,
        recovered: float = 0.9,
        every: int = 2,
        measured: int = 200,
        seed: int = 0,
        repeats: int = 1,
        name: str = "few",
    ) -> None:
        super().__init__(name)
        counts = {"samples": samples, "steps": steps, "batch_size": batch_size, "every": every, "measured": measured}
        counts["repeats"] = repeats
        for option, value in counts.items():
            check_at_least(option, value, {"samples": 0, "batch_size": 2}.get(option, 1))
        check_fraction("retain_share", retain_share, zero=True, one=True)
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum is {momentum}, but must be at least 0 and below 1")
        check_fraction("recovered", recovered, one=True)
        if not learning_rates or not all(0 <= rate < float("inf") for rate in learning_rates):
            raise UsageError(f"learning_rates are {list(learning_rates)}, but must be one or more, each at least 0")
        if not heads or any(head not in HEADS for head in heads):
            raise unknown("head", next((head for head in heads if head not in HEADS), "none"), HEADS)
        self.samples, self.steps, self.batch_size, self.retain_share = samples, steps, batch_size, retain_share
        self.learning_rates, self.heads, self.momentum = tuple(learning_rates), tuple(heads), momentum
        self.freeze_encoder, self.recovered, self.every, self.measured = freeze_encoder, recovered, every, measured
        self.seed, self.repeats = seed, repeats

    def evaluate(self, target: Target) -> AttackResult:
        """Trains once for each learning rate, head and repeat; the runs of one repeat see the same batches."""
        found = [self._repeat(target, self.seed + number) for number in range(self.repeats)]
        _, strongest = max(found, key=lambda each: each[0])
        repeats = [numbers for _, numbers in found]
        chosen = {name: strongest[name] for name in (RATE, FRESH, RESET) if name in strongest}
        back = "steps" if all("steps" in numbers for numbers in repeats) else "steps_above"
        names = [name for name in repeats[0] if name not in ("steps", "steps_above")]
        means = {name: fmean(numbers[name] for numbers in repeats) for name in names}
        steps = {back: fmean(n[back] for n in repeats) if back == "steps" else float(self.steps)}
        spread = {"auc_std": stdev(n["auc"] for n in repeats)} if self.repeats > 1 else {}
        ends = {min(self.learning_rates), max(self.learning_rates)}
        edge = {AT_EDGE: float(chosen[RATE] in ends)} if len(set(self.learning_rates)) > 2 else {}
        return AttackResult({**steps, **means, **spread, **chosen, **edge})

    def _repeat(self, target: Target, seed: int) -> tuple[float, dict[str, float]]:
        """What one choice of forget samples and batches got, and its numbers."""
        draw = torch.Generator().manual_seed(seed)
        held = balanced(labels := target.data.labels("forget"), self._held(len(labels)), draw)
        batches, eval_subset = self._batches(target, held, draw), self._eval_subset(target, held, draw)
        ticks = self._ticks()
        best, highest = self._strongest(target, batches, eval_subset, ticks, seed)
        return best.got, {
            **self._steps(target, highest, ticks, eval_subset),
            "auc": best.auc,
            **best.means,
            "images": float(eval_subset.counts[eval_subset.decisive]),
            **({"unseen": float(eval_subset.counts[unseen_split(eval_subset.counts)])} if best.means else {}),
            **best.chosen,
            "samples": float(len(held)),
            **end_accuracies(best.network, target, held),
            **{f"after_{tick}": value for tick, value in zip(ticks, best.curve.tolist(), strict=True)},
        }

    def _held(self, forgotten: int) -> int:
        """How many of so many forget samples the attacker asks for."""
        return self.samples

    def _ticks(self) -> list[int]:
        """The steps after which is measured, the first 0."""
        return [0, *range(self.every, self.steps, self.every), self.steps]

    def _strongest(
        self,
        target: Target,
        batches: FineTuneBatches,
        eval_subset: EvalSubset,
        ticks: list[int],
        seed: int,
    ) -> tuple[FineTuneRun, Tensor]:
        """Of a run for each learning rate and head the best, and the highest useful accuracy of any at each tick.

        Beside the network that is trained only that of the best run so far is kept.
        """
        untouched = eval_subset.measure(self._copy(target, target.model.backbone, "kept"))
        best, curves, places = None, [], torch.tensor(ticks)
        for rate, head in product(self.learning_rates, self.heads):
            network = self._copy(target, target.model.backbone, head)
            training = self._train(network, self._optimizer(network, rate), batches, eval_subset, ticks)
            measured = [untouched, *training]
            curves.append(useful_curve(measured))
            got, auc, means = averaged(measured, lambda curve: float(torch.trapezoid(curve, places)) / self.steps)
            if best is None or got > best.got:
                chosen = {RATE: rate, FRESH: float(head == "fresh")}
                best = FineTuneRun(got, auc, means, curves[-1], chosen, network)
        assert best is not None
        return best, torch.stack(curves).amax(0)

    def _batches(self, target: Target, held: Tensor, draw: torch.Generator) -> FineTuneBatches:
        fresh = round(self.batch_size * (1 - self.retain_share)) if len(held) else 0
        retained = len(target.data.labels("retain"))
        old, where = torch.unique(cycled(retained, self.steps * (self.batch_size - fresh), draw), return_inverse=True)
        parts = [(split, chosen) for split, chosen in (("forget", held), ("retain", old)) if len(chosen)]
        found = [packed_pick(target.data, split, chosen, target.device) for split, chosen in parts]
        images, labels = joined([each[0] for each in found]), torch.cat([each[1] for each in found])
        new = cycled(len(held), self.steps * fresh, draw).view(self.steps, fresh)
        order = torch.cat([new, len(held) + where.view(self.steps, -1)], 1)
        return FineTuneBatches(images, labels, order.to(target.device))

    def _eval_subset(self, target: Target, held: Tensor, draw: torch.Generator) -> EvalSubset:
        """What is measured during training, forgotten first."""
        known, sets, counts = target.data.split_names, {}, {}
        decisive = forgotten_split(known)
        for split in dict.fromkeys((decisive, "test_retain", unseen_split(known))):
            if split in known:
                order = torch.randperm(len(target.data.labels(split)), generator=draw)
                left = order[~torch.isin(order, held)] if split == "forget" else order
                beside = decisive == "forget" and split == unseen_split(known)
                chosen = left[: self.measured * (_UNSEEN if beside else 1)]
                sets[split], counts[split] = packed_share(target.data, split, chosen, target.device), len(chosen)
        return EvalSubset(decisive, sets, counts)

    def _copy(self, target: Target, backbone: Backbone, head: Head) -> Backbone:
        """A copy to train, in single precision whatever that of the run."""
        network = copy.deepcopy(backbone).float().eval()
        if head == "fresh":
            network.head = UnitHead(network.num_features, target.num_classes).to(target.device)
        frozen = {id(parameter) for parameter in network.encoder.parameters() if self.freeze_encoder}
        for parameter in network.parameters():
            can_learn = parameter.is_floating_point() or parameter.is_complex()  # integers have no gradient
            parameter.requires_grad_(can_learn and id(parameter) not in frozen)
        return network

    def _optimizer(self, network: Backbone, rate: float) -> SGD:
        return SGD([parameter for parameter in network.parameters() if parameter.requires_grad], rate, self.momentum)

    def _train(
        self,
        network: Backbone,
        optimizer: SGD,
        batches: FineTuneBatches,
        eval_subset: EvalSubset,
        ticks: list[int],
    ) -> Iterator[Measured]:
        """Yields what is measured at each tick but the first."""
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / self.steps, self.steps)
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        moving = [] if self.freeze_encoder else [module for module in network.modules() if isinstance(module, norms)]
        try:
            for step, chosen in enumerate(batches.order, start=1):
                for module in moving:
                    module.train()
                logits = network(unpacked(batches.images[chosen]).float())
                torch.autograd.backward(cross_entropy(logits, batches.labels[chosen]))
                optimizer.step()
                optimizer.zero_grad()  # they take as much memory as the network
                schedule.step()
                if step in ticks:
                    yield eval_subset.measure(network)
        finally:  # the schedule ties the optimizer into a cycle, which would keep what it trains
            optimizer.state.clear()
            optimizer.param_groups.clear()

    def _steps(self, target: Target, highest: Tensor, ticks: list[int], eval_subset: EvalSubset) -> dict[str, float]:
        original = target.original
        level = 1.0 if original is None else eval_subset.measure(self._copy(target, original.backbone, "kept")).useful
        if level == 0:
            return {"steps": float("nan")}
        back = [tick for tick, value in zip(ticks, highest.tolist(), strict=True) if value >= self.recovered * level]
        return {"steps": float(back[0])} if back else {"steps_above": float(self.steps)}
