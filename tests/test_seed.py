"""The random state of a process is left as it was."""

import random

import numpy
import pytest
import torch

from lit_unlearn.seed import isolated_rng


def drawn() -> list[float]:
    """The next number of each source."""
    found = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
    if torch.cuda.is_available():
        found.append(float(torch.rand((), device="cuda")))
    return found


def seed_all(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def test_every_random_state_is_as_before_the_block() -> None:
    seed_all(3)
    expected = drawn()
    seed_all(3)
    with isolated_rng():
        seed_all(0)
        drawn()
    assert drawn() == expected


def test_every_random_state_is_as_before_a_block_that_raises() -> None:
    @isolated_rng()
    def breaks() -> None:
        seed_all(0)
        raise RuntimeError("broke")

    seed_all(3)
    expected = drawn()
    seed_all(3)
    with pytest.raises(RuntimeError, match="broke"):
        breaks()
    assert drawn() == expected
