"""Gradients that choose weights, for the methods that choose."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import unknown
from lit_unlearn.methods.scoring import Labelled

Gradients = Literal["per_sample", "per_batch"]
"""Whose gradient is one: a single sample's, or the mean over a batch, as in released codes."""


def summed_gradients(
    network: Backbone, parameters: Sequence[Tensor], batches: Iterable[Labelled], gradients: Gradients = "per_sample"
) -> list[Tensor]:
    """Σ of the gradients of the cross-entropy over all samples, or over all batches, one tensor for each parameter.

    Args:
        network: in eval or train mode, as its gradients are wanted.
        parameters: what is learnt, parts of the network.
        batches: images (B, C, H, W) in [0, 1] and labels (B,).
        gradients: ``per_sample`` adds up the samples' gradients, ``per_batch`` the batches' mean gradients.
    """
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for images, labels in batches:
        loss = cross_entropy(network(images), labels, reduction="sum" if gradients == "per_sample" else "mean")
        each = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        sums = [total + gradient for total, gradient in zip(sums, each, strict=True)]
    return sums


def largest(values: Sequence[Tensor], fraction: float) -> list[Tensor]:
    """Masks, true for that share of all entries together whose absolute value is largest, and for one at least."""
    flat = torch.cat([value.abs().flatten() for value in values])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: max(1, int(fraction * len(flat)))]] = True
    parts = torch.split(chosen, [value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


def smallest(values: Tensor, fraction: float) -> Tensor:
    """A mask of the same shape, true for that share of the entries whose absolute value is smallest."""
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[values.abs().flatten().argsort(stable=True)[: round(fraction * values.numel())]] = True
    return chosen.view_as(values)


def one_of_gradients(name: str, value: str) -> None:
    """Refuses what is neither.

    Raises:
        UsageError: naming the argument, the value and what is allowed.
    """
    if value not in get_args(Gradients):
        raise unknown(name, value, get_args(Gradients))
