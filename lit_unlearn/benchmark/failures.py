"""Runs of a grid that have left no row: which experiments lack them, and why.

They have no row, so a file beside the rows keeps them for whoever makes the tables again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.summary import Line, Summary
from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically
from lit_unlearn.reports.rows import Row
from lit_unlearn.run_files import FAILED


class Failure(msgspec.Struct, frozen=True):
    """An experiment some of whose runs have failed.

    Attributes:
        scenario: of the experiment.
        experiment: its name.
        lost: how many of its runs have failed.
        runs: of how many.
        reasons: why, each once.
    """

    scenario: str
    experiment: str
    lost: int
    runs: int
    reasons: list[str]

    def __str__(self) -> str:
        """A sentence for a note below its table."""
        some = f"all {self.runs} runs" if self.lost == self.runs > 1 else f"{self.lost} of {self.runs} runs"
        return f"{self.experiment}: {some} failed, and are not in the table: {'; '.join(self.reasons)}."


def failures(runs: Sequence[Run], failed: Mapping[str, str]) -> list[Failure]:
    """The experiments that lack rows.

    Args:
        runs: of the grid.
        failed: key of a run → why it failed.
    """
    own: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.reports:
            own.setdefault((run.scenario, run.name), []).append(run)
    lost = {place: [run for run in each if run.key in failed] for place, each in own.items()}
    return [
        Failure(*place, len(lost[place]), len(own[place]), _reasons_of(lost[place], failed))
        for place in lost
        if lost[place]
    ]


def with_failures(summaries: Sequence[Summary], found: Sequence[Failure], rows: Sequence[Row]) -> list[Summary]:
    """The tables, each with a note on every experiment of its scenario some of whose runs have failed.

    No line of such an experiment is as Retrain.

    Args:
        summaries: tables, of one benchmark or of several.
        found: what has failed in one benchmark.
        rows: of that benchmark; a table that has none of them gets no note.
    """
    keys = {row.benchmark.get("key") for row in rows}
    tables = []
    for summary in summaries:
        there = keys.intersection(row.benchmark.get("key") for line in summary.lines for row in line.rows)
        own = [each for each in found if there and each.scenario == summary.scenario]
        without = [*summary.without_rows, *(each.experiment for each in own if each.lost == each.runs)]
        lines = _with_lost(summary.lines, own)
        tables.append(replace(summary, lines=lines, notes=[*summary.notes, *map(str, own)], without_rows=without))
    return tables


def _with_lost(lines: Sequence[Line], found: Sequence[Failure]) -> list[Line]:
    """The lines of one scenario, with the runs in their verdicts that have failed there and left no row."""
    lost = {each.experiment: each.lost for each in found}
    return [
        replace(line, verdict=line.verdict.with_lost(lost.get(line.rows[0].benchmark.get("experiment", ""), 0)))
        if line.verdict is not None
        else line
        for line in lines
    ]


def write_failures(root: Path, found: Sequence[Failure]) -> None:
    """Keeps them beside the rows; where nothing has failed no file is left."""
    if found:
        write_atomically(root / FAILED, json.dumps(msgspec.to_builtins(found), indent=1, ensure_ascii=False) + "\n")
    else:
        (root / FAILED).unlink(missing_ok=True)


def read_failures(root: Path) -> list[Failure]:
    """Those of a benchmark, by its folder or by its rows in it; none where there is no such file.

    Raises:
        UsageError: if the file is damaged.
    """
    path = (root if root.is_dir() else root.parent) / FAILED
    if not path.is_file():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Failure])
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: cannot be read ({error}); the benchmark writes it again") from error


def _reasons_of(lost: Sequence[Run], failed: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(reason for run in lost for reason in _reasons(run, failed)))


def _reasons(run: Run, failed: Mapping[str, str]) -> Iterator[str]:
    """Why a run failed, without the place of its log; where one that it needs has failed, why that one did."""
    needed = [need for need in run.needs.values() if need.key in failed]
    for need in needed:
        where = "" if need.name == run.name else f"{need.name}: "
        yield from (f"{where}{reason}" for reason in _reasons(need, failed))
    if not needed:
        yield failed[run.key].partition(" (see ")[0]
