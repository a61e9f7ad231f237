"""Tensors that are too many for the memory, on disk as long as the process lives."""

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor

_LEFT_FREE = 2**30
"""Bytes of the disk that are left to others."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies.

    Args:
        offset: of its first byte.
        shape: its shape.
        dtype: its type.
    """

    offset: int
    shape: torch.Size
    dtype: torch.dtype


class Scratch:
    """A file in the folder for temporary files (``TMPDIR``) that has no name.

    The system removes it with the process, however that ends.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._size = 0

    def put(self, tensor: Tensor) -> Stored | None:
        """Stores a tensor; None where the disk has no room for it."""
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        if shutil.disk_usage(tempfile.gettempdir()).free < data.nbytes + _LEFT_FREE:
            return None
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (open as long as this object lives)
            weakref.finalize(self, self._file.close)
        stored = Stored(self._size, tensor.shape, tensor.dtype)
        left = data.numpy().data
        while left:
            written = os.pwrite(self._file.fileno(), left, self._size)
            self._size, left = self._size + written, left[written:]
        return stored

    def get(self, stored: Stored, device: torch.device) -> Tensor:
        """A tensor that was stored."""
        assert self._file is not None
        tensor = torch.empty(stored.shape, dtype=stored.dtype)
        left, offset = tensor.view(-1).view(torch.uint8).numpy().data, stored.offset
        while left:
            read = os.preadv(self._file.fileno(), [left], offset)
            offset, left = offset + read, left[read:]
        return tensor.to(device)
