"""The results as a table for the terminal, and as text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_unlearn.errors import printable
from lit_unlearn.reports import wording
from lit_unlearn.reports.averages import with_mean_retrains
from lit_unlearn.reports.comparisons import MARGINS, Margins
from lit_unlearn.reports.rows import (
    NO_ATTACK,
    ORIGINAL,
    RETRAIN,
    Row,
    chance,
    in_order,
    labels,
    reference,
    shown_splits,
    without_repeats,
)
from lit_unlearn.reports.verdict import judge

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Table

UNKNOWN = "\N{EN DASH}"
_TEXT_WIDTH = 110


def percent(fraction: float | None) -> str:
    """A fraction as percent with one decimal; a dash for what is unknown."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.1f}"


def missing_references(rows: Sequence[Row]) -> str:
    """A sentence on references that are missing on the rows' splits, or an empty string."""
    missing = [name for name in (ORIGINAL, RETRAIN) if not rows or any(reference(r, rows, name) is None for r in rows)]
    if not missing:
        return ""
    return f"No {' and no '.join(missing)} row on the same split: forgetting cannot be judged."


def results_table(rows: Sequence[Row]) -> Table:
    """Accuracy in percent on each split, for every model without an attack and after each one.

    Args:
        rows: result rows; Original and Retrain are put first.

    Returns:
        A table for ``rich.print``; of several Retrains it has the mean. Unknown values are dashes. A run that did not
        end well is marked with its reason.
    """
    from rich.table import Table
    from rich.text import Text

    rows = with_mean_retrains(in_order(without_repeats(rows)))
    table = Table(title="Accuracy, %", caption=Text(_caption(rows)), caption_justify="left", title_justify="left")
    table.add_column("Model", overflow="fold")
    table.add_column("State", overflow="fold")
    splits = shown_splits(rows)
    for heading in splits.values():
        table.add_column(heading.replace("-", "-\n").replace(" ", "\n"), justify="right")
    for row, label in zip(rows, labels(rows), strict=True):
        for state, known in row.accuracies().items():
            name, style = (label, "bold") if state == NO_ATTACK else ("", "")
            cells = [percent(known.get(split)) for split in splits]
            table.add_row(Text(printable(name), style="bold"), _Name(printable(state), style), *cells)
        if row.status != "ok":
            table.add_row("", Text(printable(f"{row.status}: {row.reason}".removesuffix(": ")), style="bold red"))
        table.add_section()
    return table


class _Name:
    """A name of an attack, which a narrow column breaks behind ``/`` and ``_``; Rich would break it anywhere.

    Args:
        text: the name.
        style: as Rich calls it.
    """

    def __init__(self, text: str, style: str) -> None:
        self.text = text
        self.style = style
        self.parts = re.findall(r"[^/_]+[/_]*|[/_]+", text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """The width of the longest part, and of all."""
        from rich.measure import Measurement

        return Measurement(max(map(len, self.parts), default=0), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many parts in a line as there is room for."""
        from rich.text import Text

        lines = [""]
        for part in self.parts:
            if lines[-1] and len(lines[-1] + part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), style=self.style, overflow="fold")


def plain_table(rows: Sequence[Row], margins: Margins = MARGINS) -> str:
    """The table as text, with the verdict on each method and its headline below.

    Args:
        rows: result rows, as in :func:`results_table`.
        margins: what counts as a difference.
    """
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=_TEXT_WIDTH, force_jupyter=False, color_system=None).print(results_table(rows))
    return text.getvalue() + "".join(f"{line}\n" for line in verdict_lines(rows, margins))


def verdict_lines(rows: Sequence[Row], margins: Margins = MARGINS) -> list[str]:
    """The verdict on each method with its headline, its flags and the attacks that were left out, a line each.

    Of Original and Retrain, only attacks that raised an error are named.

    Args:
        rows: result rows, as in :func:`results_table`.
        margins: what counts as a difference.
    """
    rows, lines = in_order(without_repeats(rows)), []
    for row, label in zip(rows, labels(rows), strict=True):
        if row.method not in (ORIGINAL, RETRAIN):
            verdict = judge(row, rows, margins)
            line = f"{label}: {wording.title(verdict)}. {wording.headline(row, verdict)}"
            more = [*wording.flag_lines(row, verdict), *(wording.left_out(row) if row.status == "ok" else ())]
            said = [line, *(f"{label}: {each}" for each in more)]
            lines += [each.replace("\N{NO-BREAK SPACE}", " ") for each in said]
    return [printable(line) for line in (*lines, *wording.raised_on_references(rows))]


def _caption(rows: Sequence[Row]) -> str:
    lines = [missing_references(rows)]
    if levels := sorted({value for row in rows if (value := chance(row)) is not None}):
        lines.append(f"Chance level among the forgotten classes: {', '.join(map(percent, levels))} %.")
    lines += [f"Warning: {text}." for text in dict.fromkeys(text for row in rows for text in row.warnings)]
    return printable("\n".join(filter(None, lines)))
