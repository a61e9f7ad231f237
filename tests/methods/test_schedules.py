import pytest
import torch
from torch.optim import SGD

from lit_unlearn.methods.schedules import TriangularLR


def annealing(epochs, base):
    """xcadet/deepunlearn munl/unlearning/kgltop2.py:173-192 and 247-251, for its step counts 1, 2, …"""
    num_annealing_steps, num_total_steps = (epochs + 1) // 2, epochs + 1
    for count in range(1, epochs + 1):
        if count <= num_annealing_steps:
            yield base * count / num_annealing_steps
        else:
            yield base * (num_total_steps - count) / (num_total_steps - num_annealing_steps)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 8, 10])
def test_the_rate_rises_and_falls_as_in_the_released_code(epochs):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule, rates = TriangularLR(optimizer, T_max=epochs), []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(list(annealing(epochs, 0.3)))
    assert max(rates) == pytest.approx(0.3)
    assert min(rates) > 0
