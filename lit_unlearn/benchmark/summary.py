"""Many rows in one table: mean and standard deviation over seeds, for each experiment of each scenario.

A run that did not end well gives no number, and is counted beside those that did. A quantity that no row has gets no
column; one that only some have is averaged over those, which the cell says.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.evaluation import gap_to_retrain
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row

Quantity = Callable[[Row, Row | None], float | None]
"""From a row and the Retrain of the same seed and split to a number, or None where it is unknown."""


@dataclass(frozen=True)
class Column:
    """A quantity of the table.

    Attributes:
        title: heading, with an arrow where one direction is better.
        unit: ``%`` for percent or percentage points, ``s`` for seconds.
        of: what it shows.
        classes: whether it exists for class unlearning (True), for single images (False), or for both (None).
    """

    title: str
    unit: str
    of: Quantity
    classes: bool | None = None


@dataclass(frozen=True)
class Value:
    """Mean and standard deviation over n rows; the deviation of one row is unknown."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Line:
    """All seeds of one experiment.

    Attributes:
        label: what a person reads.
        rows: one a seed.
        values: one a column, None where it is unknown.
        note: what did not go well, or an empty text.
    """

    label: str
    rows: Sequence[Row]
    values: Sequence[Value | None]
    note: str


@dataclass(frozen=True)
class Summary:
    """The table of one scenario."""

    scenario: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str]


def _percent(name: str) -> Quantity:
    """A fraction that was scored or found by an attack, in percent."""

    def of(row: Row, retrain: Row | None) -> float | None:
        value = row.metrics.get(name, row.attacks.get(name))
        return None if value is None else 100 * value

    return of


def _unlearning_accuracy(row: Row, retrain: Row | None) -> float | None:
    value = row.metrics.get("forget_acc")
    return None if value is None else 100 - 100 * value


def _gap(row: Row, retrain: Row | None) -> float | None:
    if retrain is None:
        return None
    return gap_to_retrain({**row.metrics, **row.attacks}, {**retrain.metrics, **retrain.attacks}).get("mean")


def _seconds(row: Row, retrain: Row | None) -> float | None:
    return row.seconds.get("unlearn")


COLUMNS = (
    Column("UA", "%", _unlearning_accuracy),
    Column("RA", "%", _percent("retain_acc")),
    Column("TA", "%", _percent("test_retain_acc")),
    Column("Test forgotten", "%", _percent("test_forget_acc"), classes=True),
    Column("MIA", "%", _percent("membership/svc/efficacy")),
    Column("Gap ↓", "%", _gap),
    Column("FM test forgotten", "%", _percent("recovery/fm/test_forget_acc"), classes=True),
    Column("HR test forgotten", "%", _percent("recovery/hr/test_forget_acc"), classes=True),
    Column("Worst test forgotten", "%", _percent("recovery/worst/test_forget_acc"), classes=True),
    Column("FM forget", "%", _percent("recovery/fm/forget_acc"), classes=False),
    Column("HR forget", "%", _percent("recovery/hr/forget_acc"), classes=False),
    Column("Worst forget", "%", _percent("recovery/worst/forget_acc"), classes=False),
    Column("Memorised", "%", _percent("recovery/worst/gap"), classes=False),
    Column("Seconds", "s", _seconds),
)


def summarise(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> list[Summary]:
    """A table for each scenario that the rows of benchmarks are of, in the order in which they come.

    Raises:
        UsageError: if a row is of no benchmark.
    """
    for row in rows:
        if not row.benchmark:
            raise UsageError(
                f"a row of {row.method} is of no benchmark: only rows.json of a benchmark can be summarised"
            )
    scenarios = dict.fromkeys(row.benchmark["scenario"] for row in rows)
    return [_summary(name, [row for row in rows if row.benchmark["scenario"] == name], columns) for name in scenarios]


def _summary(scenario: str, rows: Sequence[Row], columns: Sequence[Column]) -> Summary:
    retrains = {_original_seed(row): row for row in rows if row.method == RETRAIN and row.status == "ok"}
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        reference = row.method in (ORIGINAL, RETRAIN)
        groups.setdefault((row.method, "" if reference else row.benchmark["experiment"]), []).append(row)
    methods = [method for method, _ in groups]
    classes = any(row.split.get("forgotten_classes") for row in rows)
    columns = [column for column in columns if column.classes in (None, classes)]
    lines = []
    for (method, experiment), own in groups.items():
        label = method if methods.count(method) == 1 else f"{method} ({experiment})"
        good = [row for row in own if row.status == "ok"]
        values = [_value([c.of(row, retrains.get(_original_seed(row))) for row in good]) for c in columns]
        lines.append(Line(label, own, values, _note(own)))
    lines.sort(key=lambda line: {ORIGINAL: 0, RETRAIN: 1}.get(line.label, 2))
    used = [index for index in range(len(columns)) if any(line.values[index] for line in lines)]
    kept = [Line(line.label, line.rows, [line.values[i] for i in used], line.note) for line in lines]
    return Summary(scenario, [columns[i] for i in used], kept, list(_notes(rows, retrains)))


def _original_seed(row: Row) -> int | None:
    seed = row.benchmark["seeds"].get("original")
    return None if seed is None else int(seed)


def _value(numbers: Sequence[float | None]) -> Value | None:
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    if not known:
        return None
    return Value(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _note(rows: Sequence[Row]) -> str:
    bad = [row for row in rows if row.status != "ok"]
    counts = {status: sum(row.status == status for row in bad) for status in dict.fromkeys(row.status for row in bad)}
    return ", ".join(f"{count} of {len(rows)} {status}" for status, count in counts.items())


def _notes(rows: Sequence[Row], retrains: dict[int | None, Row]) -> Iterator[str]:
    seeds = sorted({_original_seed(row) for row in rows}, key=lambda seed: -1 if seed is None else seed)
    if lacking := [str(seed) for seed in seeds if seed not in retrains]:
        yield f"No Retrain of training seed {', '.join(lacking)}: its rows have no gap."
    told_apart = {
        "commits": {str(row.commit) for row in rows},
        "splits": {str(row.split["hash"]) for row in rows},
        "suites of attacks": {str(row.versions.get("suite", "none")) for row in rows if row.attacks},
    }
    for name, told in told_apart.items():
        if len(told) > 1:
            yield f"The rows come from {len(told)} {name}: {', '.join(sorted(t[:12] for t in told))}."


def text_of(value: Value | None, unit: str) -> str:
    """A cell: ``93.1 ± 0.4``; a dash for what is unknown."""
    if value is None:
        return "–"
    digits = 1 if unit == "%" or value.mean < 10 else 0
    spread = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


def markdown(summary: Summary) -> str:
    """The table in Markdown, with what did not go well behind a method's name."""
    lines = [
        "| Model | " + " | ".join(column.title for column in summary.columns) + " |",
        "|---|" + "---:|" * len(summary.columns),
    ]
    for line in summary.lines:
        label = f"{line.label} [{line.note}]" if line.note else line.label
        cells = [text_of(value, column.unit) for value, column in zip(line.values, summary.columns, strict=True)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def terminal_table(summary: Summary) -> Table:
    """The table for ``rich.print``."""
    table = Table(
        title=summary.scenario, caption="\n".join(summary.notes), title_justify="left", caption_justify="left"
    )
    table.add_column("Model", overflow="fold")
    for column in summary.columns:
        table.add_column(column.title, justify="right", overflow="fold")
    for line in summary.lines:
        cells = [text_of(value, column.unit) for value, column in zip(line.values, summary.columns, strict=True)]
        table.add_row(f"{line.label} {line.note}".strip(), *cells)
    return table


def comma_separated(summaries: Sequence[Summary]) -> str:
    """All tables as CSV, one number a line: scenario, model, quantity, unit, mean, standard deviation, rows."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scenario", "model", "quantity", "unit", "mean", "std", "n", "note"])
    for summary in summaries:
        for line in summary.lines:
            for value, column in zip(line.values, summary.columns, strict=True):
                numbers = (
                    ["", "", 0] if value is None else [value.mean, "" if value.std is None else value.std, value.n]
                )
                writer.writerow([summary.scenario, line.label, column.title, column.unit, *numbers, line.note])
    return out.getvalue()
