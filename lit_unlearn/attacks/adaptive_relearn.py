"""Relearning by an attacker who searches: how fast does the best of many ways to train restore what was forgotten?

Threat model. The attacker holds the unlearned weights, labelled retained images and a share of the forget set, and has
time: they try learning rates over two decades, with the head as it is and a fresh one, and with the last stages drawn
anew or not, since a method may have damaged what is near the head and left the rest. They do not hold the original.

All ways start; after 4 % of the steps the quarter that has got most goes on, after 20 % the one that has (successive
halving, arXiv 1502.07943). Of classes that is what a way has at that step, of single images its mean over the logarithm
of the steps so far, since their lead is noisy. One way is on the device at a time, the others wait on the CPU. What is
measured, what an attacker got, and how a batch is made, is as for :class:`~lit_unlearn.attacks.Relearn`. With so many
images and steps classes are relearnt in the end, by Retrain as well. So of classes the number that counts is ``auc``,
the mean of the useful accuracy over the logarithm of the steps. Our own attack.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD

from lit_unlearn.attacks.fine_tuning import EvalSubset, FineTuneBatches, FineTuneRun, Measured, averaged, useful_curve
from lit_unlearn.attacks.relearn import FRESH, HEADS, RATE, RESET, Head, Relearn
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, check_fraction

_TICKS = (0.01, 0.02, 0.04, 0.1, 0.2, 0.5, 1.0)
_RUNGS = {0.04: 0.25, 0.2: 0.0}
"""Share of the steps → share of the ways that go on, at least one."""
_PARKED = torch.device("cpu")


class AdaptiveRelearn(Relearn):
    """Fine-tunes copies in many ways on a share of the forget set and retained samples; the best one counts.

    Numbers: as those of :class:`~lit_unlearn.attacks.Relearn`, but that means are over the logarithm of the steps, and
    ``reset``, how many stages were drawn anew.

    Args:
        share: of the forget set that the attacker holds, in [0, .5].
        steps: how long the best is trained, at least 100.
        batch_size: samples in a batch, at least 2.
        retain_share: share of retained samples in a batch, in [0, 1]; without forget samples it is 1.
        learning_rates: those that are tried; a rate falls to 0 over the steps.
        heads: those that are tried, ``kept``, ``fresh`` or both.
        resets: how many of the last stages are drawn anew, each number a way; all stages where a network has fewer,
            and 0 alone where it names none.
        momentum: of SGD, in [0, 1).
        recovered: share of Original's useful accuracy that counts as back, in (0, 1].
        measured: of each split, so many samples at most are measured during training, beside single images three times
            as many unseen ones; at the end 10,000 at most.
        seed: of the choice of samples, their order, and of what is drawn anew.
        repeats: how often all is repeated, with the next seeds.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    def __init__(
        self,
        share: float = 0.2,
        steps: int = 1000,
        batch_size: int = 64,
        retain_share: float = 0.5,
        learning_rates: Sequence[float] = (0.003, 0.01, 0.03, 0.1, 0.3),
        heads: Sequence[Head] = HEADS,
        resets: Sequence[int] = (0, 1),
        momentum: float = 0.9,
        recovered: float = 0.9,
        measured: int = 1000,
        seed: int = 0,
        repeats: int = 1,
        name: str = "adaptive",
    ) -> None:
        super().__init__(
            steps=steps,
            batch_size=batch_size,
            retain_share=retain_share,
            learning_rates=learning_rates,
            heads=heads,
            momentum=momentum,
            recovered=recovered,
            measured=measured,
            seed=seed,
            repeats=repeats,
            name=name,
        )
        check_at_least("steps", steps, 100)
        check_fraction("share", share, zero=True)
        if share > 0.5:
            raise UsageError(f"share is {share}, but must be at most 0.5: the rest is needed to measure")
        if not resets or any(number < 0 for number in resets):
            raise UsageError(f"resets are {list(resets)}, but must be one or more numbers, each at least 0")
        self.share, self.resets = share, tuple(resets)

    def _held(self, forgotten: int) -> int:
        return round(self.share * forgotten)

    def _ticks(self) -> list[int]:
        return [0, *(round(share * self.steps) for share in _TICKS)]

    def _strongest(
        self,
        target: Target,
        batches: FineTuneBatches,
        eval_subset: EvalSubset,
        ticks: list[int],
        seed: int,
    ) -> tuple[FineTuneRun, Tensor]:
        """The one that is left in the end, and its curve."""
        untouched = eval_subset.measure(self._copy(target, target.model.backbone, "kept"))
        ways = []
        resets = self.resets if target.model.backbone.stages else (0,)
        for reset, head, rate in product(resets, self.heads, self.learning_rates):
            network = self._copy(target, target.model.backbone, head)
            _draw_anew(network, reset, seed)
            optimizer = self._optimizer(network, rate)
            training = self._train(network, optimizer, batches, eval_subset, ticks)
            ways.append(_Way(rate, head, reset, network, optimizer, training, []))
            _move(ways[-1], _PARKED)
        for share in _TICKS:
            for way in ways:
                _move(way, target.device)
                way.measured.append(next(way.training))
                _move(way, _PARKED)
            if share in _RUNGS:
                ways.sort(key=lambda way: _so_far(way, eval_subset.decisive, ticks), reverse=True)
                ways = ways[: max(1, math.ceil(_RUNGS[share] * len(ways)))]
        (way,) = ways
        _move(way, target.device)
        chosen = {RATE: way.rate, FRESH: float(way.head == "fresh"), RESET: float(way.reset)}
        got, auc, means = averaged(way.measured, lambda curve: _log_mean(curve, ticks[1:]))
        useful = useful_curve([untouched, *way.measured])
        return FineTuneRun(got, auc, means, useful, chosen, way.network), useful


class _Way(NamedTuple):
    rate: float
    head: Head
    reset: int
    network: Backbone
    optimizer: SGD
    training: Iterator[Measured]
    measured: list[Measured]


def _move(way: _Way, device: torch.device) -> None:
    """Moves a network and the state of its optimizer, between two of its steps."""
    way.network.to(device)
    for state in way.optimizer.state.values():
        state.update({name: value.to(device) for name, value in state.items() if isinstance(value, Tensor)})


def _so_far(way: _Way, decisive: str, ticks: Sequence[int]) -> float:
    """What a way has got up to now, by which it goes on or not."""
    if decisive != "forget":
        return way.measured[-1].got
    return _log_mean(torch.tensor([each.got for each in way.measured]).double(), ticks[1 : 1 + len(way.measured)])


def _log_mean(curve: Tensor, ticks: Sequence[int]) -> float:
    """Mean of a curve over the logarithm of the steps at which it is known."""
    places = torch.tensor(ticks, dtype=torch.float64).log()
    return float(torch.trapezoid(curve, places) / (places[-1] - places[0]))


def _draw_anew(network: Backbone, stages: int, seed: int) -> None:
    """Initialises the last stages of a network again, the same on every rank."""
    torch.manual_seed(seed)
    for name in network.stages[len(network.stages) - min(stages, len(network.stages)) :]:
        for module in network.stage(name).modules():
            if callable(draw := getattr(module, "reset_parameters", None)):
                draw()
