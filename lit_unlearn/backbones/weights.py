"""Find, verify and load weights: strictly, and all or nothing."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_unlearn import shipped
from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.backbones.finite import not_finite
from lit_unlearn.backbones.hub import HUB, downloaded
from lit_unlearn.backbones.reading import read_state
from lit_unlearn.backbones.saving import own_name, own_names
from lit_unlearn.backbones.split import find_head
from lit_unlearn.backbones.zoo import ZOO, open_zoo
from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.files import file_sha256

_PREFIXES = ("module.", "model.", "_orig_mod.")


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
        train_sha256: names all training images, these among them, if the file says so.
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
    train_sha256: str | None = None
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


def load_weights(backbone: Backbone, weights: str | Path) -> LoadedWeights:
    """Load weights strictly into a backbone; if anything is wrong, nothing is loaded.

    Args:
        backbone: changed in place. The mean and standard deviation come with the weights, unless the file is one
            of the network that was split (torchvision's, timm's or the user's own), which has none.
        weights: a file; a name in the manifest, whose sha256 is then checked; or ``hf-hub:owner/repository``, see
            :func:`lit_unlearn.backbones.hub.downloaded`; or ``zoo:`` and a name in the zoo.

    Raises:
        UsageError: for an unknown name, a file that cannot be had or read, missing or unexpected keys, other shapes,
            values that are not finite, or a wrong sha256.
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
        train_sha256=None if (images := metadata.get("train_sha256")) is None else str(images),
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
    _verify(where, state, backbone, name=backbone.name_in_network)
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
    _verify(str(path), state, network, "network")
    network.load_state_dict(state, strict=True)
    return f"{path.name} (sha256 {file_sha256(path)})"


def _names(backbone: Backbone, current: Mapping[str, Tensor]) -> dict[str, str]:
    """The names that the network had before it was split → those of the backbone; none for one that was not split."""
    if backbone.head_path is None:
        return {}
    return {own_name(key, backbone.head_path): key for key in current if not key.startswith("normalise.")}


def wrapper_prefix(state: Mapping[str, Tensor]) -> str | None:
    """What DataParallel, a wrapping module or a compiler puts before a name, where every name begins so."""
    return next((each for each in _PREFIXES if all(key.startswith(each) for key in state)), None) if state else None


def _without_prefix(path: str, state: dict[str, Tensor], known: Set[str]) -> dict[str, Tensor]:
    """Takes off what DataParallel, a wrapping module or a compiler puts before every name, if no name fits with it."""
    taken = ""
    while not known & state.keys() and (prefix := wrapper_prefix(state)) is not None:
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
    network: nn.Module,
    kind: str = "backbone",
    name: Callable[[str], str] = str,
) -> None:
    """Raise a UsageError, with names as the user knows them, unless names and shapes agree and values are finite."""
    wrong, current = [], network.state_dict()
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
    if found := not_finite(state, dict(network.named_buffers()).keys()):
        raise UsageError(f"{path}: {name(found[0])} has values that are not finite")


def _mismatch(key: str, name: str, given: Tensor, own: Tensor) -> str:
    shapes = f"{name} is {tuple(given.shape)} in the file and {tuple(own.shape)} in the backbone"
    if key.startswith("head.") and given.dim() and given.shape[0] != own.shape[0]:
        return f"the file is for {given.shape[0]} classes, the backbone for {own.shape[0]} ({shapes})"
    if key.startswith("normalise."):
        return f"the file is for {given.numel()}-channel images, the backbone for {own.numel()} ({shapes})"
    return f"wrong shape: {shapes}"
