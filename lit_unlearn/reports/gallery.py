"""Artifacts of attacks: a file beside the results, and pictures that sit in a page.

The file is numpy's ``.npz``, read without pickle: ``index``, JSON text that says of each artifact whose it is and what
it is called, and its arrays as ``<number>.images`` (uint8), ``<number>.points`` and ``<number>.groups``.
"""

import base64
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_unlearn.artifacts import Artifact, ImageGrid, PointMap
from lit_unlearn.errors import UsageError
from lit_unlearn.files import write_atomically
from lit_unlearn.reports.rows import ORIGINAL, RETRAIN

FORMAT = "lit_unlearn artifacts"
VERSION = 1

Artifacts = Mapping[str, Mapping[str, Artifact]]
"""Model → name, such as ``"inversion/delta/reconstructions"`` → what is shown."""


@dataclass(frozen=True)
class Picture:
    """An image as a page embeds it.

    Attributes:
        source: a PNG as a data URI.
        caption: what stands under it, or an empty text.
        small: whether single pixels are to be seen when it is enlarged.
    """

    source: str
    caption: str
    small: bool


def write_artifacts(path: str | Path, artifacts: Artifacts) -> None:
    """Write artifacts; a reader sees the old file or the whole new one. Images are kept with 8 bits a channel.

    Args:
        path: file to write.
        artifacts: what to write.

    Raises:
        OSError: if the file cannot be written.
    """
    index: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for model, shown in artifacts.items():
        for name, artifact in shown.items():
            entry = {"model": model, "name": name, "kind": type(artifact).__name__}
            if isinstance(artifact, ImageGrid):
                arrays[f"{len(index)}.images"] = _bytes(artifact.images)
                captions = [list(texts) for texts in artifact.captions]
                index.append({**entry, "rows": list(artifact.rows), "captions": captions})
            else:
                arrays[f"{len(index)}.points"] = np.asarray(artifact.points.detach().cpu(), dtype=np.float32)
                arrays[f"{len(index)}.groups"] = np.asarray(artifact.groups.detach().cpu(), dtype=np.int64)
                index.append({**entry, "names": list(artifact.names)})
    text = json.dumps({"format": FORMAT, "version": VERSION, "artifacts": index}, ensure_ascii=False)
    file = io.BytesIO()
    np.savez_compressed(file, index=np.array(text), **arrays)  # type: ignore[arg-type]
    write_atomically(Path(path), file.getvalue())


def read_artifacts(path: str | Path) -> dict[str, dict[str, Artifact]]:
    """Read what :func:`write_artifacts` wrote.

    Raises:
        UsageError: the file is missing, damaged, or of another format or version.
    """
    import torch

    found: dict[str, dict[str, Artifact]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            document = json.loads(str(file["index"]))
            if (document["format"], document["version"]) != (FORMAT, VERSION):
                raise UsageError(f"{path}: not artifacts of version {VERSION}")
            for number, entry in enumerate(document["artifacts"]):
                shown = found.setdefault(entry["model"], {})
                if entry["kind"] == ImageGrid.__name__:
                    images = torch.from_numpy(file[f"{number}.images"]).float() / 255
                    shown[entry["name"]] = ImageGrid(images, entry["rows"], entry["captions"])
                else:
                    points, groups = (torch.from_numpy(file[f"{number}.{part}"]) for part in ("points", "groups"))
                    shown[entry["name"]] = PointMap(points, groups, entry["names"])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: not a file of artifacts ({error})") from error
    return found


def maps(artifacts: Artifacts) -> dict[str, dict[str, tuple[np.ndarray, list[str]]]]:
    """Name of a map → model → points (N, 2) and the name of each one's group; points that are not finite are left out.

    The original's map comes first, Retrain's last, so that before and after stand side by side.
    """
    found: dict[str, dict[str, tuple[np.ndarray, list[str]]]] = {}
    for model, name, artifact in _of_kind(artifacts, PointMap):
        points, groups = np.asarray(artifact.points.detach().cpu()), artifact.groups.tolist()
        finite = np.isfinite(points).all(1)
        names = [artifact.names[group] for group, kept in zip(groups, finite, strict=True) if kept]
        found.setdefault(name, {})[model] = (points[finite], names)
    order = {ORIGINAL: 0, RETRAIN: 2}
    return {
        name: dict(sorted(panels.items(), key=lambda panel: order.get(panel[0], 1))) for name, panels in found.items()
    }


def grids(artifacts: Artifacts) -> dict[str, list[tuple[str, list[Picture]]]]:
    """Name of a grid of images → its rows, as label and pictures.

    A row that is the same in several models is there once; one that is the same in all, as the true images are, goes
    without their names.
    """
    rows: dict[str, dict[tuple[str, bytes, tuple[str, ...]], tuple[list[str], np.ndarray]]] = {}
    for model, name, artifact in _of_kind(artifacts, ImageGrid):
        pixels = _bytes(artifact.images)
        for number, label in enumerate(artifact.rows):
            captions = tuple(artifact.captions[number]) if artifact.captions else ()
            same = label, pixels[number].tobytes(), captions
            rows.setdefault(name, {}).setdefault(same, ([], pixels[number]))[0].append(model)
    found: dict[str, list[tuple[str, list[Picture]]]] = {}
    for name, shown in rows.items():
        everyone = [model for model, artifact_names in artifacts.items() if name in artifact_names]
        for (row, _, captions), (models, pixels) in shown.items():
            label = row if models == everyone else f"{', '.join(models)}: {row}"
            found.setdefault(name, []).append((label, _pictures(pixels, captions)))
    return found


def _of_kind(artifacts: Artifacts, kind: type[Any]) -> Iterator[tuple[str, str, Any]]:
    for model, shown in artifacts.items():
        for name, artifact in shown.items():
            if isinstance(artifact, kind):
                yield model, name, artifact


def _pictures(pixels: np.ndarray, captions: Sequence[str]) -> list[Picture]:
    """Pictures of images (N, C, H, W), uint8."""
    texts = [*captions, *[""] * len(pixels)]
    return [Picture(_png(image), text, max(image.shape[1:]) < 100) for image, text in zip(pixels, texts, strict=False)]


def _png(image: np.ndarray) -> str:
    from PIL import Image

    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=9)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _bytes(images: Any) -> np.ndarray:
    """Images in [0, 1] as uint8; what is no number is black."""
    values: np.ndarray = np.nan_to_num(np.asarray(images.detach().cpu(), dtype=np.float64)).clip(0, 1)
    pixels: np.ndarray = np.rint(255 * values).astype(np.uint8)
    return pixels
