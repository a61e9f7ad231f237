import pytest
import torch

from lit_unlearn.attacks.recovery.reservoir import Reservoir
from lit_unlearn.errors import UsageError


def stream(reservoir, count, batch=7):
    numbers = torch.arange(count)
    for part in numbers.split(batch):
        reservoir.update(part[:, None].float(), part)
    return reservoir


def test_all_are_kept_where_they_fit():
    x, y = stream(Reservoir(1, 50), 40).compute()
    assert sorted(y.tolist()) == list(range(40))
    assert torch.equal(x[:, 0], y.double())


def test_a_part_is_drawn_evenly_from_the_whole_stream():
    counts = torch.zeros(40)
    for seed in range(200):
        _, y = stream(Reservoir(1, 10, seed), 40).compute()
        assert len(y.unique()) == 10
        counts[y] += 1
    expected, deviation = 50, (200 * 0.25 * 0.75) ** 0.5
    assert (counts - expected).abs().max() < 4 * deviation


def test_the_seed_decides():
    drawn = [stream(Reservoir(1, 10, seed), 40).compute()[1].tolist() for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_shards_merge_into_a_part_of_all():
    merged = stream(Reservoir(1, 10, 1), 20)
    for seed in (2, 3):
        merged.merge_state(stream(Reservoir(1, 10, seed), 20))
    keys = torch.cat([stream(Reservoir(1, 10, seed), 20).rows for seed in (1, 2, 3)])[:, 0]
    assert torch.equal(merged.rows[:, 0], keys.sort().values[:10])
    assert len(merged.compute()[1]) == 10


def test_the_part_is_the_same_however_the_stream_is_cut_and_shared():
    x, y = stream(Reservoir(1, 10, 3), 40).compute()
    assert torch.equal(stream(Reservoir(1, 10, 3), 40, batch=40).compute()[1], y)
    ranks = [Reservoir(1, 10, 3) for _ in range(3)]
    for rank, reservoir in enumerate(ranks):
        for numbers in torch.arange(rank, 40, 3).split(4):
            reservoir.update(numbers[:, None].float(), numbers, numbers)
        reservoir.update(torch.empty(0, 1), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))
    ranks[0].merge_state(ranks[1])
    ranks[0].merge_state(ranks[2])
    merged = ranks[0].compute()
    assert torch.equal(merged[1], y)
    assert torch.equal(merged[0], x)


def test_memory_does_not_grow_with_the_stream():
    assert stream(Reservoir(1, 10), 20).rows.nbytes == stream(Reservoir(1, 10), 2000).rows.nbytes


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_what_cannot_be_drawn():
    with pytest.raises(UsageError, match="limit is 0"):
        Reservoir(1, 0)
    with pytest.raises(UsageError, match="calibration set is empty"):
        Reservoir(1, 5).compute()
