"""Batches of samples as a network sees them, and what makes them one, over all ranks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


class Encoded(NamedTuple):
    """One batch as a network sees it: features (B, d), logits (B, C), labels (B,), and each stage's pooled (B, c)."""

    features: Tensor
    logits: Tensor
    labels: Tensor
    stages: Mapping[str, Tensor]


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; rank r of W has the samples r, r + W, r + 2W, … of a split."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def combined(combine: Callable[[list[Tensor]], Tensor], pieces: Sequence[Encoded], what: Collection[str]) -> Encoded:
    """Batches made one, tensor by tensor; what is not asked for is left out, and its memory let go."""

    def one(name: str) -> Tensor:
        parts: list[Tensor] = [getattr(piece, name) for piece in pieces]
        return combine(parts) if name in (*what, "labels") else parts[0].new_empty(0, *parts[0].shape[1:])

    names = pieces[0].stages if "stages" in what else ()
    stages = {name: combine([piece.stages[name] for piece in pieces]) for name in names}
    return Encoded(one("features"), one("logits"), one("labels"), stages)


def rows(samples: Encoded, chosen: Tensor, what: Collection[str]) -> Encoded:
    """Some of the samples, by a mask or by their index, of what is asked for."""
    return combined(lambda parts: parts[0][chosen], [samples], what)


def shares(pieces: list[Tensor]) -> list[Tensor]:
    """The samples of each rank."""
    own = torch.cat(pieces)
    found: list[Tensor] = [own] if rank_and_world()[1] == 1 else gather_all_tensors(own)
    return found


def gather_ranks(pieces: list[Tensor]) -> Tensor:
    """The samples of all ranks in the order of the split, of which rank r of W has numbers r, r + W, r + 2W, …."""
    every = shares(pieces)
    if len(every) == 1:
        return every[0]
    gathered = every[0].new_empty(sum(len(share) for share in every), *every[0].shape[1:])
    for rank, share in enumerate(every):
        gathered[rank :: len(every)] = share
    return gathered
