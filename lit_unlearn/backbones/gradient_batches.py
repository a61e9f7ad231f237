"""Batches of evaluation, cut to what fits where a gradient is taken: all activations are then in memory at once."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

MOST_VALUES = 2**22
"""Of the images of a batch: 1,365 of 3 × 32 × 32 or 27 of 3 × 224 × 224."""


def gradient_batches(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the same images (B, C, H, W) and labels (B,), in batches of :data:`MOST_VALUES` values at most.

    Batches that are smaller stay as they are, bit for bit what they give; so do the standard 1,000 small images. Only
    for what adds up over images, or is of each alone.
    """
    for images, labels in batches:
        size = max(1, MOST_VALUES // max(1, images.shape[1:].numel()))
        yield from zip(torch.split(images, size), torch.split(labels, size), strict=True)
