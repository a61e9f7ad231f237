"""The leaderboard: many runs in one HTML file without links to others."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_unlearn.artifacts import Artifact
from lit_unlearn.benchmark.columns import Column
from lit_unlearn.benchmark.summary import Line, Summary, Value
from lit_unlearn.benchmark.tables import text_of
from lit_unlearn.files import write_atomically
from lit_unlearn.reports import figures, gallery
from lit_unlearn.reports.page import Entry
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, shortened
from lit_unlearn.reports.table import UNKNOWN
from lit_unlearn.reports.templates import environment

TEMPLATE, SCRIPT = "leaderboard.html.j2", "leaderboard.js"
HERE = Path(__file__).parent
_PANELS, _PICTURES = 2, 8
_DISTANCE = "representation/distance/retrain_ratio"

Artifacts = Mapping[str, Mapping[str, Artifact]]
"""Key of a row's run and its method, as ``<key>/<method>`` → name → a picture or map of an attack."""


@dataclass(frozen=True)
class Number:
    """A number of the table as the page shows it.

    Attributes:
        text: mean and deviation.
        sort: what it is sorted by; empty where it is unknown.
        delta: mean distance to Retrain, or an empty text.
    """

    text: str
    sort: str = ""
    delta: str = ""


@dataclass(frozen=True)
class Card:
    """One method on the page: the verdict on its models, and drawings."""

    entry: Entry
    line: Line
    intervals: str
    bars: str
    stages: Mapping[str, Sequence[str]]
    grids: Mapping[str, Any]
    maps: Mapping[str, str]


@dataclass(frozen=True)
class Section:
    """One data set and scenario."""

    name: str
    summary: Summary
    headline: str
    scatter: str
    resistance: str
    frontier: str
    table: Sequence[tuple[Line, Entry | None, Sequence[Number]]]
    cards: Sequence[Card]
    seeds: int


def write_leaderboard(
    path: str | Path,
    summaries: Sequence[Summary],
    title: str = "",
    damaged: Sequence[str] = (),
    artifacts: Artifacts | None = None,
) -> None:
    """Write the page.

    Args:
        path: HTML file to write.
        summaries: the tables.
        title: what is compared, for the head of the page.
        damaged: a line for each row that could not be read.
        artifacts: pictures and maps of the attacks, if there are any.
    """
    write_atomically(Path(path), render(summaries, title, damaged, artifacts or {}))


def render(summaries: Sequence[Summary], title: str, damaged: Sequence[str], artifacts: Artifacts) -> str:
    """The page as HTML; text from the rows is escaped."""
    from markupsafe import Markup

    script = (HERE / SCRIPT).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment(HERE)
        .get_template(TEMPLATE)
        .render(
            title=title or "Unlearning leaderboard",
            sections=[_section(number, summary, artifacts) for number, summary in enumerate(summaries)],
            damaged=damaged,
            commits=sorted({shortened(row.commit) for row in _rows(summaries) if row.commit}),
            started=sorted({row.started[:10] for row in _rows(summaries) if row.started}),
            count=len(list(_rows(summaries))),
            script=Markup(script),
            digest=digest,
        )
    )


def _rows(summaries: Sequence[Summary]) -> Iterator[Row]:
    for summary in summaries:
        for line in summary.lines:
            yield from line.rows


def _section(number: int, summary: Summary, artifacts: Artifacts) -> Section:
    from markupsafe import Markup

    entries = {id(line): _entry(line) for line in summary.lines}
    table = [(line, entries[id(line)], _numbers(line, summary)) for line in _by_depth(summary)]
    cards = [_card(line, entry, summary, artifacts) for line, entry, _ in table if entry is not None]
    methods = [line for line in summary.lines if line.verdict is not None] or summary.lines
    seeds = len({row.benchmark["seeds"].get("original") for line in methods for row in line.rows})
    depth, distance, cost = (Markup(draw(summary)) for draw in (scatter, resistance, frontier))
    return Section(f"s{number}", summary, _headline(summary), depth, distance, cost, table, cards, seeds)


def _by_depth(summary: Summary) -> list[Line]:
    """References first, then the methods by depth, those without a place last."""
    last = len(summary.lines) + 1

    def place(line: Line) -> int:
        return 0 if line.label in (ORIGINAL, RETRAIN) else line.depth_rank or last

    return sorted(summary.lines, key=place)


def _entry(line: Line) -> Entry | None:
    """The page's entry for the mean row of a method."""
    return None if line.mean is None or line.verdict is None else Entry(line.mean, line.label, line.verdict, {})


def _numbers(line: Line, summary: Summary) -> list[Number]:
    reference = line.label in (ORIGINAL, RETRAIN)
    return [_number(value, column, reference) for value, column in zip(line.values, summary.columns, strict=True)]


def _number(value: Value | None, column: Column, reference: bool) -> Number:
    if value is None:
        return Number(UNKNOWN)
    text = text_of(value, column.unit)
    if reference or value.delta is None or column.unit != "%":
        return Number(text, f"{value.mean:.6g}")
    return Number(text, f"{value.mean:.6g}", f"{value.delta:+.1f}".replace("-", "\N{MINUS SIGN}"))


def _headline(summary: Summary) -> str:
    """Which methods are as Retrain, and the two ranks of the one nearest to Retrain."""
    judged = [line for line in summary.lines if line.verdict is not None]
    if not judged:
        return "These results have no unlearned model, only references."
    good = [line.label for line in judged if line.verdict and line.verdict.good]
    names = f" ({', '.join(good)})" if 0 < len(good) <= 4 else ""
    text = "Methods that are as Retrain under every attack and keep utility: "
    text += f"{len(good)} of {len(judged)}{names}."
    if summary.without_rows:
        text += f" Without a result: {', '.join(summary.without_rows)}."
    ranked = [line for line in judged if line.gap_rank is not None]
    if not ranked:
        return text
    best = min(ranked, key=lambda line: line.gap_rank or 0)
    if best.depth_rank is not None:
        deep = sum(line.depth_rank is not None for line in judged)
        text += f" {best.label} has the smallest gap and rank {best.depth_rank} of {deep} by depth."
    elif best.verdict and best.verdict.level == "not forgotten":
        text += f" {best.label} has the smallest gap and has not forgotten."
    return text


def scatter(summary: Summary) -> str:
    """Utility against depth as SVG, or an empty text where no method has both."""
    found = [(line, summary.value(line, "utility"), summary.value(line, "depth")) for line in summary.lines]
    points = [_point(line, x, y) for line, x, y in found if x is not None and y is not None]
    titles = {column.role: column.title for column in summary.columns}
    if not points:
        return ""
    return figures.tradeoff(points, "TA: accuracy on retained test images, %", f"{titles['depth']}, %: ↓ deeper")


def resistance(summary: Summary) -> str:
    """Relearning against the distance of the weights as SVG, or an empty text where no method has both."""
    points = []
    for line in summary.lines:
        apart = None if line.mean is None else line.mean.attacks.get(_DISTANCE)
        if apart is not None and (relearnt := summary.value(line, "relearnt")) is not None:
            points.append(_point(line, Value(100 * apart, None, len(line.rows)), replace(relearnt, std=None)))
    if not any(point.label not in (ORIGINAL, RETRAIN) for point in points):
        return ""
    title = next(column.title for column in summary.columns if column.role == "relearnt")
    return figures.tradeoff(points, "Distance from Original in the weights, % of Retrain's", f"{title}, %: ↓ deeper")


def frontier(summary: Summary) -> str:
    """Utility and depth against cost as SVG, or an empty text where no method was run for several numbers of epochs."""
    tracks: dict[tuple[str, str], list[figures.Stop]] = {}
    for line in summary.lines:
        cost, utility = summary.value(line, "cost"), summary.value(line, "utility")
        judged = line.verdict
        if judged is None or judged.depth is None or cost is None or utility is None:
            continue
        name, _, epochs = str(line.rows[0].benchmark["experiment"]).rpartition("@")
        if epochs.isdecimal() and name:
            excess = 100 * judged.depth * judged.comparisons[0].margins.same
            stop = figures.Stop(cost.mean, utility.mean, excess, judged.utility == "damaged")
            tracks.setdefault((line.rows[0].method, name), []).append(stop)
    counts = Counter(method for method, _ in tracks)
    drawn = [
        figures.Track(method if counts[method] == 1 else f"{method} ({name})", stops)
        for (method, name), stops in tracks.items()
    ]
    retrain = next((summary.value(line, "utility") for line in summary.lines if line.label == RETRAIN), None)
    return figures.frontier(drawn, None if retrain is None else retrain.mean)


def _point(line: Line, x: Value, y: Value) -> figures.Point:
    judged = line.verdict
    damaged = judged is not None and judged.utility == "damaged"
    held = judged is not None and judged.level == "as Retrain" and not damaged
    return figures.Point(line.label, x.mean, y.mean, x.std, y.std, held, damaged)


def _card(line: Line, entry: Entry, summary: Summary, artifacts: Artifacts) -> Card:
    from markupsafe import Markup

    means = [other.mean for other in summary.lines if other.mean and other.label in (ORIGINAL, RETRAIN)]
    rows = [*means, entry.row]
    shown = _artifacts_of(line, summary, artifacts)
    stages = {}
    for attack, quantities in figures.stage_groups(entry.row, rows).items():
        drawn = [Markup(figures.stage_lines(entry.row, rows, attack, name)) for name in quantities[:_PANELS]]
        stages[attack] = drawn
    maps = {name: Markup(figures.feature_map(panels)) for name, panels in gallery.maps(shown).items()}
    grids = {
        name: [(label, pictures[:_PICTURES]) for label, pictures in found]
        for name, found in gallery.grids(shown).items()
    }
    intervals = Markup("" if entry.verdict is None else figures.interval_plot(entry.verdict))
    return Card(entry, line, intervals, Markup(figures.recovery_bars(rows)), stages, grids, maps)


def _artifacts_of(line: Line, summary: Summary, artifacts: Artifacts) -> dict[str, Mapping[str, Artifact]]:
    """Artifacts of the first seed that has some: of the method, and of the references of the same seed."""
    for row in line.rows:
        own = artifacts.get(f"{row.benchmark['key']}/{row.method}")
        if own:
            found: dict[str, Mapping[str, Artifact]] = {}
            for other in summary.lines:
                for beside in other.rows if other.label in (ORIGINAL, RETRAIN) else ():
                    same = beside.benchmark["seeds"].get("original") == row.benchmark["seeds"].get("original")
                    found_here = artifacts.get(f"{beside.benchmark['key']}/{beside.method}") if same else None
                    if found_here:
                        found[other.label] = found_here
            return {**found, line.label: own}
    return {}
