"""What a search leaves behind: its log, as JSON and to be read, and its winners as experiments."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from lit_unlearn.benchmark.experiments import PRETRAIN, Experiments
from lit_unlearn.benchmark.experiments import RETRAIN as RETRAIN_SECTION
from lit_unlearn.benchmark.grid import Grid, base_of
from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.search import ADDED, Search, Tuning
from lit_unlearn.benchmark.settings import put
from lit_unlearn.benchmark.trials import Criterion, Outcome, Trial
from lit_unlearn.benchmark.tuning import grouped, is_reference, is_trial, measured, original_of
from lit_unlearn.files import write_atomically
from lit_unlearn.reports.rows import RETRAIN, Row

LOG, PAGE = "tuning.json", "tuning.md"
TUNED: dict[Criterion, str] = {"accuracy": "tuned_accuracy.yaml", "attack": "tuned_attack.yaml"}
_MARKS: dict[Criterion, str] = {"accuracy": "**", "attack": "_"}

Searches = Mapping[tuple[str, str], Search]


def write_log(
    grid: Grid,
    tuning: Tuning,
    runs: Sequence[Run],
    trials: Sequence[Trial],
    searches: Searches,
    rows: Sequence[Row],
    root: Path,
) -> None:
    """Writes the log, as JSON and to be read, and for each way to choose the best settings as an experiments file.

    Args:
        grid: the experiments.
        tuning: the size of the search.
        runs: of the search.
        trials: of all these runs that are trials, judged.
        searches: of each experiment.
        rows: all rows, for those of the reference models.
        root: the output directory.
    """
    log = {
        "tuning": asdict(tuning),
        "grid": asdict(grid),
        "references": [_of_reference(row, rows) for row in rows if is_reference(row)],
        "searches": [_of_search(*name, own, searches) for name, own in grouped(trials).items()],
        "trials": [_of_trial(trial) for trial in trials],
    }
    write_atomically(root / LOG, _one_line_each(log))
    write_atomically(root / PAGE, "\n\n".join(tables(trials, searches)) + "\n")
    for criterion in tuning.criteria:
        write_atomically(root / TUNED[criterion], _sections(grid, runs, trials, criterion))


def _one_line_each(log: Mapping[str, Any]) -> str:
    """JSON with a line for each member, and for each member of a list."""
    parts = []
    for name, value in log.items():
        lines = [json.dumps(each, ensure_ascii=False) for each in (value if isinstance(value, list) else [value])]
        text = ",\n".join(lines)
        parts.append(f"{json.dumps(name)}: " + (f"[\n{text}\n]" if isinstance(value, list) else text))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def tables(trials: Sequence[Trial], searches: Searches) -> list[str]:
    """For each scenario, what was tried of every experiment, with gap and excess of each, in Markdown."""
    pages = []
    for scenario in dict.fromkeys(trial.scenario for trial in trials):
        lines = [
            f"## {scenario}",
            "",
            "Values tried: gap to Retrain + excess of attacks over Retrain, in points; of finalists the means over "
            "several models, too. **The best by gap alone**, _the best by the sum_.",
            "",
            "| Experiment | Budget | Ranges | Tried |",
            "|---|---|---|---|",
        ]
        for (where, name), own in grouped(trials).items():
            if where == scenario:
                search = searches[base_of(scenario), name]
                tried = " · ".join(_trial_text(trial) for trial in own)
                lines.append(f"| {name} | {_budget(search, own)} | {_ranges(search, own)} | {tried} |")
        pages.append("\n".join(lines))
    return pages


def _of_reference(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """What the log keeps of Original and Retrain."""
    scenario, original = place = row.benchmark["scenario"], original_of(row)
    references = [other for other in rows if is_reference(other)]
    same = [other for other in references if (other.benchmark["scenario"], original_of(other)) == place]
    gap, excess = measured(row, next((other for other in same if other.method == RETRAIN), None))
    told = {"scenario": scenario, "original": original, "method": row.method}
    return {**told, "gap": gap, "excess": excess, "metrics": row.metrics}


def _of_trial(trial: Trial) -> dict[str, Any]:
    """What the log keeps of a trial: what was tried before what became of it."""
    found = asdict(trial)
    return {name: found.pop(name) for name in ("scenario", "experiment", "values", "drawn")} | found


def _of_search(scenario: str, name: str, own: Sequence[Trial], searches: Searches) -> dict[str, Any]:
    """What the log keeps of the search of one experiment."""
    search = searches[base_of(scenario), name]
    return {
        "scenario": scenario,
        "experiment": name,
        "method": search.method,
        "budget": search.trials if search.axes else 1,
        "shared": list(search.shared),
        "ranges": [str(axis) for axis in search.axes],
        "extended": [str(one.after) for one in search.extensions(own)],
    }


def _budget(search: Search, own: Sequence[Trial]) -> str:
    """The trials of an experiment, of whose budget they are a part, and those that an extension added."""
    if not search.axes:
        return "1, nothing to search"
    others = ", ".join(name for name in search.shared if name != own[0].experiment)
    part = f"{search.trials} of {search.tuning.trials}, shared with {others}" if others else str(search.trials)
    added = len(own) - search.trials
    return f"{part}, {added} added" if added > 0 else part


def _ranges(search: Search, own: Sequence[Trial]) -> str:
    extended = [f"extended to {one.after} ({ADDED} trials)" for one in search.extensions(own)]
    return "; ".join([*(str(axis) for axis in search.axes), *extended])


def _trial_text(trial: Trial) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in trial.values.items()) or "as it stands"
    text = f"{values}: {_score_text(trial)}"
    if trial.again:
        text += f" (of {len(trial.outcomes)} models {_score_text(trial.averaged)})"
    for criterion in trial.won:
        text = f"{_MARKS[criterion]}{text}{_MARKS[criterion]}"
    return text


def _score_text(outcome: Outcome) -> str:
    if outcome.status != "ok" or outcome.gap is None:
        return outcome.status
    return f"{outcome.gap:.2f}" + ("" if outcome.excess is None else f" + {outcome.excess:.2f}")


def _sections(grid: Grid, runs: Sequence[Run], trials: Sequence[Trial], criterion: Criterion) -> str:
    """An experiments file of the winners: what the search set, on top of what the experiments file of the grid adds.

    It says how the reference models are trained, too, so that a grid can take it as it is.
    """
    experiments, tuned = Experiments(grid.bases, grid.experiments), dict[str, Any]()
    winners = {trial.key: trial for trial in trials if criterion in trial.won}
    for scenario in dict.fromkeys(trial.scenario for trial in winners.values()):
        for name in (PRETRAIN, RETRAIN_SECTION):
            if section := experiments.section(base_of(scenario), name):
                put(tuned, ".".join((*scenario.split("/"), name)), _plain(section))
    for run in runs:
        if is_trial(run) and run.key in winners:
            section = copy.deepcopy(experiments.section(base_of(run.scenario), run.name))
            for place, value in run.variant.items():
                put(section, place, value)
            put(tuned, ".".join((*run.scenario.split("/"), run.name)), _plain(section))
    return str(yaml.safe_dump(tuned, sort_keys=False, allow_unicode=True, width=120))


class _Section(dict[str, Any]):
    """What YAML shows within one pair of braces."""


def _plain(section: Mapping[str, Any]) -> _Section:
    """A copy without values that other sections share, for which YAML would write anchors."""
    return _Section(json.loads(json.dumps(section)))


yaml.SafeDumper.add_representer(
    _Section,
    lambda dumper, section: dumper.represent_mapping("tag:yaml.org,2002:map", section.items(), flow_style=True),
)
