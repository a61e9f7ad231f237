"""The zoo: models that were unlearned and measured, by name. An index names each with its sha256 and what is known.

A place holds the index and the files: a folder, an address, or a repository on Hugging Face's hub. Weights are
safetensors alone, and no file is used whose sha256 is not the index's. What was loaded from an address stays in the
user's cache.
"""

import http.client
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
from lightning.pytorch.utilities import rank_zero_info
from platformdirs import user_cache_path

from lit_unlearn import shipped
from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.backbones.hub import HUB, downloaded
from lit_unlearn.errors import UsageError, first_line, unknown
from lit_unlearn.files import file_sha256

ZOO = "zoo:"
INDEX = "index.json"
PLACE = "LIT_UNLEARN_ZOO"
"""The variable of the environment that names the place where none is given."""

FORMAT = 1
NETWORKS = ("ResNet8", "ResNet18", "ResNet20", "Timm", "Torchvision")
"""What a network of an index may be: classes of this package, of torchvision and timm, and no code of others."""

_READING = ("checkpoint", "pretrained", "weights", "cache")
"""What options of torchvision's and timm's networks begin with that read files or load them."""

_SECONDS = 30
_AT_ONCE = 2**20
_MOST = 2**33
_ADDRESSES = ("http://", "https://")
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)+")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the index says of a model.

    Attributes:
        file: of the weights, below the place.
        sha256: of that file.
        bytes: its size.
        network: ``class_path``, one of :data:`NETWORKS`, and ``init_args``.
        method: the class that made it.
        data: the data set, as in a result row.
        split: the hash of the split, and what was to be forgotten.
        seed: of the run.
        licence: of the weights, as an SPDX expression.
        metrics: accuracies on the splits, fractions.
        verdict: as in a result row, without the intervals.
        row: file of the whole result row, below the place; empty where there is none.
        row_sha256: of that file.
    """

    file: str
    sha256: str
    bytes: int
    network: dict[str, Any]
    method: str
    data: dict[str, Any]
    split: dict[str, Any]
    seed: int
    licence: str
    metrics: dict[str, float]
    verdict: dict[str, Any]
    row: str = ""
    row_sha256: str = ""


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    models: dict[str, Entry]
    place: str | None = None


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo.

    Args:
        name: such as ``fashion_mnist/class/opc_deep``.
        backbone: the network with its weights, in eval mode.
        entry: all that is known of it.
        path: the file of its weights on this machine.
    """

    name: str
    backbone: Backbone
    entry: Entry
    path: Path


@dataclass(frozen=True)
class Zoo:
    """An index and the place of its files.

    Args:
        models: entry of each model by name.
        place: a folder, an ``http(s)://`` address, or ``hf-hub:owner/repository``; None where none is known.
    """

    models: dict[str, Entry]
    place: str | None

    def entry(self, name: str) -> Entry:
        """What is known of a model.

        Raises:
            UsageError: for an unknown name.
        """
        if name not in self.models:
            raise unknown("model of the zoo:", name, self.models)
        return self.models[name]

    def weights(self, name: str) -> Path:
        """The file of a model's weights, loaded if it is not there yet.

        Raises:
            UsageError: for an unknown name, or a file that cannot be had or has another sha256.
        """
        entry = self.entry(name)
        return self._file(entry.file, entry.sha256, entry.bytes)

    def is_here(self, name: str) -> bool:
        """Whether a model's weights are in the cache or in the place, or may be, where the place is another machine."""
        entry = self.entry(name)
        if (cache() / f"{entry.sha256}.safetensors").is_file():
            return True
        if self.place is None:
            return False
        elsewhere = self.place.startswith((HUB, *_ADDRESSES))
        return elsewhere or (Path(self.place).expanduser() / entry.file).is_file()

    def row(self, name: str) -> dict[str, Any]:
        """The whole result row of a model; errors as for :meth:`weights`, and where there is none."""
        entry = self.entry(name)
        if not entry.row:
            raise UsageError(f"zoo:{name} has no row")
        found: dict[str, Any] = json.loads(self._file(entry.row, entry.row_sha256, _MOST).read_bytes())
        return found

    def _file(self, file: str, sha256: str, most: int) -> Path:
        kept = cache() / f"{sha256}{Path(file).suffix}"
        if kept.is_file() and file_sha256(kept) == sha256:
            return kept
        if self.place is None:
            raise UsageError(
                f"the zoo has no place yet from which {file} could be loaded: give its folder, address or repository "
                f"as {PLACE} in the environment"
            )
        path = _loaded(self.place, file, kept, most)
        if (found := file_sha256(path)) != sha256:
            if path == kept:
                path.unlink()
            raise UsageError(f"{self.place}/{file}: sha256 is {found} but the index says {sha256}: it is not used")
        return path


def open_zoo(place: str | Path | None = None) -> Zoo:
    """The zoo in a place, or the one that the package's own index describes.

    Args:
        place: a folder, an address or ``hf-hub:owner/repository``; None takes the environment's ``LIT_UNLEARN_ZOO``, or
            else the package's index and the place that it names.

    Raises:
        UsageError: if the index cannot be had, or is none.
    """
    where = str(place) if place is not None else os.environ.get(PLACE)
    if where is None:
        path = shipped.CHECKPOINTS / "zoo.json"
        if not path.is_file():
            return Zoo({}, None)
        index = _index(path.read_bytes(), str(path))
        return Zoo(index.models, index.place)
    kept = cache() / "index" / (re.sub(r"\W+", "_", where) + ".json")
    try:
        path = _loaded(where, INDEX, kept, _MOST)
    except UsageError:
        if not kept.is_file():
            raise
        rank_zero_info(f"{where} is out of reach: its index is taken as it was last read")
        path = kept
    return Zoo(_index(path.read_bytes(), f"{where}/{INDEX}").models, where)


def load_model(name: str, place: str | Path | None = None) -> ZooModel:
    """A model of the zoo, with its weights and all that is known of it.

    Args:
        name: such as ``fashion_mnist/class/opc_deep``; ``lit-unlearn zoo list`` prints all.
        place: of the zoo, as for :func:`open_zoo`.

    Raises:
        UsageError: for an unknown name, a network that is none of :data:`NETWORKS`, or weights that cannot be had, have
            another sha256 or do not fit.
    """
    from lit_unlearn.backbones.weights import load_weights

    zoo = open_zoo(place)
    entry, path = zoo.entry(name), zoo.weights(name)
    backbone = network_of(f"zoo:{name}", entry.network)
    load_weights(backbone, path)
    return ZooModel(name, backbone.eval(), entry, path)


def network_of(name: str, network: Mapping[str, Any]) -> Backbone:
    """A network by class and arguments, as it is constructed; what would read other files is refused.

    Args:
        name: whose network it is, for errors.
        network: ``class_path``, one of :data:`NETWORKS`, and ``init_args``; ``pretrained`` does not count.

    Raises:
        UsageError: if it is none of :data:`NETWORKS`, or cannot be made.
    """
    kind = str(network.get("class_path")).rpartition(".")[2]
    if kind not in NETWORKS:
        raise unknown(f"network of {name}:", network.get("class_path"), NETWORKS)
    arguments = {key: value for key, value in (network.get("init_args") or {}).items() if key != "pretrained"}
    options = arguments.get("options") or {}
    if foreign := [key for key in options if key.startswith(_READING)]:
        raise UsageError(f"{name}: the option {foreign[0]!r} of its network would read other files: it is not made")
    if ":" in str(arguments.get("name", "")):
        raise UsageError(f"{name}: the network {arguments['name']!r} lies elsewhere: it is not made")
    try:
        made: Backbone = getattr(import_module("lit_unlearn.backbones"), kind)(**arguments)
    except UsageError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UsageError(f"{name}: its network cannot be made: {first_line(error)}") from error
    return made


def cache() -> Path:
    """The folder of what was loaded: the user's own for caches, in which ``lit_unlearn/zoo`` is this."""
    return user_cache_path("lit_unlearn") / "zoo"


def check_name(name: str, what: str) -> None:
    """Refuses the name of a model that no index may have.

    Args:
        name: of the model.
        what: of it is wrong, for the error.

    Raises:
        UsageError: with what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what}, allowed: lower-case letters, digits and _, with / between parts")


def _index(content: bytes, where: str) -> _Index:
    try:
        index = msgspec.json.decode(content, type=_Index)
    except msgspec.DecodeError as error:
        raise UsageError(f"{where}: not an index of a zoo: {first_line(error)}") from error
    if index.format != FORMAT:
        raise UsageError(f"{where}: format {index.format}, but this version reads format {FORMAT}")
    for name, entry in index.models.items():
        files = (entry.file, entry.row) if entry.row else (entry.file,)
        hashes = (entry.sha256, entry.row_sha256) if entry.row else (entry.sha256,)
        fit = _NAME.fullmatch(name) and all(map(_FILE.fullmatch, files)) and all(map(_SHA256.fullmatch, hashes))
        if not fit or Path(entry.file).suffix != ".safetensors" or not 0 < entry.bytes <= _MOST:
            raise UsageError(
                f"{where}: {name!r} must name a .safetensors file below the index, its sha256 and its size"
            )
    return index


def _loaded(place: str, file: str, kept: Path, most: int) -> Path:
    """A file of a place: where it lies, or once it is loaded, ``kept``."""
    if place.startswith(HUB):
        return downloaded(f"{place}/{file}")
    if not place.startswith(_ADDRESSES):
        path = Path(place).expanduser() / file
        if not path.is_file():
            raise UsageError(f"there is no {path}")
        return path
    address = f"{place.rstrip('/')}/{file}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=kept.parent)
    try:
        with os.fdopen(handle, "wb") as target, urllib.request.urlopen(address, timeout=_SECONDS) as source:
            while part := source.read(_AT_ONCE):
                target.write(part)
                if target.tell() > most:
                    raise UsageError(f"{address}: larger than the {most:,} bytes that the index tells")
        Path(temporary).replace(kept)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UsageError(f"cannot load {address}: {reason}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return kept
