"""The result row: everything that is known of one audited model, as one JSON object.

Each number has its row: what was run, on which split (by hash), with which versions, and how it ended. A quantity that
was not measured is absent, never 0. A number that is not finite cannot be written.

Types are checked by msgspec: one wheel of 0.2 MB without dependencies that reads strict JSON into dataclasses; pydantic
does the same with five wheels of 2.8 MB and three times the import time.
"""

import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import msgspec

from lit_unlearn.errors import ROUNDED, UsageError
from lit_unlearn.files import plain, write_atomically

FORMAT = "lit_unlearn results"
VERSION = 1
ORIGINAL = "Original"
RETRAIN = "Retrain"
NO_ATTACK = "no attack"
MEAN_OF = "mean_of"
"""In ``Row.benchmark``: how many models a row that is shown is the mean of. No file has it."""

SPLITS = {
    "forget_acc": "Forget",
    "retain_acc": "Retain",
    "validation_acc": "Validation",
    "forgotten_before_acc": "Forgotten before",
    "images_before_acc": "Single images before",
    "test_forget_acc": "Test-forgotten",
    "test_retain_acc": "Test-retained",
    "test_matched_acc": "Test, same classes",
    "test_forgotten_before_acc": "Test-forgotten before",
}
"""The accuracy on each split, with its heading in tables."""

FORGOTTEN = (
    *("test_forget_acc", "forget_acc"),
    *("test_forgotten_before_acc", "images_before_acc", "forgotten_before_acc"),
)
"""Accuracies on what must be forgotten; the first that a row knows decides."""

_LATER = {"flags", "kept"}
"""Fields that rows of earlier versions of this package lack; they are empty there."""

_SELDOM = {"kept"}
"""Fields that a file has only where they are not empty."""

_OF_BENCHMARK = {"key", "scenario", "experiment", "seeds"}
"""What a row of a benchmark says of its place there, at least."""

_NESTED = {
    **{("benchmark", name): str for name in ("key", "scenario", "experiment")},
    **{("benchmark", name): dict for name in ("seeds", "variant")},
    **{("split", name): dict for name in ("spec", "counts")},
    **{("weights", name): dict for name in ("result", "original")},
}
"""The types of what a row has below a field; tables and verdicts are made of it."""

_UNPACKED = 2**30
_ALWAYS_SHOWN = ("forget_acc", "retain_acc", "test_forget_acc", "test_retain_acc")


@dataclass
class Row:
    """One model, how it was made, and what was measured on it.

    Attributes:
        method: class name of the method, or ``"Original"`` and ``"Retrain"`` for the two references of every table.
        status: ``"ok"``, ``"diverged"`` (a loss or weight stopped being finite), ``"pruned"`` (a trial of a search that
            was ended early, since it changed nothing) or ``"interrupted"``.
        reason: one line on why the status is not ``"ok"``.
        hyperparameters: the method's arguments.
        optimizer: class path and arguments of optimizer and scheduler.
        backbone: class path and arguments of the network.
        data: source, its arguments and sizes.
        split: hash, seed, specification and counts of the forget split.
        seed: the global seed.
        metrics: name → value; accuracies are fractions in [0, 1]. A missing key is unknown.
        attacks: ``"<attack>/<quantity>"`` → value, such as ``"recovery/hr/test_forget_acc"``.
        skipped: attack → why it could not run.
        curves: logged quantity → list of ``[epoch, value]``.
        seconds: phase or attack → wall-clock seconds, of an attack in the run that measured it.
        kept: of a reference model: attack → when an earlier run measured it, whose numbers were taken over.
        images_seen: images in the batches of unlearning, each as often as it came.
        epochs: epochs of unlearning that were run.
        batch_size: samples of a step: ``per_device``, ``forget_per_device``, and ``global``, over all devices and
            accumulated batches.
        devices: accelerator and its name, number, threads, and the memory format of convolutions.
        precision: the Trainer's precision.
        versions: package → version.
        commit: the repository's commit, where there is one.
        started: ISO time in UTC.
        weights: where the original weights came from (``source``, ``sha256``), and the ``result``: its file, sha256,
            the sha256 of its tensors, and how the method changed the architecture, where it did.
        warnings: what is to be known of the data, one sentence each.
        flags: name → sentence of each sign that the numbers cannot be trusted, as far as the run alone shows it; the
            verdict has those that other rows show.
        verdict: of a method's row: ``level``, ``utility``, ``worst`` (an attack), ``reason`` (a sentence), ``models``
            and ``retrains`` (how many), ``intervals``: attack → ``value``, ``retrain``, ``excess``, ``low``, ``high``,
            as fractions (.02 is 2 points) of accuracy, AUC, or Original's lead for IDI; and ``flags`` where there are
            some: name → sentence.
        benchmark: of a row of a benchmark: its key, scenario, experiment and seeds.
    """

    method: str
    status: Literal["ok", "diverged", "pruned", "interrupted"]
    reason: str = ""
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    attacks: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    images_seen: int | None = None
    epochs: int | None = None
    batch_size: dict[str, Any] = field(default_factory=dict)
    devices: dict[str, Any] = field(default_factory=dict)
    precision: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    started: str = ""
    weights: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)
    benchmark: dict[str, Any] = field(default_factory=dict)

    def accuracies(self) -> dict[str, dict[str, float]]:
        """``"no attack"``, then each attack that measured an accuracy → the accuracies known after it, by split."""
        found = {NO_ATTACK: {name: self.metrics[name] for name in SPLITS if name in self.metrics}}
        for key, value in self.attacks.items():
            attack, _, quantity = key.rpartition("/")
            if attack and quantity in SPLITS:
                found.setdefault(attack, {})[quantity] = value
        return found


def shown_splits(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of a table of accuracies with their headings: the four of every run, and what some row has."""
    known = {name for row in rows for accuracies in row.accuracies().values() for name in accuracies}
    return {name: heading for name, heading in SPLITS.items() if name in known or name in _ALWAYS_SHOWN}


def shortened(name: str) -> str:
    """A commit or hash by its first twelve digits, with the mark of one that has changes."""
    digits, mark, changes = name.partition("+")
    return f"{digits[:12]}{mark}{changes}"


def chance(row: Row) -> float | None:
    """Accuracy on the forgotten classes of one answer for every image: 1/n for n ≥ 2 forgotten classes.

    None where it has no meaning: single images are forgotten, or one class (the same answer is then always right).
    """
    classes = row.split.get("forgotten_classes")
    return 1 / len(classes) if isinstance(classes, list) and len(classes) > 1 else None


def reference(row: Row, rows: Sequence[Row], name: str) -> Row | None:
    """The Original or Retrain row that ``row`` may be compared with, or None.

    Only a row that ended well and has the same split of the same images counts; among several, one that shares the
    backbone, then one that was attacked, then one that shares the seed.
    """
    same = [r for r in rows if r.method == name and r.status == "ok" and same_split(r, row)]
    return max(same, key=lambda r: (r.backbone == row.backbone, bool(r.attacks), r.seed == row.seed), default=None)


def references(row: Row, rows: Sequence[Row], name: str) -> list[Row]:
    """All Original or Retrain rows that ``row`` may be compared with: of several seeds, one for each.

    Only rows that ended well and have the same split of the same images count; where some of them share the backbone,
    or were attacked, only these.
    """
    found = [r for r in rows if r.method == name and r.status == "ok" and same_split(r, row)]
    for wanted in ([r for r in found if r.backbone == row.backbone], [r for r in found if r.attacks]):
        found = [r for r in found if r in wanted] or found
    return found


def same_split(one: Row, other: Row) -> bool:
    """Whether two rows are of the same split of the same images; one that names no images may be of any."""
    images = {each.data["sha256"] for each in (one, other) if each.data.get("sha256")}
    return one.split.get("hash") == other.split.get("hash") and len(images) < 2


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Original first, then Retrain, then the methods in the order given."""
    rank = {ORIGINAL: 0, RETRAIN: 1}
    return sorted(rows, key=lambda row: rank.get(row.method, 2))


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """The rows without repeated references: of the same model measured on the same split, the first row is kept."""
    kept: list[Row] = []
    for row in rows:
        own = (row.method, row.status, row.split.get("hash"), row.backbone, row.metrics, row.attacks, row.seed)
        if row.method not in (ORIGINAL, RETRAIN) or all(
            own != (k.method, k.status, k.split.get("hash"), k.backbone, k.metrics, k.attacks, k.seed) for k in kept
        ):
            kept.append(row)
    return kept


def labels(rows: Sequence[Row]) -> list[str]:
    """A name for each row: its method, with the settings that differ where several rows share the method."""
    names = [f"{row.method} ({found})" if (found := _distinction(row, rows)) else row.method for row in rows]
    return [n if names.count(n) == 1 else f"{n} #{names[: i + 1].count(n)}" for i, n in enumerate(names)]


def _distinction(row: Row, rows: Sequence[Row]) -> str:
    """Of how many models the row is the mean, or up to three settings in which other rows of its method differ."""
    if count := row.benchmark.get(MEAN_OF):
        return f"mean of {count}"
    peers = [other for other in rows if other.method == row.method]
    found = [
        f"{name}={value}"
        for name, value in row.hyperparameters.items()
        if isinstance(value, (bool, int, float, str)) and any(p.hyperparameters.get(name) != value for p in peers)
    ]
    if any(other.seed != row.seed for other in peers):
        found.append(f"seed {row.seed}")
    return ", ".join(found[:3])


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows as strict JSON, a line each; a reader sees the old file or the complete new one, never a part.

    Args:
        path: file to write; its folder is made when missing.
        rows: the rows.

    Raises:
        UsageError: a value is not finite, has another type than the row's field, or has no place in JSON.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    documents = []
    for i, row in enumerate(rows):
        values = {name: value for name, value in asdict(row).items() if value or name not in _SELDOM}
        documents.append(plain(values, strict=True, where=f"{path.name}: row {i} ({row.method})"))
        _row(json.dumps(documents[-1]).encode(), f"{path.name}: row {i}")
    lines = ",\n".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in documents)
    write_atomically(path, f'{{"format": "{FORMAT}", "version": {VERSION}, "rows": [\n{lines}\n]}}\n')


def read_rows(path: str | Path, damaged: list[str] | None = None) -> list[Row]:
    """Read what :func:`write_rows` wrote, packed by ``xz`` too, which makes those of a benchmark thirty times smaller.

    Args:
        path: the file; packed if it ends in ``.xz``.
        damaged: takes a line for each row that cannot be read, which is then left out; None refuses the file.

    Raises:
        UsageError: the file is missing, is not JSON, is of another format or version, or a row has a missing, unknown
            or wrongly typed field.
    """
    path = Path(path)
    try:
        content = _unpacked(path) if path.suffix == ".xz" else path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    return rows_of(content, str(path), damaged)


def _unpacked(path: Path) -> bytes:
    try:
        with lzma.open(path) as file:
            content = file.read(_UNPACKED + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise UsageError(f"{path}: cannot be unpacked ({error})") from error
    if len(content) > _UNPACKED:
        raise UsageError(f"{path}: unpacked it has more than {_UNPACKED // 2**20} MiB")
    return content


def rows_of(content: bytes, where: str, damaged: list[str] | None = None) -> list[Row]:
    """The rows in the content of a results file.

    Args:
        content: what :func:`write_rows` wrote.
        where: names it in error messages.
        damaged: as in :func:`read_rows`.

    Raises:
        UsageError: as :func:`read_rows`.
    """
    read = []
    for i, text in enumerate(_document(content, where).rows):
        try:
            read.append(_row(text, f"{where}: row {i}"))
        except UsageError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    return read


class _Document(msgspec.Struct):
    """A results file; its rows are decoded one by one, so that a damaged one does not hide the others."""

    rows: list[msgspec.Raw]
    format: str = ""
    version: Any = None


def _document(content: bytes, path: str) -> _Document:
    try:
        document = msgspec.json.decode(content, type=_Document)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: not a results file ({error})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if document.format != FORMAT:
        raise UsageError(f'{path}: not a results file (its "format" must be {FORMAT!r})')
    if document.version != VERSION:
        raise UsageError(f"{path}: version {document.version!r} of the format (this program reads {VERSION})")
    return document


def _row(text: bytes | msgspec.Raw, where: str) -> Row:
    try:
        values = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if method := values.get("method"):
            where = f"{where} ({bytes(method).decode()[1:-1]})"
        names = {f.name for f in fields(Row)}
        if missing := sorted(names - _LATER - values.keys()):
            raise UsageError(f"{where}: lacks {', '.join(missing)}")
        if surplus := sorted(values.keys() - names):
            raise UsageError(f"{where}: unknown field {', '.join(surplus)}")
        row = msgspec.json.decode(text, type=Row)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{where}: {error}") from error
    _check(row, where)
    return row


def _check(row: Row, where: str) -> None:
    """Refuses what is of the right type but cannot be: tables and verdicts would be made of it."""
    if row.benchmark and (missing := sorted(_OF_BENCHMARK - row.benchmark.keys())):
        raise UsageError(f"{where}: its benchmark lacks {', '.join(missing)}")
    for (part, name), kind in _NESTED.items():
        value = getattr(row, part).get(name)
        if value is not None and not isinstance(value, kind):
            raise UsageError(
                f"{where}: {part}.{name} is {value!r}, but must be {'a text' if kind is str else 'an object'}"
            )
    for name, value in (*row.metrics.items(), *row.attacks.items()):
        if name.endswith("_acc") and not 0 <= value <= 1 + ROUNDED:
            raise UsageError(f"{where}: {name} is {value}, but must lie in [0, 1]")
