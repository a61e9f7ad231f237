"""The same search for every method, on images held out of the training set: the test set is never looked at.

A trial is a run of a grid whose data module tests on a part of the training set. The budget is of a method in a
scenario: experiments of one class share it. One set of trials has two scores. *By accuracy*: the gap to the Retrain of
that same data. *Under attack*: the gap and what attacks find more than on that Retrain.

All trials are of the first training seed. The finalists of each experiment are repeated with the seeds after it.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lit_unlearn.benchmark.experiments import RETRAIN as RETRAIN_SECTION
from lit_unlearn.benchmark.experiments import Experiments, chosen
from lit_unlearn.benchmark.grid import Grid, base_of
from lit_unlearn.benchmark.grid_runs import REFERENCES, Experiment, make_runs, methods_of
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.search import Search, Tuning
from lit_unlearn.benchmark.search_space import Ranges, applicable, axes_of, own_values, replaced, values_of, variant_of
from lit_unlearn.benchmark.settings import look_up, merged
from lit_unlearn.benchmark.trials import Outcome, Trial, final_winners
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.comparisons import largest_excess
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row
from lit_unlearn.reports.scores import gap_to_retrain

_LONGEST = 2
"""So many times the epochs of Retrain are searched at most: who trains longer is better off to start over."""

Declared = Callable[[str], Ranges]
"""What the method of a class path declares to be searched."""

_OURS = "lit_unlearn.methods."


def searches_of(grid: Grid, tuning: Tuning, declared: Declared) -> dict[tuple[str, str], Search]:
    """(Scenario of the grid, experiment) → its search, with its part of its method's budget.

    Args:
        grid: the experiments.
        tuning: the size of the search.
        declared: what a method declares.

    Raises:
        UsageError: if ``tuning.ranges`` names an experiment or a setting that is not there, or is no range.
    """
    experiments, found = Experiments(grid.bases, grid.experiments), {}
    places = [(scenario, name) for scenario in grid.bases for name in experiments.names(scenario)]
    known = {name for _, name in places} | {f"{scenario}/{name}" for scenario, name in places}
    chosen("experiment in tuning.ranges", list(tuning.ranges), sorted(known))
    for scenario, names in methods_of(grid, experiments).items():
        settings = {name: experiments.settings(scenario, name) for name in names}
        classes = {name: _class_of(str(own["model"]["class_path"])) for name, own in settings.items()}
        counts = Counter(classes.values())
        retrain = look_up(experiments.settings(scenario, RETRAIN_SECTION), "trainer.max_epochs")
        most = math.inf if retrain is None else _LONGEST * retrain
        for name, method in classes.items():
            shared = tuple(other for other in names if classes[other] == method)
            part = max(1, tuning.trials // counts[method])
            ranges = declared(method)
            for place in (name, f"{scenario}/{name}"):
                ranges = replaced(ranges, tuning.ranges.get(place, {}), f"tuning.ranges.{place}")
            axes = applicable(axes_of(ranges, most), settings[name])
            found[scenario, name] = Search(method, axes, part, shared, tuning)
    return found


def _class_of(class_path: str) -> str:
    """The name of a method of the package, and the class path of any other, which may share a name with one."""
    return class_path.rpartition(".")[2] if class_path.startswith(_OURS) else class_path


def trial_runs(
    grid: Grid, tuning: Tuning, searches: Mapping[tuple[str, str], Search], known: Sequence[Trial] = ()
) -> list[Run]:
    """The runs of all trials so far and of those that come next, then the finalists on other originals.

    Those with a seed ``unlearning`` are trials; the others train and measure the reference models.

    Args:
        grid: the experiments; of its seeds only the first is used, and those after it for finalists.
        tuning: the size of the search.
        searches: of :func:`searches_of`.
        known: the trials so far.

    Raises:
        UsageError: if the grid is given an original, which has seen the images that are held out, or epochs, which the
            search sets.
    """
    _check_unset(grid)
    held_out = {"data": {"init_args": {"test_from_train": tuning.share}}}
    seeds = replace(grid.seeds, originals=1, references=None, unlearnings=1, attacks=1)
    alone = replace(grid, seeds=seeds, attacks=tuning.attacks, overrides=merged(grid.overrides, held_out))
    tried, finalists = grouped(known), dict[tuple[str, str], list[dict[str, Any]]]()

    def trials(experiment: Experiment) -> list[dict[str, Any]]:
        place = experiment.scenario, experiment.name
        search = searches[base_of(experiment.scenario), experiment.name]
        own, there = own_values(experiment.settings, search.axes), tried.get(place, [])
        points = search.points(own, there)
        if again := search.finalists(points, there):
            finalists[place] = [variant_of(experiment.settings, trial.values) for trial in again]
        return [variant_of(experiment.settings, values) for values in points]

    runs = make_runs(alone, trials)
    if not finalists:
        return runs
    others = replace(
        alone,
        scenarios=list(dict.fromkeys(base_of(scenario) for scenario, _ in finalists)),
        seeds=replace(seeds, first=seeds.first + 1, originals=tuning.originals - 1),
    )
    return runs + make_runs(others, lambda experiment: finalists.get((experiment.scenario, experiment.name), []))


def _check_unset(grid: Grid) -> None:
    """That the grid leaves to the search what the search sets."""
    if grid.epochs is not None:
        raise UsageError(f"grid.epochs is {grid.epochs}, but a search sets the epochs itself: leave it out")
    if grid.original is not None:
        raise UsageError(
            f"grid.original is {grid.original!r}, but it was trained on the images that a search holds out: leave it "
            "out, and weights in the bases; tune trains originals of its own"
        )


class Trials:
    """The runs of a search, which grow as trials end.

    An experiment gets its next trials when all that it has have ended, whatever other experiments do.

    Args:
        grid: the experiments; of its seeds only the first is used.
        tuning: the size of the search.
        searches: of :func:`searches_of`.

    Attributes:
        runs: all runs so far.
    """

    def __init__(self, grid: Grid, tuning: Tuning, searches: Mapping[tuple[str, str], Search]) -> None:
        self._grid, self._tuning, self._searches = grid, tuning, searches
        self._ended: dict[tuple[str, str], list[Trial]] = {}
        self.runs = trial_runs(grid, tuning, searches)

    @property
    def ended(self) -> list[Trial]:
        """The trials of each experiment up to the last time that all had ended, judged."""
        return [trial for own in self._ended.values() for trial in own]

    def grow(self, rows: Sequence[Row], failed: Collection[str]) -> bool:
        """Plans what comes after the trials that have a row, or have failed, by their keys; whether more have ended."""
        if any(run.key in failed for run in self.runs if not is_trial(run)):
            return False
        there = {row.benchmark["key"] for row in rows}
        found = grouped(judge(self.runs, rows, self._searches))
        ended = {name: own for name, own in found.items() if _keys(own) <= there | {*failed}}
        if all(_keys(own) == _keys(self._ended.get(name, ())) for name, own in ended.items()):
            return False
        self._ended = {name: ended.get(name, self._ended.get(name, [])) for name in found}
        self.runs = trial_runs(self._grid, self._tuning, self._searches, self.ended)
        return True


def _keys(trials: Sequence[Trial]) -> set[str]:
    """Of all runs of these trials."""
    return {each.key for trial in trials for each in trial.outcomes}


def grouped(trials: Sequence[Trial]) -> dict[tuple[str, str], list[Trial]]:
    """(Scenario, experiment) → its trials."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.scenario, trial.experiment), []).append(trial)
    return found


def judge(runs: Sequence[Run], rows: Sequence[Row], searches: Mapping[tuple[str, str], Search]) -> list[Trial]:
    """Every trial with its gap to Retrain and its excess under attack, and for each experiment the winners.

    A run that diverged or failed cannot win; one that was pruned counts as the original that it leaves.
    """
    found = {row.benchmark["key"]: row for row in rows if row.benchmark["experiment"] != REFERENCES}
    references = {(row.benchmark["scenario"], row.method, original_of(row)): row for row in rows if is_reference(row)}
    groups: dict[tuple[str, str], list[Trial]] = {}
    for run in (run for run in runs if is_trial(run)):
        own, values = groups.setdefault((run.scenario, run.name), []), values_of(run.variant)
        models = (references.get((run.scenario, method, run.seeds["original"])) for method in (ORIGINAL, RETRAIN))
        outcome = _judged(run.key, found.get(run.key), *models)
        first = next((trial for trial in own if trial.values == values), None)
        if first is None:
            drawn = searches[base_of(run.scenario), run.name].drawn(len(own))
            own.append(Trial(run.scenario, run.name, values, drawn, **vars(outcome)))
        else:
            first.again.append(outcome)
    for (scenario, name), own in groups.items():
        for criterion, trial in final_winners(own, searches[base_of(scenario), name].tuning.criteria).items():
            trial.won.append(criterion)
    return [trial for own in groups.values() for trial in own]


def is_trial(run: Run) -> bool:
    """Whether a run of a search is a trial, and not of a reference model."""
    return "unlearning" in run.seeds


def is_reference(row: Row) -> bool:
    """Whether a row is of Original or Retrain."""
    return bool(row.benchmark["experiment"] == REFERENCES)


def original_of(row: Row) -> int:
    """The training seed of the original that a row of a benchmark rests on."""
    return int(row.benchmark["seeds"]["original"])


def measured(row: Row, retrain: Row | None) -> tuple[float | None, float | None]:
    """Gap by accuracy and excess under attack of a row, in points, each None where it is unknown."""
    gap = gap_to_retrain(row, retrain)
    return None if gap is None else gap.by_accuracy, largest_excess(row, retrain)


def _judged(key: str, row: Row | None, original: Row | None, retrain: Row | None) -> Outcome:
    """The run with its scores; one that was pruned was not attacked, and attacks find in it what Original holds."""
    if row is None:
        return Outcome(key=key)
    gap, excess = (None, None) if row.status == "diverged" else measured(row, retrain)
    if row.status == "pruned" and original is not None:
        excess = measured(original, retrain)[1]
    return Outcome(
        gap=gap,
        excess=excess,
        metrics=row.metrics,
        lost=_lost(row, [each for each in (original, retrain) if each is not None]),
        kept=None if original is None or retrain is None else _kept(row, original, retrain),
        status=row.status,
        reason=row.reason,
        key=key,
    )


def _kept(row: Row, original: Row, retrain: Row) -> float | None:
    """The share of Original's lead over Retrain in accuracy on the forget set that is left."""
    own, before, without = (each.metrics.get("forget_acc") for each in (row, original, retrain))
    if own is None or before is None or without is None or before <= without:
        return None
    return round((own - without) / (before - without), 4)


def _lost(row: Row, references: Sequence[Row]) -> float | None:
    """Accuracy on retained data below that of the better reference model, in points."""
    own, *others = (each.metrics.get("test_retain_acc") for each in (row, *references))
    known = [other for other in others if other is not None]
    return 100 * (max(known) - own) if own is not None and known else None
