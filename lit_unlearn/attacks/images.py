"""Images of a split by their index in it, the same on every rank, though every rank sees its own share only."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_unlearn.attacks.encoded import rank_and_world
from lit_unlearn.attacks.splits import SplitData
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones.saving import content_of

CHUNK = 256
"""So many images that lie in memory go through a network at once, whose outputs of all stages then do, too."""


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, on every rank; the tensor itself is overwritten with it."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def batches_with_index(data: SplitData, split: str, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields this rank's batches of a split: the index (B,) of each sample in the whole split, images, labels.

    Rank r of W has the samples r, r + W, r + 2W, ….
    """
    rank, world = rank_and_world()
    passed = 0
    for images, labels in data.evaluation_batches(split, device):
        yield (passed + torch.arange(len(labels), device=device)) * world + rank, images, labels
        passed += len(labels)


def own_share(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) and labels (n,) of those of the wanted samples that are on this rank, in their order."""
    images, labels = packed_share(data, split, wanted, device)
    return unpacked(images), labels


def packed_share(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """As :func:`own_share`, with images as :func:`packed` leaves them."""
    _, images, labels = _own(data, split, wanted, device)
    return images, labels


def pick(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) and labels (n,) of a split by index, the same on every rank; arguments as below."""
    images, labels = packed_pick(data, split, wanted, device)
    return unpacked(images), labels


def packed_pick(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """As :func:`pick`, with images as :func:`packed` leaves them.

    Args:
        data: the splits.
        split: name of the split.
        wanted: indices (n,) in the whole split, the same on every rank.
        device: where the result is to be.
    """
    index, images, labels = (_gather_ranks(share) for share in _own(data, split, wanted, device))
    index, order = index.sort()
    order = order[torch.searchsorted(index, wanted.to(device))]
    return images[order], labels[order]


def packed(images: Tensor) -> Tensor:
    """Images in [0, 1] as bytes, a quarter of the memory, where these give them back bit for bit; else as they are."""
    found = images.float().mul(255).round().clamp(0, 255).to(torch.uint8)
    same = found / 255
    return found if images.dtype == same.dtype and torch.equal(same, images) else images


def unpacked(images: Tensor) -> Tensor:
    """What :func:`packed` was given."""
    return images if images.is_floating_point() else images / 255


def in_chunks(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (n, C, H, W), unpacked, and labels (n,) in order, :data:`CHUNK` at a time."""
    for part, truth in zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True):
        yield unpacked(part), truth


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """Packed pieces as one: bytes where all of them are."""
    as_bytes = not any(piece.is_floating_point() for piece in pieces)
    return torch.cat([piece if as_bytes else unpacked(piece) for piece in pieces])


def split_fingerprint(data: SplitData, split: str, device: torch.device) -> str:
    """A key made of the images and labels of a split, of those that are on this rank."""
    digest = hashlib.blake2b(digest_size=16)
    for batch in data.evaluation_batches(split, device):
        for tensor in batch:
            digest.update(content_of(tensor))
    return digest.hexdigest()


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
    return pick(target.data, split, _drawn(target, split, count, seed), target.device)


def draw_own_share(target: Target, split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """This rank's share of the same images and labels, so that each is on one rank only."""
    return own_share(target.data, split, _drawn(target, split, count, seed), target.device)


def _drawn(target: Target, split: str, count: int, seed: int) -> Tensor:
    total = len(target.data.labels(split))
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def _own(data: SplitData, split: str, wanted: Tensor, device: torch.device) -> list[Tensor]:
    rank, world = rank_and_world()
    positions = torch.unique(wanted.cpu())
    pieces, labels = [], []
    for images, truth in data.evaluation_batches(split, device, wanted=positions):
        pieces.append(packed(images))
        labels.append(truth)
    found = joined(pieces)
    if _gather_ranks(torch.tensor([found.is_floating_point()], device=device)).any():
        found = unpacked(found)
    return [positions[positions % world == rank].to(device), found, torch.cat(labels)]


def _gather_ranks(share: Tensor) -> Tensor:
    return share if rank_and_world()[1] == 1 else torch.cat(gather_all_tensors(share))
