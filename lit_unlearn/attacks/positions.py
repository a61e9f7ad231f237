"""Images of a split by their position in it, though every rank sees its own share only."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_unlearn.attacks.target import SplitData, rank_and_world


def numbered(data: SplitData, split: str, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields this rank's batches of a split, each with the positions (B,) of its samples in the whole split.

    Rank r of W has the positions r, r + W, r + 2W, ….
    """
    rank, world = rank_and_world()
    passed = 0
    for images, labels in data.evaluation_batches(split, device):
        yield (passed + torch.arange(len(labels), device=device)) * world + rank, images, labels
        passed += len(labels)


def own_share(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) and labels (n,) of those of the wanted positions that lie on this rank, in their order."""
    _, images, labels = _own(data, split, wanted, device)
    return images, labels


def pick(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) and labels (n,) of a split by position, the same on every rank.

    Args:
        data: the splits.
        split: name of the split.
        wanted: positions (n,) in the whole split, the same on every rank.
        device: where they are to lie.
    """
    numbers, images, labels = (_gather(share) for share in _own(data, split, wanted, device))
    numbers, order = numbers.sort()
    order = order[torch.searchsorted(numbers, wanted.to(device))]
    return images[order], labels[order]


def all_labels(data: SplitData, split: str, device: torch.device) -> Tensor:
    """Labels (N,) of a whole split in order, the same on every rank."""
    shares = [(numbers, labels) for numbers, _, labels in numbered(data, split, device)]
    numbers, labels = (_gather(torch.cat(share)) for share in zip(*shares, strict=True))
    return labels[numbers.argsort()]


def _own(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> list[Tensor]:
    wanted, found = wanted.to(device), []
    for numbers, images, labels in numbered(data, split, device):
        here = torch.isin(numbers, wanted)
        found.append((numbers[here], images[here], labels[here]))
    return [torch.cat(pieces) for pieces in zip(*found, strict=True)]


def _gather(share: Tensor) -> Tensor:
    return share if rank_and_world()[1] == 1 else torch.cat(gather_all_tensors(share))
