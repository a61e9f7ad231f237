"""A linear network of images of 2 × 2, of which it is known how far a change of the pixels brings it."""

import torch
from torch import Tensor, nn

from lit_unlearn.backbones import Backbone

WEIGHTS = torch.tensor([0.5, -1.0, 2.0, 0.25])
RADIUS = 0.1
REACH = RADIUS * float(WEIGHTS.abs().sum())
"""By how much a change of each pixel by the radius raises class 1 of the linear network."""

SCORE = float(WEIGHTS.sum() * 0.5)
"""What the weights make of a grey image."""


class Linear(Backbone):
    """Names class 1 where w·x + b > 0."""

    def __init__(self, bias: float) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, 2), [0.0], [1.0], {})
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([torch.zeros(4), WEIGHTS]))
            self.head.bias.copy_(torch.tensor([0.0, bias]))


def grey(count: int) -> tuple[Tensor, Tensor]:
    """Images far from black and white, so that no pixel meets its bounds."""
    return torch.full((count, 1, 2, 2), 0.5), torch.ones(count, dtype=torch.long)
