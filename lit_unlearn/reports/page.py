"""The report as one HTML file without links to others, and its first part as a fragment for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_unlearn.files import write_atomically
from lit_unlearn.reports import figures, gallery, verdict, wording
from lit_unlearn.reports.averages import with_mean_retrains
from lit_unlearn.reports.comparisons import MARGINS, Comparison, Margins
from lit_unlearn.reports.gallery import Artifacts
from lit_unlearn.reports.rows import (
    NO_ATTACK,
    ORIGINAL,
    RETRAIN,
    SPLITS,
    Row,
    chance,
    in_order,
    labels,
    reference,
    shown_splits,
    without_repeats,
)
from lit_unlearn.reports.scores import TERMS, Gap, gap_to_retrain, unlearning_scores
from lit_unlearn.reports.table import UNKNOWN, missing_references, percent
from lit_unlearn.reports.templates import environment
from lit_unlearn.reports.verdict import Verdict

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE, FRAGMENT = "page.html.j2", "fragment.html.j2"
_OPEN = ("not judged", "cannot tell", "not attacked enough", "inconclusive")
"""Levels that say nothing for or against a model."""


@dataclass(frozen=True)
class Entry:
    """A row with what the page says about it."""

    row: Row
    label: str
    verdict: Verdict | None
    scores: dict[str, float]
    gap: Gap | None = None

    @property
    def title(self) -> str:
        """The verdict in a few words."""
        return wording.title_with_utility(self.verdict) if self.verdict else ""

    @property
    def mark(self) -> str:
        """CSS class of the verdict: good, warn, bad or none."""
        if self.verdict is None or self.verdict.level in _OPEN:
            return "none"
        if self.verdict.level != "as Retrain" or self.verdict.utility == "damaged":
            return "bad"
        return "good" if self.verdict.good else "warn"

    @property
    def headline(self) -> str:
        """The verdict with its numbers."""
        return " ".join(filter(None, self.statement))

    @property
    def statement(self) -> tuple[str, str]:
        """The verdict as a sentence, and the numbers that it is based on."""
        return wording.statement(self.row, self.verdict) if self.verdict else ("", "")

    @property
    def choice(self) -> str:
        """How the attack of the headline is chosen."""
        return wording.choice(self.verdict) if self.verdict else ""

    @property
    def remarks(self) -> list[str]:
        """What qualifies the verdict."""
        return wording.remarks(self.row, self.verdict) if self.verdict else []

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """Group → setting → value as text, nested arguments by their dotted names."""
        row = self.row
        run: dict[str, Any] = {"seed": row.seed, "epochs": row.epochs, "batch_size": row.batch_size}
        run |= {"devices": row.devices, "precision": row.precision, "started": row.started, "commit": row.commit}
        groups = {"method": row.hyperparameters, "optimizer": row.optimizer, "backbone": row.backbone}
        groups |= {"data": row.data, "split": row.split, "run": run, "weights": row.weights, "versions": row.versions}
        seconds = {phase: f"{value:.1f} s" for phase, value in row.seconds.items()}
        groups |= {"seconds": seconds, "measured by an earlier run": row.kept}
        return {name: found for name, values in groups.items() if (found := dict(_flat(values)))}


@dataclass(frozen=True)
class TableCell:
    """A number of the table and, for a method, its distance to Retrain in points, with bounds where it is compared."""

    text: str
    delta: str = ""
    above: bool = False


def write_page(
    path: str | Path, rows: Sequence[Row], artifacts: Artifacts | None = None, margins: Margins = MARGINS
) -> None:
    """Write the report on ``rows``.

    Args:
        path: HTML file to write.
        rows: result rows: methods, and for a verdict also Original and Retrains on the same split.
        artifacts: pictures and maps of the attacks by the ``method`` of a row, if there are any.
        margins: what counts as a difference.

    Raises:
        OSError: if the file cannot be written.
    """
    write_atomically(Path(path), render(rows, artifacts, margins))


def render(rows: Sequence[Row], artifacts: Artifacts | None = None, margins: Margins = MARGINS) -> str:
    """The report as HTML; text from the rows is escaped. Of several Retrains the mean is shown."""
    rows = in_order(without_repeats(rows))
    shown = with_mean_retrains(rows)
    entries = _entries(rows, shown, margins)
    context = _context(entries, rows, shown)
    return _template(TEMPLATE, shown).render(context | _figures(entries, shown, artifacts or {}))


def fragment(rows: Sequence[Row], margins: Margins = MARGINS) -> str:
    """The first part of the report for a notebook: headline, verdict, remarks and the table of accuracies.

    Args:
        rows: result rows, as in :func:`write_page`.
        margins: what counts as a difference.

    Returns:
        One HTML element with a style of its own that leaves the notebook's alone, and without a script.
    """
    rows = in_order(without_repeats(rows))
    shown = with_mean_retrains(rows)
    entries = _entries(rows, shown, margins)
    return _template(FRAGMENT, shown).render(_context(entries, rows, shown))


def _template(name: str, rows: Sequence[Row]) -> Template:
    made = environment()
    made.globals["reference"] = lambda row, name: reference(row, rows, name)
    made.globals["cell"] = lambda entry, state, split: _cell(entry, rows, state, split)
    return made.get_template(name)


def _entries(rows: Sequence[Row], shown: Sequence[Row], margins: Margins) -> list[Entry]:
    """An entry for each row that is shown."""
    entries = []
    for row, label in zip(shown, labels(shown), strict=True):
        judged = None if row.method in (ORIGINAL, RETRAIN) else verdict.judge(row, rows, margins)
        retrain = reference(row, shown, RETRAIN)
        scores = unlearning_scores(row) | _seconds(row, retrain)
        entries.append(Entry(row, label, judged, scores, gap_to_retrain(row, retrain)))
    return entries


def _context(entries: Sequence[Entry], rows: Sequence[Row], shown: Sequence[Row]) -> dict[str, Any]:
    """What the first part of the report needs."""
    methods = [entry for entry in entries if entry.verdict]
    return {
        "entries": entries,
        "methods": methods,
        "title": _title(methods),
        "evidence": methods[0].statement[1] if len(methods) == 1 else "",
        "missing": missing_references(rows),
        "warnings": [
            *(text for entry in methods for text in _warnings(entry, rows)),
            *wording.raised_on_references(rows),
        ],
        "splits": shown_splits(shown),
        "no_attack": NO_ATTACK,
    }


def _figures(entries: Sequence[Entry], rows: Sequence[Row], artifacts: Artifacts) -> dict[str, Any]:
    """What the other parts need: names of attacks and measurements, and drawings."""
    from markupsafe import Markup

    methods = [entry for entry in entries if entry.verdict]
    curves = {e.label: [Markup(figures.curves(e.row, name)) for name in figures.curve_groups(e.row)] for e in methods}
    stages = {entry.label: _stages(entry.row, rows) for entry in methods}
    measurements = _measurements(rows)
    return {
        "measured": [entry for entry in entries if any(entry.row.accuracies().values())],
        "scores": [name for name in TERMS if name != "MIA" or any(name in entry.scores for entry in entries)],
        "levels": sorted({level for row in rows if (level := chance(row)) is not None}),
        "attacks": _attacks(rows),
        "measurements": [name for name in measurements if name.count("/") < 3],
        "by_stage": [name for name in measurements if name.count("/") == 3],
        "main_split": "test_forget_acc" if _knows(rows, "test_forget_acc") else "forget_acc",
        "intervals": {e.label: (Markup(figures.interval_plot(e.verdict)), e.choice) for e in methods if e.verdict},
        "bars": Markup(figures.recovery_bars(rows)),
        "hidden": figures.hidden_states(rows),
        "curves": {label: drawn for label, drawn in curves.items() if drawn},
        "stages": {label: drawn for label, drawn in stages.items() if drawn},
        "maps": {name: Markup(figures.feature_map(panels)) for name, panels in gallery.maps(artifacts).items()},
        "grids": gallery.grids(artifacts),
    }


def _stages(row: Row, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Attack → drawings of what it measured stage by stage."""
    from markupsafe import Markup

    return {
        attack: [Markup(figures.stage_lines(row, rows, attack, quantity)) for quantity in quantities]
        for attack, quantities in figures.stage_groups(row, rows).items()
    }


def _seconds(row: Row, retrain: Row | None) -> dict[str, float]:
    """Seconds of unlearning, and the shares of Retrain's seconds and images in percent; the unknown is left out."""
    found = {"seconds": row.seconds["unlearn"]} if "unlearn" in row.seconds else {}
    if found and retrain and retrain.seconds.get("unlearn"):
        found["share"] = 100 * found["seconds"] / retrain.seconds["unlearn"]
    if row.images_seen and retrain and retrain.images_seen:
        found["images"] = 100 * row.images_seen / retrain.images_seen
    return found


def _title(methods: Sequence[Entry]) -> str:
    if not methods:
        return "These results have no unlearned model, only references."
    if len(methods) == 1:
        return methods[0].statement[0]
    good = sum(entry.verdict is not None and entry.verdict.good for entry in methods)
    return f"Runs that are as Retrain under their attacks and keep utility: {good} of {len(methods)}."


def _warnings(entry: Entry, rows: Sequence[Row]) -> Iterator[str]:
    """What the row itself says is doubtful, and a reference that is of another network."""
    yield from (f"{entry.label}: {text}." for text in entry.row.warnings)
    yield from (f"{entry.label}: {line}" for line in wording.flag_lines(entry.row, entry.verdict))
    found = {name: reference(entry.row, rows, name) for name in (ORIGINAL, RETRAIN)}
    other = [name for name, row in found.items() if row is not None and row.backbone != entry.row.backbone]
    if other:
        yield f"{entry.label} is compared with {' and '.join(other)} of another backbone."


def _attacks(rows: Sequence[Row]) -> list[str]:
    """Attacks that measured an accuracy, the strongest on any method first."""
    main = "test_forget_acc" if _knows(rows, "test_forget_acc") else "forget_acc"
    strength: dict[str, float] = {}
    for row in rows:
        for attack, known in row.accuracies().items():
            value = -1.0 if row.method in (ORIGINAL, RETRAIN) else known.get(main, -1.0)
            strength[attack] = max(value, strength.get(attack, -1.0))
    return sorted((attack for attack in strength if attack != NO_ATTACK), key=lambda attack: -strength[attack])


def _knows(rows: Sequence[Row], split: str) -> bool:
    return any(split in known for row in rows for known in row.accuracies().values())


def _measurements(rows: Sequence[Row]) -> list[str]:
    """Quantities of the attacks, and metrics, other than accuracies on a split."""
    names = {k for row in rows for k in (*row.attacks, *row.metrics) if k.rpartition("/")[2] not in SPLITS}
    return sorted(names)


def _cell(entry: Entry, rows: Sequence[Row], state: str, split: str) -> TableCell:
    row = entry.row
    value = row.accuracies().get(state, {}).get(split)
    retrain = reference(row, rows, RETRAIN)
    base = retrain.accuracies().get(state, {}).get(split) if retrain else None
    if value is None or base is None or entry.verdict is None:
        return TableCell(percent(value))
    found = _comparison(entry.verdict, state, split)
    delta = f"{100 * (value - base):+.1f}".replace("-", "\N{MINUS SIGN}") if found is None else wording.bounds(found)
    return TableCell(percent(value), delta, found is not None and found.leaks)


def _comparison(judged: Verdict, state: str, split: str) -> Comparison | None:
    """The comparison that is of this accuracy; none is of the end of relearning, where its mean is compared."""
    wanted = (state, split, "accuracy")
    return next((each for each in judged.comparisons if (each.attack, each.split, each.unit) == wanted), None)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", UNKNOWN if value is None or value == "" else _text(value)


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or UNKNOWN
    return f"{value:g}" if isinstance(value, float) else str(value)
