"""Rows for tables from what commands have left: benchmarks, and single runs of ``fit``, each with its artifacts.

A row of a single run is of no benchmark. It gets what a table groups by: a scenario from what was forgotten, by the
hash of the split, the network and the original; its method, and settings where they differ; its seed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_unlearn.artifacts import Artifact
from lit_unlearn.benchmark.gathering import PACKED
from lit_unlearn.benchmark.runs import folder_of
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.gallery import read_artifacts
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN, Row, read_rows
from lit_unlearn.run_files import ARTIFACTS, RESULTS, ROWS

Found = tuple[Row, Path | None]
"""A row, and the file where its run keeps artifacts, if it lies where it must."""

_DEPTH = 3
_TECHNICAL = ("capturable", "differentiable", "foreach", "fused")
"""Options of torch's optimizers that change how a step is computed, and not the step."""


def read_all(places: Sequence[Path], damaged: list[str]) -> list[Found]:
    """The rows of benchmarks and runs, in the order given; those of single runs come last.

    A row of a benchmark counts once, however many copies of it there are.

    Args:
        places: files of rows, folders of benchmarks, and folders of one or several runs.
        damaged: takes a line for each row that cannot be read.

    Raises:
        UsageError: if a file cannot be read, or a folder holds neither.
    """
    found: list[Found] = []
    single: list[_Measured] = []
    known = set[tuple[object, str]]()
    for file in dict.fromkeys(file for place in places for file in _files(place)):
        rows = read_rows(file, damaged)
        gathered = [row for row in rows if row.benchmark and (row.benchmark.get("key"), row.method) not in known]
        known.update((row.benchmark.get("key"), row.method) for row in gathered)
        found += of_benchmark(file.parent, gathered)
        alone = [row for row in rows if not row.benchmark]
        single += [_Measured(row, file.parent, _original(alone)) for row in alone]
    return [*found, *((each.row, each.folder / ARTIFACTS) for each in _as_of_a_benchmark(single))]


def of_benchmark(root: Path, rows: Sequence[Row]) -> list[Found]:
    """Rows of a benchmark, each with the file of artifacts of its own run, which lies inside of the folder."""
    found: list[Found] = []
    for row in rows:
        own = row.benchmark
        path = root / folder_of(own["scenario"], own["experiment"], own["key"]) / ARTIFACTS
        found.append((row, path if path.resolve().is_relative_to(root.resolve()) else None))
    return found


def read_shown(found: Sequence[Found]) -> Iterator[tuple[str, Mapping[str, Artifact]]]:
    """The artifacts of rows, by the key of a row's run and its method."""
    for row, path in found:
        if path is not None and path.exists():
            yield f"{row.benchmark['key']}/{row.method}", read_artifacts(path).get(row.method, {})


def _files(place: Path) -> list[Path]:
    """The files of rows that a path stands for."""
    if not place.is_dir():
        return [place]
    for name in (ROWS, PACKED, RESULTS):
        if (place / name).exists():
            return [place / name]
    if found := list(_runs_below(place, _DEPTH)):
        return found
    raise UsageError(
        f"{place}: holds no results: looked for {ROWS} of a benchmark, for {RESULTS} of a run, and for runs below it"
    )


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    """The files of the runs below a folder, but not of those that belong to a benchmark."""
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (inner / RESULTS).exists():
            yield inner / RESULTS
        elif depth > 1 and not any((inner / name).exists() for name in (ROWS, PACKED)):
            yield from _runs_below(inner, depth - 1)


@dataclass(frozen=True)
class _Measured:
    """A row of a single run, the folder of the run, and the sha256 of the original, empty where it is unknown."""

    row: Row
    folder: Path
    original: str

    @property
    def task(self) -> tuple[str, str, str]:
        """What was forgotten, of which images, and by which network: only such rows can be compared."""
        return str(self.row.split.get("hash")), str(self.row.data.get("sha256")), _text(self.row.backbone)


def _original(rows: Sequence[Row]) -> str:
    """The sha256 of the original of a run; the weights of Audit are of the audited model."""
    known = [row.weights.get("sha256", "") for row in rows if row.method not in (ORIGINAL, RETRAIN, "Audit")]
    return str(known[-1]) if known else ""


def _as_of_a_benchmark(measured: Sequence[_Measured]) -> list[_Measured]:
    """The rows with what a table groups by; what was measured several times of one model is there once."""
    originals: dict[tuple[str, ...], dict[str, None]] = {}
    for each in measured:
        originals.setdefault(each.task, {}).update({each.original: None} if each.original else {})
    groups: dict[tuple[str, ...], list[_Measured]] = {}
    for each in measured:
        known = list(originals[each.task])
        original = known[0] if len(known) == 1 else each.original
        groups.setdefault((*each.task, original), []).append(each)
    names = _scenarios(groups)
    return [
        replace(each, row=replace(each.row, benchmark=_place(each, names[task], experiment)))
        for task, group in groups.items()
        for each, experiment in _experiments(_once(group))
    ]


def _place(each: _Measured, scenario: str, experiment: str) -> dict[str, Any]:
    key = hashlib.sha256(str(each.folder.resolve()).encode()).hexdigest()[:16]
    seeds = {"original": each.row.seed}
    return {"key": key, "scenario": scenario, "experiment": experiment, "seeds": seeds, "variant": {}}


def _scenarios(groups: Mapping[tuple[str, ...], Sequence[_Measured]]) -> dict[tuple[str, ...], str]:
    """A name for each group: what was forgotten, and where several would share it, what they differ in."""
    told = {task: (str(group[0].row.data.get("source")), _forgotten(group[0].row)) for task, group in groups.items()}
    names = {}
    for task, group in groups.items():
        same = [other for other in groups if told[other] == told[task]]
        split, images, _, original = task
        network = str(group[0].row.backbone.get("class", "unknown network"))
        shown = (f"split {split[:8]}", f"images {images[:8]}", network, f"original {original[:8] or 'unknown'}")
        differing = [text for place, text in enumerate(shown) if len({other[place] for other in same}) > 1]
        names[task] = ", ".join([told[task][1], *differing])
    return names


def _forgotten(row: Row) -> str:
    """What was to be forgotten, in a few words."""
    spec = row.split.get("spec") or {}
    classes = spec.get("classes") or ()
    text = f"class{'es' if len(classes) > 1 else ''} {', '.join(map(str, classes))}" if classes else "all images"
    if "index_file" in spec:
        return f"{row.split.get('counts', {}).get('forget', 'some')} images of {Path(spec['index_file']).name}"
    if "images" in spec:
        return f"{spec['images']} images of a list"
    if "fraction" in spec:
        return f"{100 * spec['fraction']:g} % of {text}"
    return text if classes else "nothing forgotten"


def _once(group: Sequence[_Measured]) -> list[_Measured]:
    """Of the same model, measured by several runs, the row with most attacks, and how the model was made."""
    kept: list[_Measured] = []
    for each in group:
        place = next((place for place, other in enumerate(kept) if _same_model(each.row, other.row)), None)
        if place is None:
            kept.append(each)
        else:
            kept[place] = _joined(kept[place], each)
    return kept


def _same_model(one: Row, other: Row) -> bool:
    """Whether two rows are of one model; a row of ``validate`` does not say how it was made."""
    alike = all(getattr(one, name) == getattr(other, name) for name in ("method", "status", "seed", "metrics"))
    if not alike or not one.metrics:
        return False
    if one.method in (ORIGINAL, RETRAIN):
        return len({row.weights.get("sha256") for row in (one, other)} - {None}) < 2
    ours, theirs = (
        (row.optimizer, row.epochs, (row.weights.get("result") or {}).get("sha256")) for row in (one, other)
    )
    made_alike = all(a == b for a, b in zip(ours, theirs, strict=True) if a and b)
    return one.hyperparameters == other.hyperparameters and made_alike


def _joined(first: _Measured, second: _Measured) -> _Measured:
    best, other = (second, first) if len(second.row.attacks) > len(first.row.attacks) else (first, second)
    made = {name: getattr(best.row, name) or getattr(other.row, name) for name in ("optimizer", "epochs", "curves")}
    return replace(best, row=replace(best.row, seconds={**other.row.seconds, **best.row.seconds}, **made))


def _experiments(group: Sequence[_Measured]) -> Iterator[tuple[_Measured, str]]:
    """Each row with its experiment: the method, and where its runs differ in settings, those that do."""
    for each in group:
        own = (_settings(other.row) for other in group if other.row.method == each.row.method)
        peers = {_text(settings): settings for settings in own}
        if len(peers) == 1 or each.row.method in (ORIGINAL, RETRAIN):
            yield each, each.row.method
            continue
        names = [_differing(settings, list(peers.values())) for settings in peers.values()]
        number = list(peers).index(_text(_settings(each.row)))
        name = names[number]
        yield each, name if name and names.count(name) == 1 else f"{name} #{number + 1}".strip()


def _differing(own: Mapping[str, Any], peers: Sequence[Mapping[str, Any]]) -> str:
    """The settings in which runs of a method differ; at most three, of which the optimizer's class is the first."""
    found = [
        str(value) if name == "class" else f"{name}={value}"
        for name, value in own.items()
        if isinstance(value, bool | int | float | str) and any(_differs(name, own, peer) for peer in peers)
    ]
    return ", ".join(found[:3])


def _differs(name: str, own: Mapping[str, Any], peer: Mapping[str, Any]) -> bool:
    """Whether two runs differ in a setting that says more than how an optimizer computes, or which one it is."""
    if name in _TECHNICAL or (name not in peer and own.get("class") != peer.get("class")):
        return False
    return bool(own[name] != peer.get(name))


def _settings(row: Row) -> dict[str, Any]:
    return {**row.optimizer, **row.hyperparameters, "epochs": row.epochs}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
