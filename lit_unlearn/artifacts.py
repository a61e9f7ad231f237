"""Artifacts: pictures and maps that an attack returns beside its numbers, as arrays with their captions.

The report draws each artifact by its type and knows no attack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the report is drawn without torch
    from torch import Tensor

FORGOTTEN = " (forgotten)"
"""How the name of a group of points ends whose images were to be forgotten."""


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """Images in rows and columns.

    Attributes:
        images: (rows, columns, C, H, W) in [0, 1], with 1 or 3 channels.
        rows: what each row shows, such as ``"image"`` and ``"reconstruction"``.
        captions: one text an image, by row and column; empty for none.
    """

    images: Tensor
    rows: Sequence[str]
    captions: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, eq=False)
class PointMap:
    """Points in a plane, each of one group.

    Attributes:
        points: (N, 2).
        groups: index (N,) of each point's group.
        names: a name a group; one that ends in :data:`FORGOTTEN` is of what was to be forgotten, and is highlighted.
    """

    points: Tensor
    groups: Tensor
    names: Sequence[str]


Artifact = ImageGrid | PointMap
