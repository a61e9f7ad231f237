"""The result row: everything that is known of one audited model, as one JSON object.

No number without its row: what was run, on which split (by hash), with which versions, and how it ended. A quantity
that was not measured is absent, never 0, and a number that is not finite cannot be written.
"""

import json
import math
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lit_unlearn.errors import UsageError

FORMAT = "lit_unlearn results"
VERSION = 1
ORIGINAL = "Original"
RETRAIN = "Retrain"
AS_IS = "as is"
_LARGEST = 1e300
SPLITS = ("forget_acc", "retain_acc", "test_forget_acc", "test_retain_acc")
FORGOTTEN = ("test_forget_acc", "forget_acc")


@dataclass
class Row:
    """One model, how it was made, and what was measured on it.

    Attributes:
        method: class name of the method, or ``"Original"`` and ``"Retrain"`` for the two references of every table.
        status: ``"ok"``, ``"diverged"`` (a loss or weight stopped being finite) or ``"interrupted"``.
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
        seconds: phase or attack → wall-clock seconds.
        epochs: epochs of unlearning that were run.
        batch_size: loader → samples per device and step.
        devices: accelerator, number, names.
        precision: the Trainer's precision.
        versions: package → version.
        commit: the repository's commit, where there is one.
        started: ISO time in UTC.
        weights: where the weights came from (path, sha256) and went.
        benchmark: of a row of a benchmark: its key, scenario, experiment and seeds.
    """

    method: str
    status: Literal["ok", "diverged", "interrupted"]
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
    epochs: int | None = None
    batch_size: dict[str, Any] = field(default_factory=dict)
    devices: dict[str, Any] = field(default_factory=dict)
    precision: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    started: str = ""
    weights: dict[str, Any] = field(default_factory=dict)
    benchmark: dict[str, Any] = field(default_factory=dict)

    def accuracies(self) -> dict[str, dict[str, float]]:
        """``"as is"``, then each attack that measured an accuracy → the accuracies known after it, by split."""
        found = {AS_IS: {name: self.metrics[name] for name in SPLITS if name in self.metrics}}
        for key, value in self.attacks.items():
            attack, _, quantity = key.rpartition("/")
            if attack and quantity in SPLITS:
                found.setdefault(attack, {})[quantity] = value
        return found


def shortened(name: str) -> str:
    """A commit or hash by its first twelve digits, with the mark of one that has changes."""
    digits, mark, changes = name.partition("+")
    return f"{digits[:12]}{mark}{changes}"


def chance(row: Row) -> float | None:
    """Accuracy on the forgotten classes of a constant answer among them: 1/n for n ≥ 2 whole forgotten classes.

    None where it has no meaning: single images forgotten, or one class (a constant answer then is always right).
    """
    classes = row.split.get("forgotten_classes")
    return 1 / len(classes) if isinstance(classes, list) and len(classes) > 1 else None


def reference(row: Row, rows: Sequence[Row], name: str) -> Row | None:
    """The Original or Retrain row that ``row`` may be compared with, or None.

    Only a row that ended well and has the same split hash counts; among several, one that shares the
    backbone, then one that was attacked, then one that shares the seed.
    """
    same = [r for r in rows if r.method == name and r.status == "ok" and r.split.get("hash") == row.split.get("hash")]
    return max(same, key=lambda r: (r.backbone == row.backbone, bool(r.attacks), r.seed == row.seed), default=None)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Original first, then Retrain, then the methods in the order given."""
    rank = {ORIGINAL: 0, RETRAIN: 1}
    return sorted(rows, key=lambda row: rank.get(row.method, 2))


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """The rows without a reference that an earlier row already is: the same model measured on the same split."""
    kept: list[Row] = []
    for row in rows:
        told = (row.method, row.status, row.split.get("hash"), row.backbone, row.metrics, row.attacks, row.seed)
        if row.method not in (ORIGINAL, RETRAIN) or all(
            told != (k.method, k.status, k.split.get("hash"), k.backbone, k.metrics, k.attacks, k.seed) for k in kept
        ):
            kept.append(row)
    return kept


def labels(rows: Sequence[Row]) -> list[str]:
    """A name for each row: its method, with what sets it apart where several rows share the method."""
    names = [f"{row.method} ({told})" if (told := _distinction(row, rows)) else row.method for row in rows]
    return [n if names.count(n) == 1 else f"{n} #{names[: i + 1].count(n)}" for i, n in enumerate(names)]


def _distinction(row: Row, rows: Sequence[Row]) -> str:
    """The hyperparameters, then the seed, in which the rows of this method differ; at most three."""
    peers = [other for other in rows if other.method == row.method]
    told = [
        f"{name}={value}"
        for name, value in row.hyperparameters.items()
        if isinstance(value, (bool, int, float, str)) and any(p.hyperparameters.get(name) != value for p in peers)
    ]
    if any(other.seed != row.seed for other in peers):
        told.append(f"seed {row.seed}")
    return ", ".join(told[:3])


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows as strict JSON; a reader sees the old file or the whole new one, never a part.

    Args:
        path: file to write; its folder is made when missing.
        rows: the rows.

    Raises:
        UsageError: a value is not finite, has another type than the row says, or has no place in JSON.
    """
    path = Path(path)
    plain = [_plain(asdict(row), f"{path.name}: row {i} ({row.method})") for i, row in enumerate(rows)]
    for i, values in enumerate(plain):
        _row(values, f"{path.name}: row {i}")
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "rows": plain}
    write_atomically(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_rows(path: str | Path, damaged: list[str] | None = None) -> list[Row]:
    """Read what :func:`write_rows` wrote.

    Args:
        path: the file.
        damaged: takes a line on each row that cannot be read, which is then left out; None refuses the file.

    Raises:
        UsageError: the file is missing, is not JSON, is of another format or version, or a row has a missing, unknown
            or wrongly typed field.
    """
    rows = _document(Path(path)).get("rows")
    if not isinstance(rows, list):
        raise UsageError(f"{path}: 'rows' must be a list of rows")
    read = []
    for i, values in enumerate(rows):
        try:
            read.append(_row(values, f"{path}: row {i}"))
        except UsageError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    return read


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write bytes, or UTF-8 text, so that ``path`` holds what it held or all of it, even if the machine stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _document(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise UsageError(f"{path}: holds {constant}, which strict JSON does not allow")

    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UsageError:
        raise
    except (ValueError, RecursionError) as error:  # also of depth, and of digits
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError(f'{path}: not a results file (its "format" must be {FORMAT!r})')
    if document.get("version") != VERSION:
        raise UsageError(f"{path}: version {document.get('version')!r} of the format (this program reads {VERSION})")
    return document


def _row(values: object, where: str) -> Row:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: must be an object, not {type(values).__name__}")
    where = f"{where} ({values.get('method', '?')})"
    names = [f.name for f in fields(Row)]
    if missing := [name for name in names if name not in values]:
        raise UsageError(f"{where}: lacks {', '.join(missing)}")
    if surplus := sorted(values.keys() - set(names)):
        raise UsageError(f"{where}: unknown field {', '.join(surplus)}")
    for name, hint in get_type_hints(Row).items():
        if not _fits(values[name], hint):
            wanted = str(hint).replace("typing.", "") if get_origin(hint) else hint.__name__
            raise UsageError(f"{where}: {name} is {_short(values[name])}, which is not {wanted}")
    return Row(**values)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value read from JSON has the annotated type; whole numbers are floats too, booleans are no numbers."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if hint in (int, float):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not isinstance(value, (int, hint)):
            return False
        return -_LARGEST <= value <= _LARGEST  # 1e999 is JSON, and infinite
    return isinstance(value, hint)


def _plain(value: Any, where: str) -> Any:
    """The value in JSON's own types; arrays and tensors become lists, paths become text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{where}: {value} is not a finite number; leave out what is unknown")
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), where)
    raise UsageError(f"{where}: {_short(value)} of type {type(value).__name__} has no place in JSON")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
