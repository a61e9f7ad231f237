"""The same small search for every method, on images held out of the training set: the test set is never looked at.

Each method declares the ranges of its settings. A trial is a cell of a grid whose data module tests on a part of the
training set; its score is the gap to the Retrain of that same data, by accuracy alone. The first trial of every method
is its experiment as it stands. The others are drawn evenly over the ranges (a scrambled Sobol sequence), all before
the first is run, so that no order of events changes the choice; or, with ``sampler: tpe``, half of them are, and then
one after the other where Optuna's estimator expects the smallest gap, for every method the same number of times.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from lit_unlearn.benchmark.cells import Cell
from lit_unlearn.benchmark.grid import YARDSTICKS, Experiment, Grid, make_cells
from lit_unlearn.benchmark.sampling import WORST, Ranges, evenly, near_the_best
from lit_unlearn.benchmark.settings import look_up, merged, put, read_experiment
from lit_unlearn.errors import check_at_least, check_fraction, unknown
from lit_unlearn.files import write_atomically
from lit_unlearn.reports.rows import RETRAIN, Row
from lit_unlearn.reports.scores import gap_to_retrain

LOG, PAGE = "tuning.json", "tuning.md"
_PLACES = {"lr": "model.init_args.optimizer.init_args.lr"}
_LEAST = 2
"""The fewest trials that an estimator can learn from."""

Sampler = Literal["sobol", "tpe"]


@dataclass(frozen=True)
class Tuning:
    """How large the search is.

    Args:
        trials: of every method in every scenario; the experiment as it stands is the first.
        share: of the training set, held out to be tested on.
        seed: of the search.
        sampler: ``sobol``, evenly over the ranges, all trials at once; or ``tpe``, which learns from the first half
            and needs Optuna.
    """

    trials: int = 4
    share: float = 0.2
    seed: int = 0
    sampler: Sampler = "sobol"

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_at_least("tuning.trials", self.trials, 1)
        check_fraction("tuning.share", self.share)
        if self.sampler not in get_args(Sampler):
            raise unknown("tuning.sampler", self.sampler, get_args(Sampler))

    @property
    def rounds(self) -> list[int]:
        """How many trials of a method there are after each round; a round waits for the one before it."""
        first = self.trials if self.sampler == "sobol" else max(min(_LEAST, self.trials), (self.trials + 1) // 2)
        return list(range(first, self.trials + 1))


@dataclass
class Trial:
    """One setting of one method, as the log keeps it.

    Attributes:
        scenario: where it was tried.
        experiment: file name of the experiment.
        values: the settings that were searched over.
        gap: to Retrain on held-out data, mean of |ΔUA|, |ΔRA| and |ΔTA| in percentage points; None without a result.
        metrics: the accuracies behind it, as fractions; ``test_…`` are of the held-out part of the training set.
        status: how the run ended.
        won: whether this setting was chosen.
    """

    scenario: str
    experiment: str
    values: dict[str, Any]
    gap: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    status: str = "failed"
    won: bool = False


def trial_cells(
    grid: Grid, tuning: Tuning, ranges: Mapping[str, Ranges], count: int | None = None, known: Sequence[Trial] = ()
) -> list[Cell]:
    """All cells of a search up to one of its rounds; those with a ``variant`` are its trials.

    Args:
        grid: the experiments; of its seeds only the first is used.
        tuning: the size of the search.
        ranges: method's class name → its ranges.
        count: of each method's trials; None is as many as in the first round.
        known: the trials of the rounds before.
    """
    held_out = {"data": {"init_args": {"test_from_train": tuning.share}}}
    seeds = replace(grid.seeds, originals=1, unlearnings=1, attacks=1)
    alone = replace(grid, seeds=seeds, attacks=None, overrides=merged(grid.overrides, held_out))
    wanted = tuning.rounds[0] if count is None else count

    def trials(experiment: Experiment) -> list[dict[str, Any]]:
        tried = [t for t in known if (t.scenario, t.experiment) == (experiment.scenario, experiment.name)]
        return draw(experiment.settings, ranges.get(experiment.method, ()), tuning, wanted, tried)

    return make_cells(alone, trials)


def draw(
    settings: Mapping[str, Any], ranges: Ranges, tuning: Tuning, count: int, tried: Sequence[Trial] = ()
) -> list[dict[str, Any]]:
    """The first trials of one method: its settings as they stand, points of a Sobol sequence, and what was learnt.

    Args:
        settings: of the experiment.
        ranges: of the method.
        tuning: the search.
        count: how many trials there shall be, at most one more than there were, or as many as in the first round.
        tried: the trials of the rounds before, in their order.
    """
    places = {name: _PLACES.get(name, f"model.init_args.{name}") for name, _, _ in ranges}
    stands = {place: look_up(settings, place) for place in places.values()}
    trials: list[dict[str, Any]] = [{place: value for place, value in stands.items() if value is not None}]
    if not ranges:
        return trials
    first = tuning.rounds[0]
    points = evenly(ranges, first - 1, tuning.seed) + [
        {name: trial.values[name] for name in places} for trial in tried[first:]
    ]
    if count > first:
        points.append(near_the_best(ranges, _gaps(tried, places), seed=tuning.seed + count))
    return trials + [{places[name]: value for name, value in point.items()} for point in points]


def _gaps(tried: Sequence[Trial], names: Iterable[str]) -> Iterator[tuple[dict[str, Any], float]]:
    """Whatever has a value for each name, with its gap."""
    for trial in tried:
        if trial.status != "failed" and all(name in trial.values for name in names):
            yield {name: trial.values[name] for name in names}, WORST if trial.gap is None else trial.gap


def judge(cells: Sequence[Cell], rows: Sequence[Row]) -> list[Trial]:
    """Every trial with its gap to Retrain; of each method in each scenario the smallest gap wins, of equals the first.

    A run that diverged or failed has no gap and cannot win; a method none of whose trials ended well has no winner.
    """
    found = {row.benchmark["key"]: row for row in rows if row.benchmark["experiment"] != YARDSTICKS}
    yardsticks = {row.benchmark["scenario"]: row for row in rows if row.method == RETRAIN}
    trials = []
    for cell in cells:
        if "unlearning" not in cell.seeds:
            continue
        trial = Trial(cell.scenario, cell.name, {place.rpartition(".")[2]: v for place, v in cell.variant.items()})
        if (row := found.get(cell.key)) is not None:
            trial.status, trial.metrics = row.status, row.metrics
            gap = gap_to_retrain(row, yardsticks.get(cell.scenario))
            trial.gap = gap.mean if gap and row.status == "ok" else None
        trials.append(trial)
    for method in {(trial.scenario, trial.experiment) for trial in trials}:
        own = [t for t in trials if (t.scenario, t.experiment) == method and t.gap is not None]
        if own:
            min(own, key=lambda trial: trial.gap or 0.0).won = True
    return trials


def tables(trials: Sequence[Trial]) -> list[str]:
    """For each scenario, what was tried of every method, with the gap to Retrain of each, in Markdown; winners bold."""
    pages = []
    for scenario in dict.fromkeys(trial.scenario for trial in trials):
        own = [trial for trial in trials if trial.scenario == scenario]
        lines = [f"## {scenario}", "", "| Experiment | Values tried: gap to Retrain in points |", "|---|---|"]
        for experiment in dict.fromkeys(trial.experiment for trial in own):
            cells = " · ".join(_cell_of(trial) for trial in own if trial.experiment == experiment)
            lines.append(f"| {experiment} | {cells} |")
        pages.append("\n".join(lines))
    return pages


def _cell_of(trial: Trial) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in trial.values.items()) or "as it stands"
    cell = f"{values}: {trial.status if trial.gap is None else f'{trial.gap:.2f}'}"
    return f"**{cell}**" if trial.won else cell


def write_winners(grid: Grid, tuning: Tuning, cells: Sequence[Cell], trials: Sequence[Trial], root: Path) -> None:
    """Writes the log, as JSON and to be read, and each winner as an experiment file below ``tuned/``."""
    log = {"tuning": asdict(tuning), "grid": asdict(grid), "trials": [asdict(trial) for trial in trials]}
    write_atomically(root / LOG, json.dumps(log, indent=1, ensure_ascii=False) + "\n")
    write_atomically(root / PAGE, "\n\n".join(tables(trials)) + "\n")
    tried = [cell for cell in cells if "unlearning" in cell.seeds]
    for cell, trial in zip(tried, trials, strict=True):
        if not trial.won:
            continue
        data, _, folder = cell.scenario.rpartition("/")
        source = Path(grid.experiments) / folder / f"{cell.name}.yaml"
        settings = read_experiment(source, [file for file in grid.data or () if Path(file).stem == data])
        for place, value in cell.variant.items():
            put(settings, place, value)
        comment = "".join(line for line in source.read_text().splitlines(True) if line.startswith("#"))
        text = comment + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        write_atomically(root / "tuned" / cell.scenario / source.name, text)
