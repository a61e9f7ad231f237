"""Read files of weights, without running code from them."""

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_unlearn.backbones.saving import KEY, SAFETENSORS
from lit_unlearn.errors import UsageError, first_line

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")
_OURS = (KEY, "pytorch-lightning_version")


def read_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a weights file, and what it says about itself.

    Args:
        path: a plain state dict, also one below ``state_dict``, ``model_state_dict``, ``model`` or ``net``, a file of
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
            below = ", ".join(_WRAPPINGS)
            raise UsageError(
                f"{path}: not a file of weights: {key!r} is a {type(value).__name__}, not a tensor (allowed: a state "
                f"dict, by itself or below one of {below}; torch.save such a part to a file of its own)"
            )
    if not state:
        raise UsageError(f"{path}: holds no weights")
    return dict(state), dict(metadata) if isinstance(metadata, Mapping) else {}


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
