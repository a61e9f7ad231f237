"""How far the weights of a network are from those that it started with."""

import math

from torch import nn


def relative_change(original: nn.Module, network: nn.Module) -> float:
    """‖θ − θo‖ / ‖θo‖ over all parameters.

    Args:
        original: θo.
        network: θ, with parameters of the same names and shapes.
    """
    now = dict(network.named_parameters())
    pairs = [
        (value.detach().double().cpu(), now[name].detach().double().cpu())
        for name, value in original.named_parameters()
    ]
    moved = sum(float((left - right).square().sum()) for left, right in pairs)
    return math.sqrt(moved / max(sum(float(left.square().sum()) for left, _ in pairs), 1e-30))
