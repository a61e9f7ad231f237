"""Accuracy that is exact."""

import math

import pytest
import torch

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.evaluation import SplitAccuracy


def logits(answers: list[int], classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(answers, dtype=torch.int64), classes).float()


def test_shards_of_unequal_size_are_exact() -> None:
    merged = SplitAccuracy()
    merged.update(logits([0, 1, 2]), torch.tensor([0, 1, 1]))
    for answers, labels in (([2], [0]), ([], [])):
        shard = SplitAccuracy()
        shard.update(logits(answers), torch.tensor(labels, dtype=torch.int64))
        merged.merge_state(shard)
    assert merged.value == 0.5
    assert merged.compute().dtype == torch.float64


def test_states_are_integers_summed_across_ranks() -> None:
    metric = SplitAccuracy()
    metric.update(logits([0, 1]), torch.tensor([0, 1]))
    assert metric.correct.dtype == metric.total.dtype == torch.int64
    assert metric.value == 1
    metric.update(logits([0]), torch.tensor([1]))
    metric.distributed_available_fn = lambda: True
    # The other rank has seen as many samples, and been right on one of them.
    metric.dist_sync_fn = lambda state, group: [state, state - (state == metric.correct).long()]
    assert metric.value == 3 / 6


def test_counts_beyond_float32_are_exact() -> None:
    metric = SplitAccuracy()
    metric.correct, metric.total = torch.tensor(2**24), torch.tensor(2**24)
    metric.update(logits([0]), torch.tensor([1]))
    assert metric.value == 2**24 / (2**24 + 1) != 1


def test_an_empty_split_is_undefined() -> None:
    metric = SplitAccuracy()
    metric.update(logits([]), torch.tensor([], dtype=torch.int64))
    assert metric.value is None
    assert metric.compute().isnan()
    metric.update(logits([1]), torch.tensor([0]))
    assert metric.value == 0


def test_nan_is_no_answer() -> None:
    metric = SplitAccuracy()
    # argmax takes NaN for the greatest, so a diverged model would answer class 0 and be right.
    metric.update(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.int64))
    assert metric.value == 0


def test_forward_gives_the_batch_and_keeps_the_sum() -> None:
    metric = SplitAccuracy()
    assert metric(logits([0]), torch.tensor([0])) == 1
    assert metric(logits([0]), torch.tensor([1])) == 0
    assert metric.value == 0.5


def test_wrong_shapes_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"shapes \(2, 3\) and \(1,\)"):
        SplitAccuracy().update(logits([0, 1]), torch.tensor([0]))
    with pytest.raises(UsageError, match=r"shapes \(2,\) and \(2,\)"):
        SplitAccuracy().update(torch.zeros(2), torch.tensor([0, 1]))
