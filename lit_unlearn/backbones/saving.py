"""Save weights: for this package with all that is known of them, or under the names of the user's own network alone."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lit_unlearn.backbones.backbone import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.files import file_sha256, plain, replaced

SAFETENSORS, TORCH = ".safetensors", ".pt"
KEY = "lit_unlearn"
"""Under which a file keeps what is known of its weights."""


def save_weights(backbone: Backbone, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write a backbone's weights so that the file is either complete or absent.

    Args:
        backbone: what to save.
        path: the file; its folder is made, a file of that name is replaced. A ``.safetensors`` file has the names of
            the user's own network, any other those of the backbone.
        metadata: plain values that JSON can hold, kept under ``lit_unlearn``.

    Raises:
        UsageError: if the metadata is not plain or the file cannot be written.
    """
    path = Path(path)
    kept = plain(metadata, strict=True, where=f"metadata of {path}")
    if path.suffix == SAFETENSORS:
        write_state(path, network_state(backbone), kept)
    else:
        _save({"state_dict": _copied(backbone.state_dict()), KEY: kept}, path)


def network_state(backbone: Backbone) -> dict[str, Tensor]:
    """The weights, not copied, under the names of the network that :meth:`Backbone.to_network` gives."""
    return own_names(backbone.state_dict(), backbone.head_path)


def own_names(state: Mapping[str, Tensor], head_path: str | None) -> dict[str, Tensor]:
    """A backbone's state dict under the names of the network that was split; normalisation stays behind.

    Args:
        state: of a backbone.
        head_path: where the head was, or None for a backbone that was constructed in two parts and keeps its names.
    """
    if head_path is None:
        return dict(state)
    return {own_name(key, head_path): value for key, value in state.items() if not key.startswith("normalise.")}


def names_of_network(state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights that were read from a file under the names of the network that was split, if they are of a backbone."""
    network = metadata.get("network") or {}
    if not network or network.get("normalises") or "normalise.mean" not in state:
        return dict(state)
    return own_names(state, str(network["head"]))


def own_name(key: str, head_path: str) -> str:
    """The name in the network that was split of a parameter or buffer of its backbone.

    What a method has put beside the two parts, such as a gate, keeps its name: the network has no place for it.
    """
    part, _, rest = key.partition(".")
    return {"head": f"{head_path}.{rest}", "encoder": rest}.get(part, key)


def write_state(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Write weights under the user's own names, completely or not at all.

    Args:
        path: a ``.safetensors`` file, which holds the metadata as well, or a ``.pt`` file, a plain state dict.
        state: name → tensor.
        metadata: plain values that JSON can hold; the sha256 of the tensors is added.

    Returns:
        The sha256 of the file, as hexadecimal digits.

    Raises:
        UsageError: for another ending, or a file that cannot be written.
    """
    path, state = Path(path), _copied(state)
    if path.suffix == TORCH:
        _save(state, path)
    elif path.suffix == SAFETENSORS:
        from safetensors.torch import save

        # One entry alone: several would be written in random order, and equal weights give unequal files.
        said = {**metadata, "tensors_sha256": tensors_sha256(state)}
        with _whole(path) as file:
            file.write(save(state, {KEY: json.dumps(said, sort_keys=True)}))
    else:
        raise UsageError(
            f"{path}: weights are written as {TORCH} or {SAFETENSORS}, not as {path.suffix or 'no ending'}"
        )
    return file_sha256(path)


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Names weights whatever file they are in: the sha256 over each name, type, shape and content, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(content_of(value))
    return digest.hexdigest()


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are, bit for bit, the same; of two precisions, once both are rounded to the lower one."""
    one, other = one.detach().cpu(), other.detach().cpu()
    dtype = min((one.dtype, other.dtype), key=lambda dtype: dtype.itemsize)
    return torch.equal(one.to(dtype), other.to(dtype))


def same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same names, and the :func:`same_values` under each."""
    return one.keys() == other.keys() and all(same_values(value, other[name]) for name, value in one.items())


def first_mismatch(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[str, str, str] | None:
    """The first name that one of two state dicts lacks or has in another shape, with both shapes; None if all agree."""
    for name in {**one, **other}:
        shapes = [str(tuple(state[name].shape)) if name in state else "missing" for state in (one, other)]
        if shapes[0] != shapes[1]:
            return name, shapes[0], shapes[1]
    return None


def content_of(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, in their order, of whatever type; numpy knows no bfloat16."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, as safetensors asks for."""
    whole = torch.contiguous_format
    return {key: value.detach().cpu().clone(memory_format=whole) for key, value in state.items()}


def _save(content: Mapping[str, Any], path: Path) -> None:
    with _whole(path) as file:
        torch.save(dict(content), file)


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that is replaced completely or not at all; what hinders it is told to the user in one line."""
    try:
        with replaced(path) as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
