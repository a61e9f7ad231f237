"""Trials of one experiment: what became of each setting, and which of them wins by each way to choose.

*By accuracy* the smallest gap to Retrain wins. *Under attack* it is the smallest sum of that gap and of what attacks
find more than on Retrain. A setting may be the best on one model by chance, and ruin another. So where some settings,
the finalists, were tried on other originals as well, the mean over the models decides between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, TypeVar

from lit_unlearn.benchmark.search_space import Values
from lit_unlearn.reports.utility import UTILITY_REDUCED

Criterion = Literal["accuracy", "attack"]
Drawn = Literal["reference", "stratified", "estimated", "extended"]


@dataclass(kw_only=True)
class Outcome:
    """What became of one setting on one model.

    Attributes:
        gap: to Retrain on held-out data, mean of |ΔUA|, |ΔRA| and |ΔTA| in percentage points; None without a result.
        excess: what attacks find more than on Retrain, in points; None without attacks. Of a run that was pruned, what
            they find in the original that it leaves.
        metrics: the accuracies behind the gap, as fractions; ``test_…`` are of the held-out part of the training set.
        lost: accuracy on retained data, in points below the better of Original and Retrain; None where it is unknown.
        kept: how much of Original's lead over Retrain in accuracy on the forget set is left, as a share of it; None
            where it is unknown, or Original has no lead.
        status: how the run ended.
        reason: why it did not end well.
        key: of its run.
    """

    gap: float | None = None
    excess: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    lost: float | None = None
    kept: float | None = None
    status: str = "failed"
    reason: str = ""
    key: str = ""

    def score(self, criterion: Criterion) -> float | None:
        """What is to be small; None of a run that diverged or failed, or that was not attacked."""
        if self.status not in ("ok", "pruned"):
            return None
        if self.gap is None or criterion == "accuracy":
            return self.gap
        return None if self.excess is None else self.gap + self.excess


@dataclass
class Trial(Outcome):
    """One setting of one experiment, as the log keeps it, with what became of it on the first model.

    Attributes:
        scenario: where it was tried.
        experiment: its name.
        values: the settings that were searched over.
        drawn: where they come from.
        won: the ways to choose by which this setting was chosen.
        again: what became of it on other models, where it is a finalist.
    """

    scenario: str
    experiment: str
    values: Values
    drawn: Drawn = "reference"
    won: list[Criterion] = field(default_factory=list)
    again: list[Outcome] = field(default_factory=list)

    @property
    def outcomes(self) -> list[Outcome]:
        """On each model, the first of all trials before the others."""
        return [self, *self.again]

    @property
    def averaged(self) -> Outcome:
        """The means over the models; where a run ended badly on one of them, that one."""
        for each in self.outcomes:
            if each.score("accuracy") is None:
                return each
        scores = ((each.gap, each.excess, each.lost) for each in self.outcomes)
        gap, excess, lost = (_mean(values) for values in zip(*scores, strict=True))
        return Outcome(gap=gap, excess=excess, lost=lost, status=self.status, key=self.key)


_Tried = TypeVar("_Tried", bound=Outcome)


def winners(trials: Sequence[Trial], criteria: Sequence[Criterion]) -> dict[Criterion, Trial]:
    """Of the trials of one experiment, the best by each way to choose, on the first model."""
    found = {criterion: ranked(trials, criterion) for criterion in criteria}
    return {criterion: own[0] for criterion, own in found.items() if own}


def final_winners(trials: Sequence[Trial], criteria: Sequence[Criterion]) -> dict[Criterion, Trial]:
    """The same by the means over all models, of the finalists, where there are such."""
    finalists = {trial.key: trial for trial in trials if trial.again}
    if not finalists:
        return winners(trials, criteria)
    found = {criterion: ranked([trial.averaged for trial in finalists.values()], criterion) for criterion in criteria}
    return {criterion: finalists[own[0].key] for criterion, own in found.items() if own}


def ranked(trials: Sequence[_Tried], criterion: Criterion) -> list[_Tried]:
    """Those that can win, the best first; of equals the first.

    Attacks find little in a ruined network. So under attack a trial whose utility is damaged, in the words of the
    verdict, wins only where all others' is, too. A trial that was pruned counts with what it leaves: where all else is
    farther from Retrain, to change nothing wins.
    """
    scored = [(score, trial) for trial in trials if (score := trial.score(criterion)) is not None]
    if criterion == "attack":
        scored = [each for each in scored if (each[1].lost or 0) <= 100 * UTILITY_REDUCED] or scored
    return [trial for _, trial in sorted(scored, key=lambda pair: pair[0])]


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one is unknown."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
