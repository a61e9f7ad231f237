"""The evidence of a run as one zip file: results, page, configs, and the hashes of data, split and weights.

It proves that nothing in it was changed since it was written, by whoever holds its sha256; it is not signed. Keys to a
store of images, the ``options`` of the source in a config, are left out.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lit_unlearn import __version__
from lit_unlearn.archives import read_archive, write_archive
from lit_unlearn.backbones.reading import read_state
from lit_unlearn.backbones.saving import names_of_network, tensors_sha256
from lit_unlearn.backbones.weights import resolve, wrapper_prefix
from lit_unlearn.data.sources import without_options
from lit_unlearn.errors import UsageError
from lit_unlearn.files import file_sha256, read_settings
from lit_unlearn.reports.rows import RETRAIN, Row, read_rows, rows_of
from lit_unlearn.run_files import ARTIFACTS, CONFIG, PAGE, RESULTS, RETRAIN_SETTINGS
from lit_unlearn.shipped import is_own

FORMAT = "lit_unlearn evidence"
MANIFEST = "evidence.json"


def write_evidence(run: Path, to: Path) -> str:
    """Zips what a run left behind, verifies the zip, and returns a line with its sha256.

    Args:
        run: the run's folder.
        to: the zip file; it is written whole or not at all.

    Raises:
        UsageError: if the folder holds no results, or the file cannot be written.
    """
    if to.suffix != ".zip":
        raise UsageError(f"{to}: evidence is a .zip file")
    if not (run / RESULTS).is_file():
        raise UsageError(f"{run}: no run: there is no {RESULTS}")
    if not (rows := read_rows(run / RESULTS)):
        raise UsageError(f"{run / RESULTS} has no row")
    found = dict(_files(run, rows))
    manifest = {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "lit_unlearn": __version__,
        **_identity(rows[-1]),
    }
    write_archive(to, MANIFEST, manifest, found)
    verify_evidence(to)
    written = f"Written to {to} (sha256 {file_sha256(to)}): {', '.join([MANIFEST, *found])}. Keep the sha256 elsewhere."
    gone = [row for row in rows if _is_here(row) is False]
    if not gone:
        return written
    first = f"{gone[0].weights['source']} is not the file that was measured"
    return f"{written} The settings of {len(gone)} of the Retrains are not in it: {first}."


def verify_evidence(path: Path, weights: str | None = None) -> list[str]:
    """Checks that evidence is whole and agrees with itself, and says what it shows.

    Args:
        path: the zip file. Nothing is unpacked, and nothing in it is run.
        weights: a file of weights, in whatever format, that must be the result of the run.

    Raises:
        UsageError: naming what is missing, changed or disagrees.
    """
    manifest, contents = read_archive(path, MANIFEST, FORMAT, "evidence", [RESULTS])
    row = _rows(contents[RESULTS], path)[-1]
    for name, value in _identity(row).items():
        if manifest.get(name) != value:
            raise UsageError(f"{path}: {MANIFEST} and {RESULTS} disagree about {name}")
    result = row.weights.get("result") or {}
    lines = [
        f"{path}: {len(contents)} files, each as its sha256 in {MANIFEST} says",
        f"{row.method}, {row.status}, verdict: {row.verdict.get('level', 'none')}",
        f"split {row.split.get('hash')}, data {row.data.get('sha256', 'without a hash')}",
        f"original weights {_original(row) or 'without a hash'}, result {_result(result)}",
        f"sha256 of the evidence: {file_sha256(path)}",
    ]
    if weights is None:
        return lines
    held = list(_hashes(resolve(weights)))
    if result.get("tensors_sha256") not in held:
        raise UsageError(f"{weights}: not the weights of this evidence: its tensors' sha256 is {held[-1]}")
    return [*lines, f"{weights}: the weights that this evidence is of"]


def _files(run: Path, rows: list[Row]) -> Iterator[tuple[str, Path | bytes]]:
    """Name in the zip → file, or its content; only what is there."""
    for name in (RESULTS, PAGE, ARTIFACTS):
        if (run / name).is_file():
            yield name, run / name
    if (run / CONFIG).is_file():
        yield CONFIG, _config(run / CONFIG)
    retrains = dict.fromkeys(Path(str(row.weights["source"])) for row in rows if _is_here(row))
    for number, path in enumerate(retrains):
        if (settings := path.with_name(RETRAIN_SETTINGS)).is_file():
            yield f"retrain/{f'{number}/' if number else ''}{RETRAIN_SETTINGS}", settings


def _is_here(row: Row) -> bool | None:
    """Whether the file of a Retrain's weights is where it was, and is the one that was measured.

    None for another model, for weights that the package ships, and for those of other code, which have no settings.
    """
    source, sha256 = row.weights.get("source"), row.weights.get("sha256")
    if row.method != RETRAIN or sha256 is None or not is_own(str(source)) or "trained_without" in row.weights:
        return None
    path = Path(str(source))
    return path.is_file() and file_sha256(path) == sha256


def _hashes(path: Path) -> Iterator[str]:
    """The sha256 of the tensors in a file, under the network's own names, with and without a wrapper's prefix."""
    state = names_of_network(*read_state(path))
    while (prefix := wrapper_prefix(state)) is not None:
        yield tensors_sha256(state)
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    yield tensors_sha256(state)


def _config(path: Path) -> Path | bytes:
    """The config of a run; one whose source has options, keys among them, without these."""
    settings = read_settings(path)
    if (kept := without_options(settings)) == settings:
        return path
    return str(yaml.safe_dump(kept, sort_keys=False)).encode()


def _identity(row: Row) -> dict[str, Any]:
    """What names the run: its data, split and weights by their hashes, and the method."""
    result = row.weights.get("result") or {}
    return {
        "method": row.method,
        "status": row.status,
        "data_sha256": row.data.get("sha256"),
        "split": row.split.get("hash"),
        "left_out": row.split.get("left_out"),
        "original_sha256": _original(row),
        "result_sha256": result.get("sha256"),
        "result_tensors_sha256": result.get("tensors_sha256"),
    }


def _result(known: Mapping[str, str]) -> str:
    """The sha256 of the result's file, else that of its tensors."""
    if "sha256" in known:
        return known["sha256"]
    return f"with tensors {known['tensors_sha256']}" if "tensors_sha256" in known else "without a hash"


def _original(row: Row) -> str | None:
    """The sha256 of the original's file: of an audit another one than that of the model that was measured."""
    weights = row.weights.get("original") or {} if row.method == "Audit" else row.weights
    found = weights.get("sha256")
    return None if found is None else str(found)


def _rows(content: bytes, path: Path) -> list[Row]:
    rows = rows_of(content, f"{path}: {RESULTS}")
    if not rows:
        raise UsageError(f"{path}: {RESULTS} has no row")
    return rows
