"""GradientKind that choose weights: summed, or squared, over samples or as released codes do over batches."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import unknown
from lit_unlearn.methods.protocols import Labelled

GradientKind = Literal["per_sample", "per_batch"]
"""Whose gradient is one: a single sample's, or the mean over a batch, as in released codes."""

Weights = dict[str, Tensor]


class MeanSquares:
    """A running mean of squared gradients, in single precision at least.

    Args:
        weights: what the gradients are of, by name.
    """

    def __init__(self, weights: Weights) -> None:
        self.sums = {name: torch.zeros_like(w, dtype=_wide(w.dtype)) for name, w in weights.items()}
        self.count = torch.zeros((), device=next(iter(weights.values())).device)

    def add(self, gradients: Weights, chosen: Tensor) -> None:
        """Adds gradients (B, ...) of which ``chosen`` (B,), 0 or 1, takes some."""
        for name, total in self.sums.items():
            total += torch.tensordot(chosen.to(total), gradients[name].to(total).square(), dims=1)
        self.count += chosen.sum()

    def mean(self, strategy: Strategy) -> Weights:
        """The mean over all ranks."""
        count = strategy.reduce(self.count, reduce_op="sum")
        return {name: strategy.reduce(total, reduce_op="sum") / count for name, total in self.sums.items()}


def loss_gradients(
    network: Backbone, weights: Weights, images: Tensor, labels: Tensor, gradients: GradientKind
) -> tuple[Weights, Tensor]:
    """GradientKind (B, ...) of the cross-entropy by weight and the losses (B,); ``per_batch`` the mean's, with B = 1.

    Args:
        network: whose parameters the weights replace.
        weights: by name.
        images: (B, C, H, W) in [0, 1].
        labels: (B,).
        gradients: of each sample, which vmap has to be able to take, or of the batch.
    """

    def loss(weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, weights, (images,)), labels)

    if gradients == "per_sample":
        samples = images[:, None], labels[:, None]
        weights = {name: value.contiguous() for name, value in weights.items()}  # faster here than channels_last
        found: tuple[Weights, Tensor] = vmap(grad_and_value(loss), (None, 0, 0))(weights, *samples)
        return found
    each, value = grad_and_value(loss)(weights, images, labels)
    return {name: gradient[None] for name, gradient in each.items()}, value[None]


def mean_squared_gradients(
    network: Backbone, names: Iterable[str], batches: Iterable[Labelled], gradients: GradientKind, size: int | None
) -> MeanSquares:
    """The diagonal of the empirical Fisher information for the parameters of these names, of this rank's samples.

    Args:
        network: in eval mode.
        names: which parameters.
        batches: images (B, C, H, W) in [0, 1] and labels (B,), which may be none.
        gradients: see :func:`loss_gradients`.
        size: how many samples' gradients are held at a time, or make a batch; None takes the batches as they come.
    """
    weights = {name: network.get_parameter(name).detach() for name in names}
    squares = MeanSquares(weights)
    for batch in batches:
        for images, labels in zip(*(torch.split(part, size or max(len(part), 1)) for part in batch), strict=True):
            if len(labels):
                each, losses = loss_gradients(network, weights, images, labels, gradients)
                squares.add(each, torch.ones_like(losses))
    return squares


def summed_gradients(
    network: Backbone, parameters: Sequence[Tensor], batches: Iterable[Labelled], gradients: GradientKind = "per_sample"
) -> list[Tensor]:
    """Σ of the gradients of the cross-entropy over all samples, or over all batches, one tensor for each parameter.

    Args:
        network: in the mode, eval or train, in which to take its gradients.
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


def damp_gradients(chosen: Iterable[tuple[nn.Parameter, Tensor]], factor: float) -> None:
    """Multiplies each parameter's gradient, where it has one and its mask is true, by a factor; 0 removes even NaN."""
    for parameter, mask in chosen:
        if parameter.grad is not None:
            damped = factor * parameter.grad if factor else torch.zeros_like(parameter.grad)
            parameter.grad.copy_(torch.where(mask, damped, parameter.grad))


def one_of_gradients(name: str, value: str) -> None:
    """Refuses what is neither.

    Raises:
        UsageError: naming the argument, the value and what is allowed.
    """
    if value not in get_args(GradientKind):
        raise unknown(name, value, get_args(GradientKind))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
