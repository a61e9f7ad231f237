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


def text_of(value: Value | None, unit: str) -> str:
    """A cell: ``93.1 ± 0.4``; a dash for what is unknown."""
    if value is None:
        return "–"
    digits = 0 if unit == "s" and value.mean >= 10 else 1
    spread = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


def markdown(summary: Summary) -> str:
    """The table in Markdown, with what did not go well behind a method's name."""
    lines = [
        "| Model | " + " | ".join(column.heading for column in summary.columns) + " |",
        "|---|" + "---:|" * len(summary.columns),
    ]
    for line in summary.lines:
        label = _inert(f"{line.label} [{line.note}]" if line.note else line.label)
        cells = [text_of(value, column.unit) for value, column in zip(line.values, summary.columns, strict=True)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _inert(text: str) -> str:
    """Text that neither ends a cell of Markdown nor is HTML in it."""
    return html.escape(printable(text).replace("\n", " "), quote=False).replace("|", "\\|")


def terminal_table(summary: Summary) -> Table:
    """The table for ``rich.print``."""
    from rich.table import Table
    from rich.text import Text

    title, caption = (Text(printable(text)) for text in (summary.title, "\n".join(summary.notes)))
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("Model", overflow="fold")
    for column in summary.columns:
        table.add_column(column.heading, justify="right", overflow="fold")
    for line in summary.lines:
        cells = [text_of(value, column.unit) for value, column in zip(line.values, summary.columns, strict=True)]
        table.add_row(Text(printable(f"{line.label} {line.note}".strip())), *cells)
    return table


def comma_separated(summaries: Sequence[Summary]) -> str:
    """All tables as CSV, one number a line: scenario, model, quantity, unit, mean, standard deviation, rows."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["data", "scenario", "model", "quantity", "unit", "mean", "std", "n", "to_retrain", "note"])
    for summary in summaries:
        for line in summary.lines:
            for value, column in zip(line.values, summary.columns, strict=True):
                numbers = [None, None, 0, None] if value is None else [value.mean, value.std, value.n, value.delta]
                told = [summary.data, summary.scenario, line.label, column.title, column.unit]
                writer.writerow([*told, *numbers, line.note])
    return out.getvalue()
