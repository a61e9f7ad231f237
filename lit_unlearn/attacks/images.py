"""Images for the attacks that look at pixels: the same ones on every rank, and results put together from all ranks."""

import torch
from torch import Tensor
from torch import distributed as dist

from lit_unlearn.attacks.target import Target


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are."""
    here = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if here else (0, 1)


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks, on every rank; the tensor itself takes it."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def draw(target: Target, split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of a split drawn without replacement, in the order of the split; the same on every rank.

    Args:
        target: whose data to draw from.
        split: a split that has samples.
        count: how many; the whole split where it has fewer.
        seed: of the draw.

    Returns:
        Images (N, C, H, W) in [0, 1] and their labels (N,), on the target's device.
    """
    rank, world = rank_and_world()
    device = target.device
    size = sum(len(labels) for _, labels in target.data.evaluation_batches(split, device))
    total = int(summed(torch.tensor(size, device=device)))
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    places = {position: place for place, position in enumerate(drawn.tolist())}
    images, labels = torch.empty(0, device=device), torch.zeros(len(drawn), dtype=torch.int64, device=device)
    seen = 0
    for batch, classes in target.data.evaluation_batches(split, device):
        if not images.numel():
            images = torch.zeros(len(drawn), *batch.shape[1:], dtype=batch.dtype, device=device)
        for row in range(len(classes)):
            # Rank r has the positions r, r + world, r + 2 · world, ….
            place = places.get((seen + row) * world + rank)
            if place is not None:
                images[place], labels[place] = batch[row], classes[row]
        seen += len(classes)
    return summed(images), summed(labels)
