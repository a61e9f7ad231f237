"""Which rows of benchmarks belong together: only rows that can be compared are averaged.

Each network, split and suite of attacks has a table of its own. Rows of another version of the suite are left out, with
a note, and so are those of a method at other settings than most of its rows in that place.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_unlearn.errors import UsageError
from lit_unlearn.reports.averages import mean_row
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, shortened

Retrains = Mapping[tuple[Any, ...], Row]


@dataclass(frozen=True)
class Group:
    """The rows of one scenario on one data set, of one network and split, under one suite of attacks.

    Attributes:
        data: the data set, and how many training images; network and split where there are several.
        scenario: what is forgotten, by its name in the benchmark.
        suite: name and version of the attacks, or an empty text.
        rows: the rows, those without attacks among them.
        left_out: rows of other versions of the suite.
        elsewise: rows of methods at other settings.
        alone: whether data and scenario have no other suite.
    """

    data: str
    scenario: str
    suite: str
    rows: Sequence[Row]
    left_out: Sequence[Row]
    elsewise: Sequence[Row]
    alone: bool

    @property
    def notes(self) -> Iterator[str]:
        """What was left out."""
        for name, count in Counter(map(_suite_of, self.left_out)).items():
            yield f"Left out: {count} row(s) of the suite {name!r}; this table is of {self.suite!r}."
        for name, count in Counter(_label(row) for row in self.elsewise).items():
            yield f"Left out: {count} row(s) of {name} at other settings than most of its rows."


def groups_of(rows: Sequence[Row]) -> Iterator[Group]:
    """The rows by data set, scenario, network, split, images and suite, in the order in which they come.

    Raises:
        UsageError: if a row is of no benchmark.
    """
    places: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not row.benchmark:
            raise UsageError(
                f"a row of {row.method} is of no benchmark: only rows.json of a benchmark can be summarised"
            )
        shown = str(row.backbone.get("class", "")), *(f"{what} {shortened(name)}" for what, name in _images(row))
        places.setdefault((_data(row), row.benchmark["scenario"], *shown), []).append(row)
    for (data, scenario, *here), own in places.items():
        others = [place[2:] for place in places if place[:2] == (data, scenario)]
        told = [text for text, every in zip(here, zip(*others, strict=True), strict=True) if len(set(every)) > 1]
        suites: dict[str, list[str]] = {}  # name → name and version of each row
        for suite in (_suite_of(row) for row in own if row.attacks):
            suites.setdefault(_name(suite), []).append(suite)
        for versions in suites.values() or [[""]]:
            # The version that most rows have; of several, the last one.
            suite = Counter(reversed(versions)).most_common(1)[0][0]
            used = [row for row in own if not row.attacks or _suite_of(row) == suite]
            left_out = [row for row in own if row.attacks and _suite_of(row) in set(versions) - {suite}]
            elsewise = _at_other_settings(used)
            gone = set(map(id, elsewise))
            used = [row for row in used if id(row) not in gone]
            yield Group(", ".join([data, *told]), scenario, suite, used, left_out, elsewise, alone=len(suites) < 2)


def _at_other_settings(rows: Sequence[Row]) -> list[Row]:
    """The rows of a method and experiment at other settings than most of them; of several, than the last."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.method not in (ORIGINAL, RETRAIN):
            groups.setdefault(_label(row), []).append(row)
    others = []
    for own in groups.values():
        settings = [_settings(row) for row in own]
        most = max(reversed(settings), key=lambda each: (len(each), sum(_alike(each, other) for other in settings)))
        others += [row for row, each in zip(own, settings, strict=True) if not _alike(each, most)]
    return others


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether settings agree in all that both know: older rows lack options that came later."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _settings(row: Row) -> dict[str, Any]:
    """Of method, optimizer and schedule; how far the schedule came is none."""
    schedule = row.optimizer.get("lr_scheduler")
    plain = {**schedule, "last_epoch": None} if isinstance(schedule, Mapping) else schedule
    return {**row.hyperparameters, **row.optimizer, "lr_scheduler": plain}


def _label(row: Row) -> str:
    return f"{row.method} ({row.benchmark['experiment']})"


def by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Label → rows: by method, and by experiment where several are of one method."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        reference = row.method in (ORIGINAL, RETRAIN)
        groups.setdefault((row.method, "" if reference else row.benchmark["experiment"]), []).append(row)
    methods = Counter(method for method, _ in groups)
    return {
        method if methods[method] == 1 else f"{method} ({experiment})": own
        for (method, experiment), own in groups.items()
    }


def _images(row: Row) -> tuple[tuple[str, str], ...]:
    return ("split", str(row.split.get("hash", ""))), ("images", str(row.data.get("sha256", "")))


def retrains_of(rows: Sequence[Row]) -> Retrains:
    """The Retrain of each training seed and split; of several rows their mean."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.method == RETRAIN and row.status == "ok":
            found.setdefault(seed_of(row), []).append(row)
    return {seed: mean_row(own) for seed, own in found.items()}


def seed_of(row: Row) -> tuple[Any, ...]:
    """What a row shares with the Retrain that it may be compared with."""
    return row.benchmark["seeds"].get("original"), row.split.get("hash")


def _suite_of(row: Row) -> str:
    """Name and version, or an empty text."""
    return str(row.versions.get("suite") or "")


def _name(suite: str) -> str:
    """The suite without its version."""
    return suite.partition(" ")[0]


def _data(row: Row) -> str:
    source, images = row.data.get("source", ""), row.data.get("train")
    return f"{source} ({images:,} images)" if isinstance(images, int) else str(source)
