"""How far the weights of a network are from those that it started with."""

import math

from torch import nn


def weight_distance(original: nn.Module, network: nn.Module) -> float:
    """‖θ − θo‖ over all parameters.

    Args:
        original: θo.
        network: θ, with parameters of the same names and shapes.
    """
    now = dict(network.named_parameters())
    moved = (
        (value.detach().double().cpu() - now[name].detach().double().cpu()).square().sum()
        for name, value in original.named_parameters()
    )
    return math.sqrt(sum(float(each) for each in moved))


def relative_change(original: nn.Module, network: nn.Module) -> float:
    """‖θ − θo‖ / ‖θo‖ over all parameters.

    Args:
        original: θo.
        network: θ, with parameters of the same names and shapes.
    """
    norm = sum(float(value.detach().double().cpu().square().sum()) for value in original.parameters())
    return weight_distance(original, network) / math.sqrt(max(norm, 1e-30))
