"""Runs of a grid that have left no row: which experiments lack them, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lit_unlearn.benchmark.runs import Run
from lit_unlearn.benchmark.summary import Summary


def with_failures(summaries: Sequence[Summary], runs: Sequence[Run], failed: Mapping[str, str]) -> list[Summary]:
    """The tables, each with a note on every experiment of its scenario some of whose runs have failed.

    Args:
        summaries: of the rows that are there.
        runs: of the grid.
        failed: key of a run → why it failed.
    """
    found = []
    for summary in summaries:
        own: dict[str, list[Run]] = {}
        for run in runs:
            if run.reports and run.scenario == summary.scenario:
                own.setdefault(run.name, []).append(run)
        lost = {name: [run for run in each if run.key in failed] for name, each in own.items()}
        notes = [_note(name, lost[name], len(own[name]), failed) for name in lost if lost[name]]
        without = [name for name in lost if len(lost[name]) == len(own[name])]
        found.append(replace(summary, notes=[*summary.notes, *notes], without_rows=without))
    return found


def _note(name: str, lost: Sequence[Run], count: int, failed: Mapping[str, str]) -> str:
    reasons = dict.fromkeys(reason for run in lost for reason in _reasons(run, failed))
    how_many = f"all {count} runs" if len(lost) == count > 1 else f"{len(lost)} of {count} runs"
    return f"{name}: {how_many} failed, and are not in the table: {'; '.join(reasons)}."


def _reasons(run: Run, failed: Mapping[str, str]) -> Iterator[str]:
    """Why a run failed, without the place of its log; where one that it needs has failed, why that one did."""
    needed = [need for need in run.needs.values() if need.key in failed]
    for need in needed:
        where = "" if need.name == run.name else f"{need.name}: "
        yield from (f"{where}{reason}" for reason in _reasons(need, failed))
    if not needed:
        yield failed[run.key].partition(" (see ")[0]
