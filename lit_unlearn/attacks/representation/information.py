"""The information of a representation about a yes-or-no property: the InfoNCE bound of a critic on held-out samples.

InfoNCE (van den Oord et al., arXiv 1807.03748) bounds the mutual information of z and y from below by the mean of
log [e^f(z, y) / mean_y' e^f(z, y')] for any critic f. With y one of two equally frequent values it is

    I = 1 - mean log₂(1 + e^-m),   m = ±(f(z, 1) - f(z, 0)), + where y is 1

in bits: one minus the cross-entropy of a classifier with logit f(z, 1) - f(z, 0). 1 is "z determines y", 0 is "z says
nothing".
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from lit_unlearn.errors import UsageError
from lit_unlearn.metrics.normal_equations import rounding_level

_PAIRS = 128


def pointwise_information(
    yes: Sequence[Tensor], no: Sequence[Tensor], width: int = 64, steps: int = 300, seed: int = 0
) -> Tensor:
    """The information of each sample's representations about which of two sets it is of, in bits.

    The mean, with each set weighing one half, is the InfoNCE bound on I(z; y). The critic is a network with one hidden
    layer on standardised features. Two are trained for each representation, each on every other sample of both sets, in
    batches of 128 pairs, and each scores what the other was trained on: a critic that learns by heart scores low, not
    high. All critics are trained side by side, each as if it were alone.

    Args:
        yes: representations of the one set, one or more, each (N, d) with a d of its own and N at least 2.
        no: the same representations of the other, (M, d) with M at least 2.
        width: hidden units of a critic.
        steps: training steps of a critic.
        seed: of a critic's first weights and of its batches, the same for each.

    Returns:
        (L, N + M) for L representations, float64, at most 1: the samples of ``yes``, then those of ``no``.

    Raises:
        UsageError: if a set has fewer than two samples, or the widths differ.
    """
    _check_shapes(yes, no)
    most = max(x.shape[1] for x in yes)
    trained, held_out = [], []
    for both in zip(yes, no, strict=True):
        sets = [x.detach().double() for x in both]
        for half in (0, 1):
            mean, scale = _standard(torch.cat([x[half::2] for x in sets]))
            scaled = [pad(((x - mean) * scale).float(), (0, most - x.shape[1])) for x in sets]
            trained.append([x[half::2] for x in scaled])
            held_out.append([x[1 - half :: 2] for x in scaled])
    critics = _train(trained, [x.shape[1] for x in yes for _ in (0, 1)], width, steps, seed)
    bits = [torch.empty(len(yes), len(x), dtype=torch.float64, device=x.device) for x in (yes[0], no[0])]
    for place, sets in enumerate(held_out):
        critic = [parameter[place : place + 1].detach() for parameter in critics]
        for sign, x, into in zip((1, -1), sets, bits, strict=True):
            margin = sign * _logits(critic, x[None])[0]
            into[place // 2, 1 - place % 2 :: 2] = 1 - softplus(-margin.double()) / math.log(2)
    return torch.cat(bits, 1)


def _check_shapes(yes: Sequence[Tensor], no: Sequence[Tensor]) -> None:
    for one, other in zip(yes, no, strict=True):
        if min(len(one), len(other)) < 2 or one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
            raise UsageError(
                f"representations have shapes {tuple(one.shape)} and {tuple(other.shape)}: expected (N, d) and (M, d) "
                "with at least two samples each"
            )


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


def _logits(critics: Sequence[Tensor], x: Tensor) -> Tensor:
    """What K critics make of samples (K, N, d): (K, N)."""
    hidden, shift, out, bias = critics
    return torch.baddbmm(bias, torch.baddbmm(shift, x, hidden).relu(), out).squeeze(2)


def _train(
    sets: Sequence[Sequence[Tensor]], features: Sequence[int], width: int, steps: int, seed: int
) -> list[Tensor]:
    """The weights of K critics, each of which separates standardised samples (N, d) of its first set from (M, d).

    Of d columns each reads its first ``features``; the others are zero, and so are their weights.
    """
    device, most = sets[0][0].device, sets[0][0].shape[1]
    draws = [torch.Generator().manual_seed(seed) for _ in sets]
    critics = [torch.zeros(len(sets), *shape) for shape in ((most, width), (1, width), (width, 1), (1, 1))]
    for place, (count, draw) in enumerate(zip(features, draws, strict=True)):
        for stacked, shape in zip(critics, ((width, count), (width,), (1, width), (1,)), strict=True):
            fan_in = shape[-1] if len(shape) == 2 else math.inf
            drawn = torch.randn(shape, generator=draw) / math.sqrt(fan_in)
            stacked[place, : count if shape == (width, count) else None] = drawn.T if len(shape) == 2 else drawn
    critics = [stacked.to(device).requires_grad_() for stacked in critics]
    # The decay is strong, and measured: without it the bound on the digits falls by a third for want of samples.
    optimizer = torch.optim.AdamW(critics, lr=1e-2, weight_decay=1.0)
    for _ in range(steps):
        chosen = [
            torch.cat([x[torch.randint(len(x), (_PAIRS,), generator=draw).to(device)] for x in both])
            for both, draw in zip(sets, draws, strict=True)
        ]
        logits = _logits(critics, torch.stack(chosen))
        loss = softplus(torch.cat([-logits[:, :_PAIRS], logits[:, _PAIRS:]], 1)).mean(1).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return critics
