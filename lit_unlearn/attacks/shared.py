"""What attacks compute once for all models of a run, such as what concerns Original alone."""

import hashlib
import io
import pickle
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch import distributed as dist
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_unlearn.attacks.encoded import rank_and_world
from lit_unlearn.backbones.saving import content_of
from lit_unlearn.files import write_atomically
from lit_unlearn.own_code import installed_code

Value = TypeVar("Value")

ENDING = ".kept"
"""Of what is kept: no file of weights, which a pool would look at."""


class Shared:
    """Values by keys that name all that they depend on. Keys and values live as long as it: let them be small.

    Args:
        folder: keeps tensors on disk for the runs after this one; it is made when missing. None keeps them in memory
            alone.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self._values: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, computed at its first use. All processes must ask alike."""
        if key not in self._values:
            self._values[key] = make()
        value: Value = self._values[key]
        return value

    def tensors(
        self,
        key: str,
        make: Callable[[], dict[str, Tensor]],
        device: torch.device,
        kept_on: torch.device | None = None,
    ) -> dict[str, Tensor]:
        """The same for tensors by name, also from the folder.

        Args:
            key: a name for a file, such as ``inversion-12ab``.
            make: computes them, where they are to be; on several processes all compute, unless all find the file.
            device: where the run computes, and where its processes can talk to each other.
            kept_on: where the tensors are to be; None is the device.
        """
        return self.once(key, lambda: self.on_disk(key, make, device, kept_on or device))

    def on_disk(self, key: str, make: Callable[[], Value], device: torch.device, kept_on: torch.device) -> Value:
        """The same for tensors and plain values in dictionaries and lists, which are not kept in memory.

        Other code makes another file: it may compute something else. A file that cannot be read is replaced; one that
        cannot be written is a warning. Of several processes one writes, and all read, though the key of each may be of
        what it has of the data: they must begin alike, up to the first hyphen.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{_of_all(key, device)}-{installed_code()[:12]}{ENDING}"
        kept = _loaded(path, kept_on)
        if _on_all(bool(kept), device):
            found: Value = kept[0]
            return found
        made = make()
        if rank_and_world()[0] > 0:
            return made
        try:
            write_atomically(path, _packed(made))
        except OSError as error:
            rank_zero_warn(f"{path} cannot be written, so that the next run computes it again: {error.strerror}")
        return made


def _packed(made: object) -> bytes:
    """What :func:`_loaded` reads: a sha256, and what torch saves, which has no check sum that torch looks at."""
    torch.save(made, buffer := io.BytesIO())
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def _loaded(path: Path, kept_on: torch.device) -> list[Any]:
    """What a file holds, alone in a list; nothing where it is missing, damaged or not to be read."""
    try:
        whole = path.read_bytes()
    except OSError:
        return []
    length = hashlib.sha256().digest_size
    if hashlib.sha256(content := whole[length:]).digest() != whole[:length]:
        return []
    archive = io.BytesIO(content)
    try:
        return [torch.load(archive, map_location=kept_on, weights_only=True)]
    except (pickle.UnpicklingError, RuntimeError, EOFError):  # of another version of torch
        return []


def _of_all(key: str, device: torch.device) -> str:
    """One key for those of all processes."""
    if rank_and_world()[1] == 1:
        return key
    own = hashlib.blake2b(key.encode(), digest_size=16).digest()
    every = gather_all_tensors(torch.tensor(list(own), dtype=torch.uint8, device=device))
    whole = hashlib.blake2b(b"".join(content_of(each) for each in every), digest_size=16)
    return f"{key.partition('-')[0]}-{whole.hexdigest()}"


def _on_all(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set on every process; the device is one on which they can talk, with NCCL a GPU."""
    if rank_and_world()[1] == 1:
        return flag
    count = torch.tensor(int(flag), device=device)
    dist.all_reduce(count, op=dist.ReduceOp.MIN)
    return bool(count)
