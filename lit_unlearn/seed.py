"""The seed of a run, and the sources of random numbers that depend on nothing else that was drawn."""

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, distributed


def run_seed() -> int:
    """What ``seed_everything`` was given, which Lightning hands to every process of a run; 0 where none was set."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A source of random numbers that a key alone decides, such as ``(seed, "noise", step)``.

    The key is hashed: with a sum such as seed + epoch, the second epoch of seed 0 would be the first of seed 1.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def seed_epoch(epoch: int, rank: int) -> None:
    """Seeds torch's global generators by the run's seed, the epoch and the rank."""
    torch.manual_seed((run_seed() * 1_000_003 + epoch) * 4_099 + rank)


def random_states(world: int) -> list[Mapping[str, Tensor]]:
    """The state of torch's global generators on each of so many ranks, which must all call this."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        own["cuda"] = torch.cuda.get_rng_state()
    found: list[Mapping[str, Tensor]] = [own] * world
    if world > 1 and distributed.is_available() and distributed.is_initialized():
        distributed.all_gather_object(found, own)
    return found


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Sets torch's global generators of this process as one of :func:`random_states` says."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Restores the random state of torch, NumPy and Python after the block, also where it raises an error.

    CUDA is not started for it: what the block has drawn there first is undone by the seed that it would have got.
    """
    own, numbers, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    started = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if started else []
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numbers)
        torch.set_rng_state(cpu)
        if started:
            torch.cuda.set_rng_state_all(cuda)
        elif torch.cuda.is_available():
            torch.cuda.manual_seed_all(torch.initial_seed())
