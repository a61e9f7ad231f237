"""One search for the settings of one experiment: which trials come next, as a function of those so far.

The first trial is the experiment as it is; with it, half of the trials are drawn before any is run, as points of a
scrambled Sobol sequence; the others come one after the other where an estimator expects the best score (TPE: Bergstra
et al., "Algorithms for hyper-parameter optimization", 2011), which looks at the scores by turns. Where a winner then
lies at the edge of a range, the range is extended by half its logarithm, and the winner is tried in the middle and at
the end of the new part. Where a winner forgets nothing, it is tried at two rates between its own and the next one at
which its like forgets, or the end of the range. Twice at most.

Afterwards the best few by each way to choose, the finalists, can be tried on other originals as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lit_unlearn.benchmark.search_space import Axis, Range, Side, Values, estimated, stratified
from lit_unlearn.benchmark.trials import Criterion, Drawn, Trial, ranked, winners
from lit_unlearn.errors import check_at_least, check_fraction, check_seed, unknown

WORST = 100.0
"""The score in points of a trial that diverged: nothing can be farther from Retrain by accuracy."""

EXTENSIONS, ADDED = 2, 2
"""How often a winner asks for further trials of an experiment at most, and how many are added each time."""

FORGOTTEN = 0.1
"""The share of the way from Original to Retrain, in accuracy on the forget set, below which nothing is forgotten."""

_LEAST = 2
"""The fewest trials that an estimator can learn from."""

_AGAIN, _FURTHER = 8, 64
"""How often the estimator is asked for a setting that was not tried, and how many points are drawn to find one then."""

Sampler = Literal["qmc", "tpe"]


@dataclass(frozen=True)
class Tuning:
    """How large the search is.

    Args:
        trials: of every method (class) in every scenario; each experiment of one class has an equal part of them, and
            up to four more where a winner asks for them.
        share: of the training set, held out to be tested on.
        seed: of the search.
        sampler: of Optuna: ``tpe``, which learns from the first half; or ``qmc``, even over the logarithm of each
            range, all trials at once.
        attacks: the attacks on every trial and both reference models: a config such as ``attack/quick``, of which
            only ``trainer.callbacks`` and ``evaluation.suite`` count; None chooses by accuracy alone.
        ranges: experiment, or ``scenario/experiment`` → setting → what is searched in place of what its method
            declares: the lower and the upper end of a range, or the values of a choice; of an empty list nothing, and
            the setting stays as it is.
        finalists: how many of the best settings of each experiment, by each way to choose, are tried on other originals
            as well; the mean over all models then decides between them. With 0 one model decides.
        originals: how many originals finalists are tried on, the one of all trials included; at least 2.

    Raises:
        UsageError: for a number out of range, or an unknown sampler.
    """

    trials: int = 12
    share: float = 0.2
    seed: int = 0
    sampler: Sampler = "tpe"
    attacks: str | None = "attack/quick"
    ranges: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    finalists: int = 0
    originals: int = 3

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_at_least("tuning.trials", self.trials, 1)
        check_fraction("tuning.share", self.share)
        check_seed("tuning.seed", self.seed)
        check_at_least("tuning.finalists", self.finalists, 0)
        check_at_least("tuning.originals", self.originals, 2)
        if self.sampler not in get_args(Sampler):
            raise unknown("tuning.sampler", self.sampler, get_args(Sampler))

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """What is chosen by."""
        return ("accuracy",) if self.attacks is None else ("accuracy", "attack")


@dataclass(frozen=True)
class Extension:
    """A range that was extended, since a winner lay at its edge."""

    before: Range
    after: Range
    side: Side

    def beyond(self, whole: bool) -> Any:
        """The end of the new part, or its middle."""
        old, new = (self.before.high, self.after.high) if self.side == "high" else (self.before.low, self.after.low)
        return self.after.value(new if whole else (old * new) ** 0.5)


@dataclass(frozen=True)
class Round:
    """What a winner asks for: settings to try next to it, and the ranges that are extended for them."""

    points: list[Values]
    extensions: list[Extension]


@dataclass(frozen=True)
class Search:
    """The search for the settings of one experiment.

    All it proposes is a function of the trials so far, so that a search that is resumed proposes the same.

    Attributes:
        method: class name, or the class path of one outside the package.
        axes: what the method declares.
        trials: the experiment's part of the budget.
        shared: the experiments that share the budget of the method.
        tuning: the whole search.
    """

    method: str
    axes: tuple[Axis, ...]
    trials: int
    shared: tuple[str, ...]
    tuning: Tuning

    @property
    def first(self) -> int:
        """How many trials there are before the estimator, the reference among them."""
        return self.trials if self.tuning.sampler == "qmc" else max(min(_LEAST, self.trials), (self.trials + 1) // 2)

    def points(self, own: Values, tried: Sequence[Trial]) -> list[Values]:
        """The values of the trials so far and of those that come next, if any do.

        Args:
            own: the values of the experiment as it is.
            tried: the trials so far, in their order.
        """
        known = [trial.values for trial in tried] or [own]
        if not self.axes:
            return known
        if not tried:
            drawn = stratified(self.axes, self.tuning.seed, self.first - 1) if self.first > 1 else []
            return known + [values for place, values in enumerate(drawn) if values not in known + drawn[:place]]
        if len(tried) < self.trials:
            return [*known, *self._estimated(tried)]
        return known + self._extended(tried)

    def finalists(self, points: Sequence[Values], tried: Sequence[Trial]) -> list[Trial]:
        """The trials that are to be repeated on other models: none before all trials have ended, or without a choice.

        Args:
            points: of :meth:`points`, after these trials.
            tried: the trials so far, in their order.
        """
        if len(points) > len(tried) or len(tried) < 2:
            return []
        best = [ranked(tried, criterion)[: self.tuning.finalists] for criterion in self.tuning.criteria]
        return [trial for trial in tried if any(trial is each for own in best for each in own)]

    def drawn(self, place: int) -> Drawn:
        """Where the values of a trial come from, by its place among all."""
        if place == 0:
            return "reference"
        if place >= self.trials:
            return "extended"
        return "stratified" if place < self.first else "estimated"

    def extensions(self, tried: Sequence[Trial]) -> list[Extension]:
        """The ranges that are extended after the trials so far, in their order."""
        return [one for each in self._rounds(tried) for one in each.extensions]

    def _estimated(self, tried: Sequence[Trial]) -> list[Values]:
        """A setting that was not tried, by what was measured; nothing where all were tried.

        Values are rounded, so that the estimator may propose one again. Then it is told that this one is the worst, and
        is asked again; if that does not help, a further point of the sequence is taken.
        """
        criterion = self.tuning.criteria[len(tried) % len(self.tuning.criteria)]
        attacked = [trial for trial in tried if criterion != "attack" or trial.status != "pruned"]
        scores = [(trial, trial.score(criterion)) for trial in attacked]
        worst = max([WORST, *(score for _, score in scores if score is not None)])
        scored = [
            (trial.values, worst if score is None else score)
            for trial, score in scores
            if trial.status == "diverged" or score is not None
        ]
        known, seed = [trial.values for trial in tried], self.tuning.seed + len(tried)
        for _ in range(_AGAIN):
            if (values := estimated(self.axes, seed, scored)) not in known:
                return [values]
            scored.append((values, worst))
        return [values for values in stratified(self.axes, seed, _FURTHER) if values not in known][:1]

    def _extended(self, tried: Sequence[Trial]) -> list[Values]:
        """The trials that the last round adds, if they have not been run."""
        rounds = self._rounds(tried)
        return rounds[-1].points if rounds and len(tried) == self.trials + ADDED * (len(rounds) - 1) else []

    def _winners_by_turns(self, tried: Sequence[Trial], turn: int) -> list[Trial]:
        """The winners by each way to choose, another one first in each turn."""
        found = list(winners(tried, self.tuning.criteria).values())
        first = turn % len(found) if found else 0
        return found[first:] + found[:first]

    def _rounds(self, tried: Sequence[Trial]) -> list[Round]:
        """What the winners of the trials so far ask for, one after the other."""
        ranges = {axis.name: axis for axis in self.axes if isinstance(axis, Range)}
        rounds = []
        for number in range(EXTENSIONS):
            count = self.trials + ADDED * number
            if len(tried) < count:
                break
            asked = (_round(ranges, winner, tried[:count]) for winner in self._winners_by_turns(tried[:count], number))
            if (found := next(filter(None, asked), None)) is None:
                break
            rounds.append(found)
            ranges |= {one.after.name: one.after for one in found.extensions}
        return rounds


def _round(ranges: Mapping[str, Range], winner: Trial, tried: Sequence[Trial]) -> Round | None:
    """What one winner asks for: nothing, where it forgets and does not lie at an edge."""
    rate = ranges.get("lr")
    if rate is None or not _forgets_nothing(winner):
        found = _at_edges(ranges, winner)
    elif ends := _next_rates(rate, winner, tried):
        points = _between(rate, winner, *ends)
        return None if any(trial.values in points for trial in tried) or points[0] == points[1] else Round(points, [])
    else:
        found = _extensions([(rate, "high")])
    points = [{**winner.values, **{one.before.name: one.beyond(end) for one in found}} for end in (False, True)]
    return Round(points, found) if found else None


def _at_edges(ranges: Mapping[str, Range], winner: Trial) -> list[Extension]:
    """The extension of each range at whose edge, or beyond it, a winner lies and that may go on there."""
    sides = [(axis, axis.edge(winner.values[name])) for name, axis in ranges.items() if name in winner.values]
    return _extensions([(axis, side) for axis, side in sides if side is not None])


def _extensions(places: Sequence[tuple[Range, Side]]) -> list[Extension]:
    found = [Extension(axis, axis.extended(side), side) for axis, side in places]
    return [one for one in found if one.after != one.before]


def _next_rates(rate: Range, winner: Trial, tried: Sequence[Trial]) -> tuple[float, float] | None:
    """The rate above a winner's at which something is forgotten first, behind the last one at which nothing is.

    They are of trials whose other settings are the winner's. Where none of these forgets, but others do, the end of the
    range takes the first one's place: what is too much for one setting is nothing for another.
    """
    own = winner.values["lr"]
    above = [trial for trial in tried if trial.values["lr"] > own]
    if not any(_acts(trial) for trial in above):
        return None
    alike = [trial for trial in above if {**trial.values, "lr": own} == winner.values]
    first = min([trial.values["lr"] for trial in alike if _acts(trial)], default=math.inf)
    low = max([own, *(trial.values["lr"] for trial in alike if _forgets_nothing(trial) and trial.values["lr"] < first)])
    high = rate.high if first == math.inf else first
    return (low, high) if low < high else None


def _between(rate: Range, winner: Trial, low: float, high: float) -> list[Values]:
    """The winner at two rates between two others."""
    return [{**winner.values, "lr": rate.value(low * (high / low) ** part)} for part in (1 / 3, 2 / 3)]


def _acts(trial: Trial) -> bool:
    return trial.status == "diverged" or _forgets(trial)


def _forgets(trial: Trial) -> bool:
    return trial.kept is not None and trial.kept <= 1 - FORGOTTEN


def _forgets_nothing(trial: Trial) -> bool:
    return trial.kept is not None and not _forgets(trial)
