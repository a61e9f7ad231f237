"""The information of a representation about a yes-or-no property: the InfoNCE bound of a critic on held-out samples.

InfoNCE (van den Oord et al., arXiv 1807.03748) bounds the mutual information of z and y from below by the mean of
log [e^f(z, y) / mean_y' e^f(z, y')] for any critic f. With y one of two equally frequent values it is

    I = 1 - mean log₂(1 + e^-m),   m = ±(f(z, 1) - f(z, 0)), + where y is 1

in bits: one minus the cross-entropy of a classifier with logit f(z, 1) - f(z, 0). 1 is "z determines y", 0 is "z says
nothing".
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.normal_equations import rounding_level

_PAIRS = 128


def pointwise_information(yes: Tensor, no: Tensor, width: int = 64, steps: int = 300, seed: int = 0) -> Tensor:
    """The information of each sample's representation about which of two sets it is of, in bits.

    The mean, with each set weighing one half, is the InfoNCE bound on I(z; y). The critic is a network with one hidden
    layer on standardised features. Two are trained, each on every other sample of both sets, in batches of 128 pairs,
    and each scores what the other was trained on: a critic that learns by heart scores low, not high.

    Args:
        yes: representations (N, d) of the one set, at least 2.
        no: representations (M, d) of the other, at least 2.
        width: hidden units of the critic.
        steps: training steps of each critic.
        seed: of the critic's first weights and of its batches.

    Returns:
        (N + M,), float64, at most 1: the samples of ``yes``, then those of ``no``.

    Raises:
        UsageError: if a set has fewer than two samples, or the widths differ.
    """
    if min(len(yes), len(no)) < 2 or yes.ndim != 2 or no.ndim != 2 or yes.shape[1] != no.shape[1]:
        raise UsageError(
            f"representations have shapes {tuple(yes.shape)} and {tuple(no.shape)}: expected (N, d) and (M, d) with "
            "at least two samples each"
        )
    sets = yes.detach().double(), no.detach().double()
    bits = [x.new_empty(len(x)) for x in sets]
    for half in (0, 1):
        train, held_out = [x[half::2] for x in sets], [x[1 - half :: 2] for x in sets]
        mean, scale = _standard(torch.cat(train))
        critic = _train([((x - mean) * scale).float() for x in train], width, steps, seed)
        for sign, x, into in zip((1, -1), held_out, bits, strict=True):
            with torch.no_grad():
                margin = sign * critic(((x - mean) * scale).float()).squeeze(1)
            into[1 - half :: 2] = 1 - softplus(-margin.double()) / math.log(2)
    return torch.cat(bits)


def balanced_mean(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean over the samples of two sets with each set weighing one half, and its standard error.

    Args:
        values: (..., N + M): first the samples of the one set, then those of the other, two or more of each.
        count: N.

    Returns:
        Both (...).
    """
    sets = values[..., :count], values[..., count:]
    mean = sum((x.mean(-1) for x in sets), values.new_zeros(())) / 2
    variance = sum((x.var(-1) / x.shape[-1] for x in sets), values.new_zeros(())) / 4
    return mean, variance.sqrt()


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,), and one over the standard deviation (d,); 0 where rounding alone could have made the deviation."""
    mean, variance = x.mean(0), x.var(0, correction=0)
    floor = rounding_level(x.new_tensor(float(len(x))), x.shape[1]) * x.square().mean(0)
    return mean, torch.where(variance > floor, variance.rsqrt(), 0.0)


def _train(sets: list[Tensor], width: int, steps: int, seed: int) -> nn.Module:
    """A critic that separates standardised samples (N, d) of the first set from (M, d) of the second."""
    draw = torch.Generator().manual_seed(seed)
    features = sets[0].shape[1]
    # Made on no device, so that nothing is drawn from the global random state.
    layers = [nn.Linear(features, width, device="meta"), nn.ReLU(), nn.Linear(width, 1, device="meta")]
    critic = nn.Sequential(*layers).to_empty(device=sets[0].device)
    with torch.no_grad():
        for parameter in critic.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim == 2 else math.inf
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / math.sqrt(fan_in))
    # The decay is strong, and measured: without it the bound on the digits falls by a third for want of samples.
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2, weight_decay=1.0)
    for _ in range(steps):
        chosen = [x[torch.randint(len(x), (_PAIRS,), generator=draw).to(x.device)] for x in sets]
        logits = critic(torch.cat(chosen)).squeeze(1)
        loss = softplus(torch.cat([-logits[:_PAIRS], logits[_PAIRS:]])).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return critic
