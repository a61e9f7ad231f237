"""KLoM by hand, against numpy's histograms, and on models that are alike."""

import math

import numpy as np
import pytest
import torch

from lit_unlearn.attacks.membership.klom import BINS, KLoM, klom
from lit_unlearn.errors import UsageError


def column(*values):
    return torch.tensor(values)[:, None]


def test_by_hand():
    same = column(0.0, 1.0, 2.0)
    assert klom(same, same).item() == 0
    # All of P in the bin that half of Q is in: 1 · log(1 / .5).
    assert klom(column(0.0, 0.0), column(0.0, 10.0)).item() == pytest.approx(math.log(2))
    # Half of P where no Retrain is: the share 1e-5 stands in for 0, and Q's shares add up to 1 + 1e-5 before.
    found = klom(column(0.0, 10.0), column(0.0, 0.0))
    expected = 0.5 * math.log(0.5 * 1.00001) + 0.5 * math.log(0.5 * 1.00001 / 1e-5)
    assert found.item() == pytest.approx(expected)
    assert klom(column(5.0, 5.0), column(5.0, 5.0, 5.0)).item() == 0
    # Beyond ±100 all margins are equal, and the largest margin of all has its bin.
    assert klom(column(1e6, 200.0), column(100.0, 1e9)).item() == 0
    assert klom(column(1.0, 1.0), column(0.0, 0.0)).item() == pytest.approx(math.log(1.00001 / 1e-5))


def test_bins_are_those_of_numpy():
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(40, 30, generator=draw, dtype=torch.float64) + shift for shift in (0.7, 0.0))
    for found, a, b in zip(klom(ours, theirs), ours.T.numpy(), theirs.T.numpy(), strict=True):
        edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), BINS + 1)
        p, q = (np.histogram(side, edges)[0] / 40 for side in (a, b))
        q = np.where(p > 0, np.maximum(q, 1e-5), q)
        q = q / q.sum()
        assert found.item() == pytest.approx(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0))


def test_alike_models_have_little_and_more_models_less():
    draw = torch.Generator().manual_seed(1)

    def noise(models, shift=0.0):
        return torch.randn(models, 400, generator=draw) + shift

    floor = {models: klom(noise(models), noise(models)).mean().item() for models in (20, 50, 100)}
    assert floor[20] == pytest.approx(3.1, abs=0.3)
    assert floor[50] == pytest.approx(0.9, abs=0.15)
    assert floor[100] == pytest.approx(0.36, abs=0.06)
    assert klom(noise(100, 1.0), noise(100)).mean().item() > 3 * floor[100]
    mixed = torch.cat([noise(100, 1.0), noise(100)])[torch.randperm(200, generator=draw)]
    assert klom(mixed[:100], mixed[100:]).mean().item() == pytest.approx(floor[100], abs=0.06), "labels without meaning"


def test_what_does_not_fit():
    with pytest.raises(UsageError, match=r"margins have shapes \(2, 3\) and \(2, 4\)"):
        klom(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(UsageError, match="models is 1, but must be at least 2"):
        KLoM(models=1)
