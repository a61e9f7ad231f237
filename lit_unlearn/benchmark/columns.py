"""The quantities that a benchmark's table can show, in their order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lit_unlearn.reports.numbers import unseen_split
from lit_unlearn.reports.rows import Row
from lit_unlearn.reports.scores import gap_to_retrain, unlearning_scores

Quantity = Callable[[Row, Row | None], float | None]
"""From a row and the Retrain of the same seed and split to a number, or None where it is unknown."""


@dataclass(frozen=True)
class Column:
    """A quantity of the table.

    Attributes:
        title: its heading.
        unit: ``%`` for percent or percentage points, ``dB`` for decibels, ``s`` for seconds, ``% of Retrain``.
        of: the quantity.
        better: ``↑`` where more is better, ``↓`` where less is, ``≈`` where nearer to Retrain is.
        classes: whether it exists for class unlearning (True), for single images (False), or for both (None).
        role: ``utility``, ``gap``, ``depth``, ``relearnt`` or ``cost`` where the page plots it or ranks by it;
            ``index`` of what is shown only where a verdict compares it.
    """

    title: str
    unit: str
    of: Quantity
    better: Literal["↑", "↓", "≈"]
    classes: bool | None = None
    role: Literal["utility", "gap", "depth", "relearnt", "cost", "index"] | None = None

    @property
    def heading(self) -> str:
        """The title with the direction of good."""
        return f"{self.title} {self.better}"


_SAMPLES = "detectability/samples"


def _percent(name: str, *others: str) -> Quantity:
    """A metric or a number of an attack, in percent; of several names the first that the row has."""
    found = _number(name, *others)

    def of(row: Row, retrain: Row | None) -> float | None:
        value = found(row, retrain)
        return None if value is None else 100 * value

    return of


def _number(*names: str) -> Quantity:
    def of(row: Row, retrain: Row | None) -> float | None:
        known = {**row.attacks, **row.metrics}
        return next((known[name] for name in names if name in known), None)

    return of


def _score(name: str) -> Quantity:
    """One of the field's scores."""

    def of(row: Row, retrain: Row | None) -> float | None:
        return unlearning_scores(row).get(name)

    return of


def _relearnt_lead(row: Row, retrain: Row | None) -> float | None:
    """How much more accurate relearning is on forget images than on unseen ones, in points, a mean over its steps."""
    splits = ("forget", unseen_split(row))
    end, mean = ([f"relearn/few/{kind}{split}_acc" for split in splits] for kind in ("", "mean_"))
    found = [row.attacks.get(name) for name in (mean if mean[0] in row.attacks else end)]
    return None if found[0] is None or found[1] is None else 100 * (found[0] - found[1])


def _gap(row: Row, retrain: Row | None) -> float | None:
    gap = gap_to_retrain(row, retrain)
    return gap.mean if gap else None


def _seconds(row: Row, retrain: Row | None) -> float | None:
    return row.seconds.get("unlearn")


def _cost(of: Callable[[Row], float | None]) -> Quantity:
    """A cost as a share of Retrain's, in percent."""

    def share(row: Row, retrain: Row | None) -> float | None:
        own, base = of(row), None if retrain is None else of(retrain)
        return 100 * own / base if own is not None and base else None

    return share


COLUMNS = (
    Column("UA", "%", _score("UA"), "≈"),
    Column("RA", "%", _score("RA"), "↑"),
    Column("TA", "%", _score("TA"), "↑", role="utility"),
    Column("Test forgotten", "%", _percent("test_forget_acc"), "≈", classes=True),
    Column("MIA", "%", _score("MIA"), "≈"),
    Column("Gap", "%", _gap, "↓", role="gap"),
    Column("FM test forgotten", "%", _percent("recovery/fm/test_forget_acc"), "↓", classes=True),
    Column("HR test forgotten", "%", _percent("recovery/hr/test_forget_acc"), "↓", classes=True),
    Column("Worst test forgotten", "%", _percent("recovery/worst/test_forget_acc"), "↓", classes=True, role="depth"),
    Column("Worst stage", "%", _percent("recovery/worst/stages/test_forget_acc"), "↓", classes=True),
    Column("Masked answers", "%", _percent("recovery/answers/test_forget_acc"), "≈", classes=True),
    Column("FM forget", "%", _percent("recovery/fm/forget_acc"), "↓", classes=False),
    Column("HR forget", "%", _percent("recovery/hr/forget_acc"), "↓", classes=False),
    Column("Worst forget", "%", _percent("recovery/worst/forget_acc"), "↓", classes=False),
    Column("Memorised", "%", _percent("recovery/worst/gap"), "↓", classes=False, role="depth"),
    Column("Relearnt", "%", _percent("relearn/few/auc"), "↓", classes=True, role="relearnt"),
    Column("Relearnt lead", "%", _relearnt_lead, "↓", classes=False, role="relearnt"),
    Column("IDI", "%", _percent("representation/idi/index"), "↓", role="index"),
    Column("Inverted", "dB", _number("inversion/delta/psnr"), "↓"),
    Column("Detected", "%", _percent(f"{_SAMPLES}/test_forget_auc", f"{_SAMPLES}/forget_auc"), "≈"),
    Column("Images seen", "% of Retrain", _cost(lambda row: row.images_seen), "↓", role="cost"),
    Column("Time", "% of Retrain", _cost(lambda row: row.seconds.get("unlearn")), "↓"),
    Column("Seconds", "s", _seconds, "↓"),
)
