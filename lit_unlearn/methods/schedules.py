"""Schedules of the learning rate that released code has and torch has not."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class TriangularLR(LambdaLR):
    """The optimizer's rate times 1/h, 2/h, …, 1 over the first h = ⌊(T + 1) / 2⌋ epochs, then in equal steps down.

    No epoch has the rate 0. As ``LinearAnnealingLR`` of xcadet/deepunlearn (munl/unlearning/kgltop2.py:173-192).

    Args:
        optimizer: whose rate is scheduled.
        T_max: T ≥ 1, the epochs of the run.
    """

    def __init__(self, optimizer: Optimizer, T_max: int) -> None:
        top = (T_max + 1) // 2
        super().__init__(optimizer, lambda epoch: min((epoch + 1) / top, max(0, T_max - epoch) / (T_max + 1 - top)))
