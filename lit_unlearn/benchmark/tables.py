"""The table of a benchmark as text: for a terminal, a Markdown page, a spreadsheet."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_unlearn.benchmark.summary import Summary, Value
from lit_unlearn.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

_EDGES, _PADDING = 4, 3


def text_of(value: Value | None, unit: str) -> str:
    """A cell: ``93.1 ± 0.4``; a dash for what is unknown."""
    if value is None:
        return "–"
    digits = 0 if (unit == "s" and value.mean >= 10) or unit == "% of Retrain" else 1
    spread = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{round(value.mean, digits) + 0.0:.{digits}f}{spread}"  # + 0.0: no "-0.0"


def markdown(summary: Summary) -> str:
    """The table in Markdown; runs that did not end well are noted behind a method's name."""
    judged = _judged(summary)
    lines = [
        f"| {' | '.join(['Model', *(name for name, _ in judged), *(column.heading for column in summary.columns)])} |",
        f"|---|{'---|' * len(judged)}{'---:|' * len(summary.columns)}",
    ]
    for place, line in enumerate(summary.lines):
        label = _inert(f"{line.label} [{line.note}]" if line.note else line.label)
        texts = [cells[place] for _, cells in judged]
        cells = [text_of(value, column.unit) for value, column in zip(line.values, summary.columns, strict=True)]
        lines.append(f"| {' | '.join([label, *texts, *cells])} |")
    return "\n".join(lines)


def _judged(summary: Summary) -> list[tuple[str, list[str]]]:
    """The columns of text, a heading and a cell for each line: the verdict, what decides it, what supports it."""
    columns = [
        ("Verdict", [line.title or "–" for line in summary.lines]),
        ("Excess over Retrain", [line.excess or "–" for line in summary.lines]),
        ("Bounds below margin", [line.below or "–" for line in summary.lines]),
    ]
    return [column for column in columns if any(cell != "–" for cell in column[1])]


def _inert(text: str) -> str:
    """Text that neither ends a cell of Markdown nor is HTML in it."""
    return html.escape(printable(text).replace("\n", " "), quote=False).replace("|", "\\|")


def terminal_tables(summary: Summary, width: int) -> list[Table]:
    """The table for ``rich.print``, in as many pieces below one another as a terminal of this width needs."""
    from rich.text import Text

    labels = [printable(f"{line.label} {line.note}".strip()) for line in summary.lines]
    columns = [[heading, *cells] for heading, cells in _judged(summary)] + [
        [column.heading, *(text_of(line.values[place], column.unit) for line in summary.lines)]
        for place, column in enumerate(summary.columns)
    ]
    first = min(width // 3, max(map(len, ["Model", *labels])))
    room = width - first - _EDGES
    pieces = [_piece(labels, first, part, room) for part in _fitting(columns, room)]
    pieces[0].title = Text(printable(summary.title))
    pieces[-1].caption = Text(printable("\n".join(summary.notes)))
    return pieces


def _fitting(columns: Sequence[Sequence[str]], room: int) -> list[list[Sequence[str]]]:
    """Cuts a row of columns, a heading and its cells each, into rows that take this many characters, one at least."""
    parts: list[list[Sequence[str]]] = [[]]
    left = room
    for column in columns:
        need = _narrowest(column) + _PADDING
        if need > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= need
    return parts


def _narrowest(column: Sequence[str]) -> int:
    """The characters of a column whose heading goes over several lines."""
    return max(map(len, [*column[0].split(), *column[1:]]))


def _piece(labels: Sequence[str], width: int, columns: Sequence[Sequence[str]], room: int) -> Table:
    """A table whose headings go over several lines where they must; rich by itself would cut their words."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title_justify="left", caption_justify="left")
    table.add_column("Model", overflow="fold", width=width)
    tight = sum(max(map(len, column)) + _PADDING for column in columns) > room
    for column in columns:
        table.add_column(column[0], justify="right", width=_narrowest(column) if tight else None)
    for label, *cells in zip(labels, *(column[1:] for column in columns), strict=True):
        table.add_row(Text(label), *cells)
    return table


def comma_separated(summaries: Sequence[Summary]) -> str:
    """All tables as CSV, one number a line; the first line names the columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["data", "scenario", "model", "quantity", "unit", "mean", "std", "n", "to_retrain", "note", "suite"]
    )
    for summary in summaries:
        for line in summary.lines:
            for value, column in zip(line.values, summary.columns, strict=True):
                numbers = [None, None, 0, None] if value is None else [value.mean, value.std, value.n, value.delta]
                place = [summary.data, summary.scenario, line.label, column.title, column.unit]
                writer.writerow([*place, *numbers, line.note, summary.suite])
    return out.getvalue()
