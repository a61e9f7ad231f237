"""The same small search for every method, on images held out of the training set: the test set is never looked at.

Each method declares the ranges of its settings. A trial is a run of a grid whose data module tests on a part of the
training set; its score is the gap to the Retrain of that same data, by accuracy alone. The first trial of every method
is its experiment as it is. The others are drawn by one of Optuna's samplers: ``qmc``, a scrambled Sobol sequence, all
before the first is executed; or ``tpe``, half of them so and then one after the other where the estimator expects
the smallest gap (Bergstra et al., "Algorithms for hyper-parameter optimization", 2011).
"""

import copy
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from lit_unlearn.benchmark.experiments import Experiments
from lit_unlearn.benchmark.grid import REFERENCES, Experiment, Grid, make_runs
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.settings import look_up, merged, put
from lit_unlearn.errors import UsageError, check_at_least, check_fraction, unknown
from lit_unlearn.files import write_atomically
from lit_unlearn.reports.rows import RETRAIN, Row
from lit_unlearn.reports.scores import gap_to_retrain

LOG, PAGE, TUNED = "tuning.json", "tuning.md", "tuned.yaml"
_PLACES = {"lr": "model.init_args.optimizer.init_args.lr"}
_LEAST = 2
"""The fewest trials that an estimator can learn from."""

WORST = 100.0
"""The gap in points of a trial that diverged: nothing can be farther from Retrain."""

Ranges = Sequence[tuple[str, float, float]]
"""Settings with the lowest and highest value of each; values are drawn uniformly over their logarithm."""

Sampler = Literal["qmc", "tpe"]


@dataclass(frozen=True)
class Tuning:
    """How large the search is.

    Args:
        trials: of every method in every scenario; the experiment as it is is the first.
        share: of the training set, held out to be tested on.
        seed: of the search.
        sampler: of Optuna: ``qmc``, uniform over the ranges, all trials at once; or ``tpe``, which learns from the
            first half.
    """

    trials: int = 4
    share: float = 0.2
    seed: int = 0
    sampler: Sampler = "qmc"

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_at_least("tuning.trials", self.trials, 1)
        check_fraction("tuning.share", self.share)
        if self.sampler not in get_args(Sampler):
            raise unknown("tuning.sampler", self.sampler, get_args(Sampler))

    @property
    def rounds(self) -> list[int]:
        """How many trials of a method there are after each round; a round waits for the one before it."""
        first = self.trials if self.sampler == "qmc" else max(min(_LEAST, self.trials), (self.trials + 1) // 2)
        return list(range(first, self.trials + 1))


@dataclass
class Trial:
    """One setting of one method, as the log keeps it.

    Attributes:
        scenario: where it was tried.
        experiment: its name.
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


def trial_runs(
    grid: Grid, tuning: Tuning, ranges: Mapping[str, Ranges], count: int | None = None, known: Sequence[Trial] = ()
) -> list[Run]:
    """All runs of a search up to one of its rounds; those with a ``variant`` are its trials.

    Args:
        grid: the experiments; of its seeds only the first is used.
        tuning: the size of the search.
        ranges: method's class name → its ranges.
        count: of each method's trials; None is as many as in the first round.
        known: the trials of the rounds before.

    Raises:
        UsageError: if the grid is given an original, which has seen the images that are held out.
    """
    if grid.original is not None:
        raise UsageError(
            f"grid.original is {grid.original!r}, but it was trained on the images that a search holds out: leave it "
            "out, and weights in the bases; tune trains originals of its own"
        )
    held_out = {"data": {"init_args": {"test_from_train": tuning.share}}}
    seeds = replace(grid.seeds, originals=1, unlearnings=1, attacks=1)
    alone = replace(grid, seeds=seeds, attacks=None, overrides=merged(grid.overrides, held_out))
    wanted = tuning.rounds[0] if count is None else count

    def trials(experiment: Experiment) -> list[dict[str, Any]]:
        tried = [t for t in known if (t.scenario, t.experiment) == (experiment.scenario, experiment.name)]
        return draw(experiment.settings, ranges.get(experiment.method, ()), tuning, wanted, tried)

    return make_runs(alone, trials)


def draw(
    settings: Mapping[str, Any], ranges: Ranges, tuning: Tuning, count: int, tried: Sequence[Trial] = ()
) -> list[dict[str, Any]]:
    """The first trials of one method: its settings as they are, and what the sampler proposes.

    Args:
        settings: of the experiment.
        ranges: of the method.
        tuning: the search.
        count: how many trials there shall be.
        tried: the trials of the rounds before, in their order.
    """
    places = {name: _PLACES.get(name, f"model.init_args.{name}") for name, _, _ in ranges}
    own = {place: look_up(settings, place) for place in places.values()}
    trials: list[dict[str, Any]] = [{place: value for place, value in own.items() if value is not None}]
    if not ranges:
        return trials
    trials += [{place: trial.values[name] for name, place in places.items()} for trial in tried[1:]]
    drawn = _propose(ranges, tuning, count - len(trials), list(_gaps(tried, places)))
    return trials + [{places[name]: value for name, value in point.items()} for point in drawn]


def _propose(
    ranges: Ranges, tuning: Tuning, count: int, tried: Sequence[tuple[dict[str, float], float]]
) -> list[dict[str, float]]:
    """The points that Optuna's sampler proposes, of two digits; the same for the same trials and seed.

    A tried point outside the ranges, as a method's own setting may be, is left out.

    Raises:
        UsageError: if Optuna is not installed.
    """
    optuna = _optuna()
    bounds = {name: optuna.distributions.FloatDistribution(low, high, log=True) for name, low, high in ranges}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler is marked as experimental, and wants a power of two points
        if tuning.sampler == "tpe" and tried:
            sampler = optuna.samplers.TPESampler(seed=tuning.seed + len(tried), n_startup_trials=1)
        else:
            sampler = optuna.samplers.QMCSampler(scramble=True, seed=tuning.seed, warn_independent_sampling=False)
            tried = [({name: low for name, low, _ in ranges}, 0.0)]  # it takes the names of the settings from a trial
        study = optuna.create_study(sampler=sampler)
        for point, gap in tried:
            if all(low <= point[name] <= high for name, low, high in ranges):
                study.add_trial(optuna.trial.create_trial(params=point, distributions=bounds, value=gap))
        asked = [study.ask(bounds).params for _ in range(count)]
    return [{name: float(f"{point[name]:.2g}") for name in bounds} for point in asked]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("lit-unlearn tune needs Optuna: pip install 'lit_unlearn[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _gaps(tried: Sequence[Trial], names: Iterable[str]) -> Iterator[tuple[dict[str, float], float]]:
    """Each trial that has a value for each name, with its gap."""
    for trial in tried:
        if trial.status != "failed" and all(name in trial.values for name in names):
            yield {name: trial.values[name] for name in names}, WORST if trial.gap is None else trial.gap


def judge(runs: Sequence[Run], rows: Sequence[Row]) -> list[Trial]:
    """Every trial with its gap to Retrain; of each method in each scenario the smallest gap wins, of equals the first.

    A run that diverged or failed has no gap and cannot win; a method none of whose trials ended well has no winner.
    """
    found = {row.benchmark["key"]: row for row in rows if row.benchmark["experiment"] != REFERENCES}
    retrains = {row.benchmark["scenario"]: row for row in rows if row.method == RETRAIN}
    trials = []
    for run in runs:
        if "unlearning" not in run.seeds:
            continue
        trial = Trial(run.scenario, run.name, {place.rpartition(".")[2]: v for place, v in run.variant.items()})
        if (row := found.get(run.key)) is not None:
            trial.status, trial.metrics = row.status, row.metrics
            gap = gap_to_retrain(row, retrains.get(run.scenario))
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
            runs = " · ".join(_trial_text(trial) for trial in own if trial.experiment == experiment)
            lines.append(f"| {experiment} | {runs} |")
        pages.append("\n".join(lines))
    return pages


def _trial_text(trial: Trial) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in trial.values.items()) or "as it stands"
    run = f"{values}: {trial.status if trial.gap is None else f'{trial.gap:.2f}'}"
    return f"**{run}**" if trial.won else run


def write_winners(grid: Grid, tuning: Tuning, runs: Sequence[Run], trials: Sequence[Trial], root: Path) -> None:
    """Writes the log, as JSON and to be read, and the best settings as an experiments file with a section each."""
    log = {"tuning": asdict(tuning), "grid": asdict(grid), "trials": [asdict(trial) for trial in trials]}
    write_atomically(root / LOG, json.dumps(log, indent=1, ensure_ascii=False) + "\n")
    write_atomically(root / PAGE, "\n\n".join(tables(trials)) + "\n")
    experiments, tuned = Experiments(grid.bases, grid.experiments), dict[str, Any]()
    tried = [run for run in runs if "unlearning" in run.seeds]
    for run, trial in zip(tried, trials, strict=True):
        if trial.won:
            section = copy.deepcopy(experiments.section(run.scenario.rpartition("/")[2], run.name))
            for place, value in run.variant.items():
                put(section, place, value)
            put(tuned, ".".join((*run.scenario.split("/"), run.name)), section)
    plain = json.loads(json.dumps(tuned))  # without YAML's anchors for values that sections share
    write_atomically(root / TUNED, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
