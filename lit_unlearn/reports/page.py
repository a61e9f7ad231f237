"""The report: one HTML file that needs nothing else, for a browser, a phone or paper."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_unlearn.files import write_atomically
from lit_unlearn.reports import figures, gallery, verdict, wording
from lit_unlearn.reports.gallery import Artifacts
from lit_unlearn.reports.rows import (
    AS_IS,
    FORGOTTEN,
    ORIGINAL,
    RETRAIN,
    SPLITS,
    Row,
    chance,
    in_order,
    labels,
    reference,
    without_repeats,
)
from lit_unlearn.reports.table import UNKNOWN, missing_references, percent
from lit_unlearn.reports.templates import environment
from lit_unlearn.reports.verdict import Verdict

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Entry:
    """One row as the page shows it."""

    row: Row
    label: str
    verdict: Verdict | None
    scores: dict[str, float]

    @property
    def title(self) -> str:
        """The verdict in a few words."""
        if self.verdict is None:
            return ""
        title = wording.title(self.verdict)
        return f"{title}, utility {self.verdict.utility}" if self.verdict.utility in ("reduced", "damaged") else title

    @property
    def mark(self) -> str:
        """CSS class of the verdict: good, warn, bad or none."""
        if self.verdict is None or self.verdict.level == "unjudged":
            return "none"
        if self.verdict.level != "deep" or self.verdict.utility == "damaged":
            return "warn" if self.verdict.level == "part" else "bad"
        return "good" if self.verdict.good else "warn"

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return wording.headline(self.row, self.verdict) if self.verdict else ""

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
        groups |= {"seconds": seconds}
        return {name: found for name, values in groups.items() if (found := dict(_flat(values)))}


@dataclass(frozen=True)
class Cell:
    """A number of the table and, for a method, its distance to Retrain in points."""

    text: str
    delta: str = ""
    above: bool = False


def write_page(path: str | Path, rows: Sequence[Row], artifacts: Artifacts | None = None) -> None:
    """Write the report on ``rows``.

    Args:
        path: HTML file to write.
        rows: result rows: methods with, if the verdict is to mean anything, Original and Retrain on the same split.
        artifacts: pictures and maps by the label of a row, where they are at hand.
    """
    write_atomically(Path(path), render(rows, artifacts))


def render(rows: Sequence[Row], artifacts: Artifacts | None = None) -> str:
    """The report as HTML; whatever comes from the rows is escaped."""
    rows = in_order(without_repeats(rows))
    made = environment()
    made.globals["reference"] = lambda row, name: reference(row, rows, name)
    made.globals["cell"] = lambda entry, state, split: _cell(entry.row, rows, state, split)
    return made.get_template(TEMPLATE).render(_context(rows, artifacts or {}))


def _context(rows: Sequence[Row], artifacts: Artifacts) -> dict[str, Any]:
    from markupsafe import Markup

    entries = [_entry(row, label, rows) for row, label in zip(rows, labels(rows), strict=True)]
    methods = [entry for entry in entries if entry.verdict]
    curves = {e.label: [Markup(figures.curves(e.row, name)) for name in figures.curve_groups(e.row)] for e in methods}
    stages = {entry.label: _stages(entry.row, rows) for entry in methods}
    measurements = _measurements(rows)
    return {
        "entries": entries,
        "methods": methods,
        "measured": [entry for entry in entries if any(entry.row.accuracies().values())],
        "title": _title(methods),
        "missing": missing_references(rows),
        "warnings": [text for entry in methods if (text := _mismatch(entry, rows))],
        "levels": sorted({level for row in rows if (level := chance(row)) is not None}),
        "attacks": _attacks(rows),
        "measurements": [name for name in measurements if name.count("/") < 3],
        "by_stage": [name for name in measurements if name.count("/") == 3],
        "splits": SPLITS,
        "main_split": "test_forget_acc" if _knows(rows, "test_forget_acc") else "forget_acc",
        "as_is": AS_IS,
        "unknown": UNKNOWN,
        "bars": Markup(figures.recovery_bars(rows)),
        "hidden": figures.hidden_states(rows),
        "curves": {label: drawn for label, drawn in curves.items() if drawn},
        "stages": {label: drawn for label, drawn in stages.items() if drawn},
        "maps": {name: Markup(figures.feature_map(panels)) for name, panels in gallery.maps(artifacts).items()},
        "grids": gallery.grids(artifacts),
        "points": {
            "depth": 100 * verdict.DEPTH_TOLERANCE,
            "least": 100 * verdict.DEPTH_LEAST,
            "told": 100 * verdict.TOLD_TOLERANCE,
            "kept": 100 * verdict.UTILITY_KEPT,
            "reduced": 100 * verdict.UTILITY_REDUCED,
        },
    }


def _stages(row: Row, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Attack → drawings of what it measured stage by stage."""
    from markupsafe import Markup

    return {
        attack: [Markup(figures.stage_lines(row, rows, attack, quantity)) for quantity in quantities]
        for attack, quantities in figures.stage_groups(row, rows).items()
    }


def _entry(row: Row, label: str, rows: Sequence[Row]) -> Entry:
    judged = None if row.method in (ORIGINAL, RETRAIN) else verdict.judge(row, rows)
    return Entry(row, label, judged, _scores(row, reference(row, rows, RETRAIN)))


def _scores(row: Row, retrain: Row | None) -> dict[str, float]:
    """UA, RA, TA in percent, their mean distance to Retrain, and seconds of unlearning; the unknown is left out."""
    scores = _accuracy_scores(row)
    base = _accuracy_scores(retrain) if retrain else {}
    if scores.keys() == base.keys() == {"UA", "RA", "TA"}:
        scores["gap"] = sum(abs(scores[name] - base[name]) for name in base) / 3
    if "unlearn" in row.seconds:
        scores["seconds"] = row.seconds["unlearn"]
        if retrain and retrain.seconds.get("unlearn"):
            scores["share"] = 100 * row.seconds["unlearn"] / retrain.seconds["unlearn"]
    return scores


def _accuracy_scores(row: Row) -> dict[str, float]:
    scored = {"UA": "forget_acc", "RA": "retain_acc", "TA": "test_retain_acc"}
    known = {name: 100 * row.metrics[key] for name, key in scored.items() if key in row.metrics}
    return known | ({"UA": 100 - known["UA"]} if "UA" in known else {})


def _title(methods: Sequence[Entry]) -> str:
    if not methods:
        return "References only: no unlearned model in these results."
    if len(methods) == 1:
        return methods[0].headline
    good = sum(entry.verdict is not None and entry.verdict.good for entry in methods)
    return f"{good or 'None'} of {len(methods)} runs withstood their attacks as Retrain does and kept utility."


def _mismatch(entry: Entry, rows: Sequence[Row]) -> str:
    """A warning where a reference is of another network."""
    found = {name: reference(entry.row, rows, name) for name in (ORIGINAL, RETRAIN)}
    other = [name for name, row in found.items() if row is not None and row.backbone != entry.row.backbone]
    return f"{entry.label} is compared with {' and '.join(other)} of other backbone settings." if other else ""


def _attacks(rows: Sequence[Row]) -> list[str]:
    """Attacks that measured an accuracy, those that a method gives most away to first."""
    main = "test_forget_acc" if _knows(rows, "test_forget_acc") else "forget_acc"
    strength: dict[str, float] = {}
    for row in rows:
        for attack, known in row.accuracies().items():
            value = -1.0 if row.method in (ORIGINAL, RETRAIN) else known.get(main, -1.0)
            strength[attack] = max(value, strength.get(attack, -1.0))
    return sorted((attack for attack in strength if attack != AS_IS), key=lambda attack: -strength[attack])


def _knows(rows: Sequence[Row], split: str) -> bool:
    return any(split in known for row in rows for known in row.accuracies().values())


def _measurements(rows: Sequence[Row]) -> list[str]:
    """Quantities of the attacks, and metrics, that are no accuracy on a split."""
    names = {k for row in rows for k in (*row.attacks, *row.metrics) if k.rpartition("/")[2] not in SPLITS}
    return sorted(names)


def _cell(row: Row, rows: Sequence[Row], state: str, split: str) -> Cell:
    value = row.accuracies().get(state, {}).get(split)
    beside = (reference(row, rows, name) for name in (RETRAIN, ORIGINAL))
    base, start = (each.accuracies().get(state, {}).get(split) if each else None for each in beside)
    if value is None or base is None or row.method in (ORIGINAL, RETRAIN):
        return Cell(percent(value))
    above = split in FORGOTTEN and verdict.exceeds(row, split, value, base, start)
    return Cell(percent(value), f"{100 * (value - base):+.1f}".replace("-", "\N{MINUS SIGN}"), above)


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
