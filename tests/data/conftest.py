import struct
import zlib
from collections.abc import Callable

import pytest
import torch

from lit_unlearn.data import Dataset, Source


class TinySource(Source):
    """40 training and 20 test images, 4 classes; every pixel of image i is i, so that an image tells its index."""

    def __init__(self, names: bool = False) -> None:
        self.names = names

    def load(self) -> Dataset:
        train = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
        names = [f"{index % 4}/{index:03d}.png" for index in range(40)] if self.names else None
        labels = torch.arange(40) % 4
        return Dataset(train, labels, train[:20].clone(), labels[:20], ["cat", "dog", "frog", "hare"], names)


@pytest.fixture
def tiny() -> TinySource:
    return TinySource()


@pytest.fixture
def named() -> TinySource:
    return TinySource(names=True)


@pytest.fixture
def deep_png() -> Callable[[int], bytes]:
    """Makes a PNG of 6×6 pixels with 16 bits a channel, of a colour type: 2 RGB, 4 grey and alpha, 6 RGBA."""

    def made(colour: int) -> bytes:
        line = b"\0" + bytes(range(6 * 2 * {2: 3, 4: 2, 6: 4}[colour]))
        head = struct.pack(">IIBBBBB", 6, 6, 16, colour, 0, 0, 0)
        chunks = (b"IHDR", head), (b"IDAT", zlib.compress(6 * line)), (b"IEND", b"")
        parts = [
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        ]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    return made
