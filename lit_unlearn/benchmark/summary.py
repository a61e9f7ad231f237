"""Many rows in one table: mean and standard deviation over seeds, for each experiment of each scenario.

A run that did not end well gives no number, and is counted in a note. A quantity that no row has gets no column; one
that only some rows have is averaged over those.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lit_unlearn.benchmark.columns import COLUMNS, Column
from lit_unlearn.benchmark.grouping import Group, Retrains, by_label, groups_of, retrains_of, seed_of
from lit_unlearn.reports import wording
from lit_unlearn.reports.averages import mean_row, one_an_original
from lit_unlearn.reports.comparisons import MARGINS, Margins
from lit_unlearn.reports.numbers import IDI
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, shortened
from lit_unlearn.reports.scores import TERMS, gap_to_retrain
from lit_unlearn.reports.verdict import Level, Verdict, judge_models

_ALL_TERMS = ", ".join(TERMS)
_RANKED: tuple[Level, ...] = ("leaks", "cannot tell", "not attacked enough", "as Retrain", "inconclusive")
"""Levels of models that have a rank by depth: those that have forgotten at least without an attack."""
_UNUSED = "IDI is not shown: Original's stages say hardly more of the forget set than Retrain's."
"""A note where no verdict compares IDI, for it is a share of a lead that Original hardly has."""


@dataclass(frozen=True)
class Value:
    """Mean and standard deviation over n models, those of one Original as one; the deviation of one is unknown.

    ``delta`` is the mean distance to the Retrain of the same seed, None where there is none.
    """

    mean: float
    std: float | None
    n: int
    delta: float | None = None


@dataclass(frozen=True)
class Line:
    """All seeds of one experiment.

    Attributes:
        label: the method, and the experiment where a method has several.
        rows: its rows, one a seed and attack.
        values: one a column, None where it is unknown.
        note: runs that did not end well, or an empty text.
        mean: a row whose numbers are the means; None where no run ended well.
        verdict: the judgement on all its models; None for the references.
        gap_rank: place by distance to Retrain among methods whose utility is not damaged, 1 is the nearest.
        depth_rank: place among those of them that have forgotten by the largest lower bound of an excess over Retrain,
            1 is the lowest.
    """

    label: str
    rows: Sequence[Row]
    values: Sequence[Value | None]
    note: str
    mean: Row | None = None
    verdict: Verdict | None = None
    gap_rank: int | None = None
    depth_rank: int | None = None

    @property
    def title(self) -> str:
        """The verdict in a few words, with what is to be said of utility; empty for a reference or without a result."""
        return wording.title_with_utility(self.verdict) if self.verdict else ""

    @property
    def excess(self) -> str:
        """The excess over Retrain that decides, with its bounds, and the attack; empty where nothing was compared."""
        worst = None if self.verdict is None else self.verdict.worst
        return "" if worst is None else f"{wording.bounds(worst)} {worst.attack}"

    @property
    def below(self) -> str:
        """Of how many compared numbers the upper bound is below the margin, as ``35 of 39``; empty where of none."""
        found = self.verdict
        return "" if found is None or not found.comparisons else f"{found.below} of {len(found.comparisons)}"


@dataclass(frozen=True)
class Summary:
    """The table of one scenario on one data set under one suite of attacks.

    Attributes:
        data: the data set, and how many training images.
        scenario: what is forgotten, by its name in the benchmark.
        suite: name and version of the attacks, or an empty text.
        alone: whether the scenario has this table only.
        without_rows: experiments of which no run has left a row, where that is known.
        columns: quantities.
        lines: models, Original and Retrain first.
        notes: what a reader must know.
    """

    data: str
    scenario: str
    suite: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str]
    alone: bool = True
    without_rows: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Data and scenario, and the suite where the scenario has several."""
        suite = "" if self.alone else self.suite or "no named suite"
        return ", ".join(filter(None, (self.data, self.scenario, suite)))

    def value(self, line: Line, role: str) -> Value | None:
        """What a line has in the column of that role."""
        places = [place for place, column in enumerate(self.columns) if column.role == role]
        return line.values[places[0]] if places else None


def summarise(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS, margins: Margins = MARGINS) -> list[Summary]:
    """A table for each data set, scenario and suite of the rows of benchmarks, in the order in which they come.

    Raises:
        UsageError: if a row is of no benchmark.
    """
    return [_summary(group, columns, margins) for group in groups_of(rows)]


def _summary(group: Group, columns: Sequence[Column], margins: Margins) -> Summary:
    used, retrains = group.rows, retrains_of(group.rows)
    classes = any(row.split.get("forgotten_classes") for row in used)
    columns = [column for column in columns if column.classes in (None, classes)]
    lines = [_line(label, own, columns, retrains) for label, own in by_label(used).items()]
    lines.sort(key=lambda line: {ORIGINAL: 0, RETRAIN: 1}.get(line.label, 2))
    lines = _judged(lines, margins)
    compared = {each.attack for line in lines if line.verdict for each in line.verdict.comparisons}
    unused = {"index"} if compared and IDI not in compared else set()
    known = [place for place in range(len(columns)) if any(line.values[place] for line in lines)]
    kept = [place for place in known if columns[place].role not in unused]
    lines = [replace(line, values=[line.values[place] for place in kept]) for line in lines]
    terms = _gap_terms(lines, retrains)
    notes = [*group.notes, *_notes(used, retrains), *_gap_notes(terms)]
    notes += [_UNUSED] if len(kept) < len(known) else []
    notes += _flag_notes(lines)
    columns = [_with_terms(columns[place], set(terms.values())) for place in kept]
    summary = Summary(group.data, group.scenario, group.suite, columns, lines, notes, group.alone)
    return replace(summary, lines=_ranked(summary, lines))


def _line(label: str, rows: Sequence[Row], columns: Sequence[Column], retrains: Retrains) -> Line:
    good = [row for row in rows if row.status == "ok"]
    reference = label in (ORIGINAL, RETRAIN)
    pairs = [(row, retrains.get(seed_of(row))) for row in (good if reference else one_an_original(good))]
    return Line(label, rows, [_value(c, pairs, reference) for c in columns], _note(rows), _mean(label, good))


def _value(column: Column, pairs: Sequence[tuple[Row, Row | None]], reference: bool) -> Value | None:
    numbers, deltas = [], []
    for row, retrain in pairs:
        number = column.of(row, retrain)
        if number is None or not math.isfinite(number):
            continue
        numbers.append(number)
        alone = reference or column.role == "gap" or column.unit == "% of Retrain"
        base = None if retrain is None or alone else column.of(retrain, retrain)
        deltas += [] if base is None else [number - base]
    if not numbers:
        return None
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Value(statistics.fmean(numbers), spread, len(numbers), statistics.fmean(deltas) if deltas else None)


def _gap_terms(lines: Sequence[Line], retrains: Retrains) -> dict[str, str]:
    """Label → the terms that the gaps of its rows are of, for all lines that have one."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        for row in line.rows:
            if row.status == "ok" and (gap := gap_to_retrain(row, retrains.get(seed_of(row)))):
                found.setdefault(line.label, {})[gap.label] = None
    return {label: " or ".join(terms) for label, terms in found.items()}


def _with_terms(column: Column, terms: set[str]) -> Column:
    """The column; that of the gap names its terms where all gaps are of the same three."""
    if column.role != "gap" or len(terms) != 1 or terms == {_ALL_TERMS}:
        return column
    return replace(column, title=f"{column.title} ({next(iter(terms))})")


def _gap_notes(terms: Mapping[str, str]) -> Iterator[str]:
    """Which gaps are of other terms than those of the other models."""
    if len(set(terms.values())) > 1:
        for found in sorted(set(terms.values()) - {_ALL_TERMS}):
            labels = ", ".join(label for label, own in terms.items() if own == found)
            yield f"The gap is the mean over {found} for {labels}, and over {_ALL_TERMS} for other models."


def _mean(label: str, rows: Sequence[Row]) -> Row | None:
    """A row that stands for all: the first one's settings, and the mean of each number over the rows that have it."""
    if not rows:
        return None
    split = {**rows[0].split, "hash": "mean"}  # so that references of other splits stand beside it
    return mean_row(rows, method=label, split=split)


def _judged(lines: Sequence[Line], margins: Margins) -> list[Line]:
    """The lines with the verdict on the models of each method."""
    known = {line.label: [row for row in line.rows if row.status == "ok"] for line in lines}
    originals, retrains = (known.get(name, []) for name in (ORIGINAL, RETRAIN))
    return [
        line
        if line.label in (ORIGINAL, RETRAIN) or line.mean is None
        else replace(line, verdict=judge_models(line.rows, retrains, originals, margins))
        for line in lines
    ]


def _ranked(summary: Summary, lines: Sequence[Line]) -> list[Line]:
    """The lines with their ranks.

    One with damaged utility has none, because attacks recover little from it too. One that has not forgotten has none
    by depth, whatever an attack recovers.
    """
    useful = {n: line for n, line in enumerate(lines) if line.verdict and line.verdict.utility != "damaged"}
    forgot = {n: line.verdict for n, line in useful.items() if line.verdict and line.verdict.level in _RANKED}
    gap = _places({n: value.mean for n, line in useful.items() if (value := summary.value(line, "gap"))})
    depth = _places({n: found for n, verdict in forgot.items() if (found := verdict.depth) is not None})
    return [replace(line, gap_rank=gap.get(n), depth_rank=depth.get(n)) for n, line in enumerate(lines)]


def _places(values: Mapping[int, float]) -> dict[int, int]:
    """The place of each value, 1 for the smallest; equal ones share theirs."""
    return {number: 1 + sum(other < value for other in values.values()) for number, value in values.items()}


def _note(rows: Sequence[Row]) -> str:
    counts = Counter(row.status for row in rows if row.status != "ok")
    return ", ".join(f"{count} of {len(rows)} {status}" for status, count in counts.items())


def _flag_notes(lines: Sequence[Line]) -> Iterator[str]:
    """A sentence for each flag, with the methods that have it where it says the same of all of them."""
    said: dict[str, list[str]] = {}
    for line in lines:
        for row in line.rows[:1]:
            for text in wording.flag_lines(row, line.verdict):
                said.setdefault(text, []).append(line.label)
    every = [line.label for line in lines if line.verdict is not None]
    for text, labels in said.items():
        yield f"{'All methods' if labels == every and len(every) > 1 else ', '.join(labels)}: {text}"


def _notes(rows: Sequence[Row], retrains: Retrains) -> Iterator[str]:
    seeds = sorted(
        {str(seed) for row in rows if (seed := seed_of(row)[0]) is not None and seed_of(row) not in retrains}
    )
    if seeds:
        yield f"No Retrain of training seed {', '.join(seeds)}: its rows have no gap."
    if not any(row.method == ORIGINAL and row.status == "ok" for row in rows):
        yield "No Original: the loss of utility is unknown."
    sources = {
        "commits": {str(row.commit) for row in rows},
        "splits": {str(row.split.get("hash")) for row in rows},
    }
    for name, found in sources.items():
        if len(found) > 1:
            yield f"The rows come from {len(found)} {name}: {', '.join(sorted(map(shortened, found)))}."
    said: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            said.setdefault(warning, []).append(row.method)
    for warning, methods in said.items():
        yield f"{', '.join(dict.fromkeys(methods))}: {warning}."
