"""Read, verify and load weights: strictly, without running code from a file, and all or nothing."""

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_unlearn import shipped
from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.backbones.hub import HUB, downloaded
from lit_unlearn.backbones.saving import KEY, SAFETENSORS, own_name, own_names
from lit_unlearn.backbones.split import find_head
from lit_unlearn.backbones.zoo import ZOO, open_zoo
from lit_unlearn.errors import UsageError, first_line, unknown
from lit_unlearn.files import file_sha256

_WRAPPINGS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_OURS = (KEY, "pytorch-lightning_version")


@dataclass(frozen=True)
class LoadedWeights:
    """Where a backbone's weights came from.

    Args:
        source: the name or path as it was given.
        path: the file.
        sha256: of the file, as hexadecimal digits.
        split: hash of the split that the weights were trained for, if the file or the manifest says so.
        entry: the manifest's entry, empty for the user's own file.
        left_out: names the images that the weights were never trained on, if the file says so.
        method: the class that made them, if the file says so.
        forgotten: the requests that the model has forgotten, oldest first, as the file says.
        seconds: how long training took, if the file says so.
        images_seen: images in the batches of training, if the file says so.
    """

    source: str
    path: Path
    sha256: str
    split: str | None = None
    entry: dict[str, Any] = field(default_factory=dict)
    left_out: str | None = None
    method: str | None = None
    forgotten: tuple[dict[str, Any], ...] = ()
    seconds: float | None = None
    images_seen: int | None = None


def resolve(weights: str | Path) -> Path:
    """The file behind a path, a name in the manifest, in the zoo or on Hugging Face's hub; a file goes before a name.

    Raises:
        UsageError: if it is none of these, or cannot be downloaded.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if str(weights).startswith(HUB):
        return downloaded(str(weights))
    if str(weights).startswith(ZOO):
        return open_zoo().weights(str(weights).removeprefix(ZOO))
    entries = shipped.manifest()
    if str(weights) not in entries:
        raise unknown("weights, neither a file nor a name in the manifest:", weights, entries)
    path = shipped.CHECKPOINTS / str(entries[str(weights)]["file"])
    if not path.is_file():
        raise UsageError(f"the weights {str(weights)!r} are in the manifest, but their file {path} is missing")
    return path


def read_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a weights file, and what it says about itself.

    Args:
        path: a plain state dict, also one below ``state_dict``, ``model_state_dict`` or ``model``, a file of
            ``save_weights``, a Lightning checkpoint (only what is below ``backbone.`` counts), or a ``.safetensors``
            file.

    Returns:
        The state dict, on the CPU, and the metadata under ``lit_unlearn`` (empty if there is none).

    Raises:
        UsageError: if the file is missing, corrupt, would run code, or holds anything but tensors.
    """
    path = Path(path)
    content = _read(path)
    metadata = content.get(KEY)
    wrapping = next((name for name in _WRAPPINGS if isinstance(content.get(name), Mapping)), None)
    state = content.get("state_dict", content) if wrapping is None else content[wrapping]
    if wrapping is not None and not content.keys() & set(_OURS):
        rank_zero_info(f"{path}: the weights are what is below {wrapping!r}")
    if not isinstance(state, Mapping):
        raise UsageError(f"{path}: its state_dict is a {type(state).__name__}, not a dictionary of tensors")
    if "backbone.normalise.mean" in state:
        state = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UsageError(f"{path}: not a file of weights: {key!r} is a {type(value).__name__}, not a tensor")
    if not state:
        raise UsageError(f"{path}: holds no weights")
    return dict(state), dict(metadata) if isinstance(metadata, Mapping) else {}


def load_weights(backbone: Backbone, weights: str | Path) -> LoadedWeights:
    """Load weights strictly into a backbone; if anything is wrong, nothing is loaded.

    Args:
        backbone: changed in place. The mean and standard deviation come with the weights, unless the file is one
            of the network that was split (torchvision's, timm's or the user's own), which has none.
        weights: a file; a name in the manifest, whose sha256 is then checked; or ``hf-hub:owner/repository``, see
            :func:`lit_unlearn.backbones.hub.downloaded`; or ``zoo:`` and a name in the zoo.

    Raises:
        UsageError: for an unreadable file, missing or unexpected keys, other shapes, values that are not finite,
            or a wrong sha256.
    """
    path = resolve(weights)
    entry = {} if Path(weights).expanduser().is_file() else shipped.manifest().get(str(weights), {})
    sha256 = file_sha256(path)
    if entry and entry.get("sha256") != sha256:
        raise UsageError(f"{path}: sha256 is {sha256} but the manifest says {entry.get('sha256')}: get the file again")
    state, metadata = read_state(path)
    load_state(backbone, state, str(path), metadata)
    split = metadata.get("split", entry.get("split"))
    split = split.get("hash") if isinstance(split, Mapping) else split
    split = None if split is None else str(split)
    forgotten = metadata.get("forgotten")
    requests = tuple(dict(each) for each in forgotten if isinstance(each, Mapping)) if forgotten else ()
    # A file that says nothing of its network is of an older kind, whose split was that of a Retrain.
    left_out = metadata.get("left_out", None if "network" in metadata else split)
    took, method = metadata.get("seconds"), metadata.get("method", entry.get("method"))
    return LoadedWeights(
        source=str(weights),
        path=path,
        sha256=sha256,
        split=split,
        entry=dict(entry),
        left_out=None if left_out is None else str(left_out),
        method=None if method is None else str(method),
        forgotten=requests,
        seconds=float(took) if isinstance(took, int | float) else None,
        images_seen=seen if isinstance(seen := metadata.get("images_seen"), int) else None,
    )


def load_state(
    backbone: Backbone, state: dict[str, Tensor], where: str, metadata: Mapping[str, Any] | None = None
) -> None:
    """Load a state dict strictly into a backbone, under its own names or those of the network that was split.

    Args:
        backbone: changed in place, unless anything is wrong.
        state: name → tensor.
        where: what it is, for an error.
        metadata: what a file says of it.

    Raises:
        UsageError: for missing or unexpected keys, other shapes, or values that are not finite.
    """
    current = backbone.state_dict()
    state = _without_prefix(where, state, {*current, *_names(backbone, current)})
    state = _own_names(backbone, state, current, metadata or {})
    _verify(where, state, current, name=backbone.name_in_network)
    backbone.load_state_dict(state, strict=True)


def start_from(network: nn.Module, path: str | Path, head: str | None = None) -> str:
    """Gives a network the weights of a file; its last layer keeps its own where the file's has other classes.

    Args:
        network: as it was constructed, not yet split; changed in place.
        path: a file as for :func:`read_state`.
        head: dotted path of the last linear layer; None looks for it.

    Returns:
        The file and its sha256, for a result row.

    Raises:
        UsageError: for an unreadable file, missing or unexpected keys, other shapes, or values that are not finite.
    """
    path, head = Path(path).expanduser(), find_head(network, None, head)
    current = network.state_dict()
    state = read_state(path)[0]
    if "normalise.mean" in state:  # a file of save_weights, from which the normalisation is left out
        state = own_names(state, head)
    state = _without_prefix(str(path), state, set(current))
    other = f"{head}.weight" in state and state[f"{head}.weight"].shape != current[f"{head}.weight"].shape
    if other:
        rank_zero_info(f"{path}: the last layer, {head}, has other classes and starts afresh")
    own = {key for key in current if other and key.startswith(f"{head}.")}
    state = _counters(current) | {**state, **{key: current[key] for key in own}}
    _verify(str(path), state, current, "network")
    network.load_state_dict(state, strict=True)
    return f"{path.name} (sha256 {file_sha256(path)})"


def check_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a Lightning checkpoint holds, once it is known to be safe, whole and with a ``state_dict``.

    Raises:
        UsageError: where one of these fails, or there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no such checkpoint: {path}")
    held = _read(path)
    if not isinstance(held.get("state_dict"), Mapping):
        raise UsageError(f"{path}: not a Lightning checkpoint, it holds no state_dict")
    return held


def _read(path: Path) -> dict[str, Any]:
    """What a file holds, without running code from it."""
    if not path.is_file():
        raise UsageError(f"no such weights file: {path}")
    try:
        content = _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL ([A-Za-z_]\w*(?:\.\w+)+)", str(error))
        what = f"it holds {found[1]}, and not only plain values" if found else "it is no file of plain weights"
        raise UsageError(f"{path}: refused: {what}; reading it could run code") from error
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path}: corrupt, or no file of weights ({first_line(error)[:100]})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _read_torch(path: Path) -> Any:
    # torch.load does not look at the checksums of the archive, so a flipped bit would pass.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"the checksum of {bad} is wrong")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        said = (file.metadata() or {}).get("lit_unlearn", "{}")
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    return {"state_dict": state, "lit_unlearn": json.loads(said)}


def _names(backbone: Backbone, current: Mapping[str, Tensor]) -> dict[str, str]:
    """The names that the network had before it was split → those of the backbone; none for one that was not split."""
    if backbone.head_path is None:
        return {}
    return {own_name(key, backbone.head_path): key for key in current if not key.startswith("normalise.")}


def _without_prefix(path: str, state: dict[str, Tensor], known: Set[str]) -> dict[str, Tensor]:
    """Takes off what DataParallel, a wrapping module or a compiler puts before every name, if no name fits with it."""
    taken = ""
    while not known & state.keys():
        prefix = next((each for each in _PREFIXES if all(key.startswith(each) for key in state)), None)
        if prefix is None:
            break
        state, taken = {key.removeprefix(prefix): value for key, value in state.items()}, taken + prefix
    if taken:
        rank_zero_info(f"{path}: the names are read without their prefix {taken!r}")
    return state


def _own_names(
    backbone: Backbone, state: dict[str, Tensor], current: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Rename the keys of the network that was split, and fill in what such files do not have."""
    state, native = dict(state), _names(backbone, current)
    if len(native.keys() & state.keys()) > len(current.keys() & state.keys()):
        state = {native.get(key, key): value for key, value in state.items()}
        own = {key: value for key, value in current.items() if key.startswith("normalise.")}
        state = own | _normalisation(metadata, own) | state
    return _counters(current) | state


def _counters(current: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Batch norm's counter is absent from old files; torch fills it in, too, and eval mode does not read it."""
    return {key: value for key, value in current.items() if key.endswith(".num_batches_tracked")}


def _normalisation(metadata: Mapping[str, Any], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean and deviation that the file says its network was given; none where it says nothing."""
    network = metadata.get("network")
    said = network if isinstance(network, Mapping) else {}
    found = {}
    for key, value in own.items():
        given = said.get(key.removeprefix("normalise."))
        if isinstance(given, list) and len(given) == value.numel():
            found[key] = torch.tensor(given, dtype=value.dtype).view_as(value)
    return found


def _verify(
    path: str,
    state: Mapping[str, Tensor],
    current: Mapping[str, Tensor],
    kind: str = "backbone",
    name: Callable[[str], str] = str,
) -> None:
    """Raise a UsageError, with names as the user knows them, unless names and shapes agree and values are finite."""
    wrong = []
    for what, keys in (("missing", current.keys() - state.keys()), ("unexpected", state.keys() - current.keys())):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            wrong.append(f"{what} {', '.join(name(key) for key in sorted(keys)[:3])}{more}")
    if wrong:
        raise UsageError(f"{path}: its weights are of another {kind}: {'; '.join(wrong)}")
    # The head first: a wrong class count is the most common mistake, and the easiest to name.
    for key in sorted(current, key=lambda key: (not key.startswith(("head.", "normalise.")), key)):
        if state[key].shape != current[key].shape:
            raise UsageError(f"{path}: {_mismatch(key, name(key), state[key], current[key])}")
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise UsageError(f"{path}: {name(key)} has values that are not finite")


def _mismatch(key: str, name: str, given: Tensor, own: Tensor) -> str:
    shapes = f"{name} is {tuple(given.shape)} in the file and {tuple(own.shape)} in the backbone"
    if key.startswith("head.") and given.dim() and given.shape[0] != own.shape[0]:
        return f"the file is for {given.shape[0]} classes, the backbone for {own.shape[0]} ({shapes})"
    if key.startswith("normalise."):
        return f"the file is for {given.numel()}-channel images, the backbone for {own.numel()} ({shapes})"
    return f"wrong shape: {shapes}"
