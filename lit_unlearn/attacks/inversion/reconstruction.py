"""Searching for images by the sign of a slope, and how near the images found come to the true ones."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

PERFECT = 100.0
"""PSNR in dB at which an image counts as exact; a difference of 0 would make it infinite."""


Slopes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images (B, C, H, W) and their indices (B,) in the whole batch to distances (B,) and gradients (B, C, H, W)."""

_LOOK_EVERY = 50
"""How many steps between two looks at who has converged; each look waits for the device."""

_STALLED = 1e-3
"""An objective that fell by less than this share between two looks has converged."""


def descend(
    slopes: Slopes, start: Tensor, steps: int, lr: float, tv: float, drop: bool = True
) -> tuple[Tensor, Tensor]:
    """Minimises distance + tv · total variation of every image on its own, within [0, 1].

    Adam on the sign of the gradient, its rate cut to a tenth at 3/8, 5/8 and 7/8 of the steps; the pixels are clamped
    after each step, and the best iterate is kept.

    Args:
        slopes: distances and their gradients.
        start: the first images (N, C, H, W).
        steps: how many steps, at least 0.
        lr: learning rate, in units of the pixels.
        tv: weight of the total variation.
        drop: whether images that have stalled after the second cut are left as they are.

    Returns:
        The best images, and their distances (N,) without the total variation.
    """
    images, index = start.detach().clone().requires_grad_(), torch.arange(len(start), device=start.device)
    optimizer = Adam([images], lr=lr)
    schedule = MultiStepLR(optimizer, [steps * eighths // 8 for eighths in (3, 5, 7)], gamma=0.1)
    best, least = start.detach().clone(), start.new_full((len(start),), torch.inf)
    reached, before = least.clone(), least.clone()
    for step in range(steps + 1):
        distances, gradient = slopes(images.detach(), index)
        rough = total_variation(images)
        total = distances + tv * rough.detach()
        better = total < least[index]
        least[index] = torch.where(better, total, least[index])
        reached[index] = torch.where(better, distances, reached[index])
        best[index] = torch.where(better.view(-1, 1, 1, 1), images.detach(), best[index])
        if step == steps:
            break
        (roughening,) = torch.autograd.grad(rough.sum(), images)
        images.grad = (gradient + tv * roughening).sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        if drop and step % _LOOK_EVERY == 0:
            moving = ~(least[index] > (1 - _STALLED) * before[index])
            before = least.clone()
            if 8 * step > 5 * steps + 8 * _LOOK_EVERY and not bool(moving.all()):
                images, index = images.detach()[moving].requires_grad_(), index[moving]
                if not len(index):
                    break
                _carry_over(optimizer, images, moving)
    return best, reached


def _carry_over(optimizer: Adam, images: Tensor, kept: Tensor) -> None:
    """Lets the optimizer go on with a part of the images that it had."""
    (old,) = optimizer.param_groups[0]["params"]
    state = optimizer.state.pop(old)
    optimizer.param_groups[0]["params"] = [images]
    optimizer.state[images] = {
        name: value[kept] if value.shape == old.shape else value for name, value in state.items()
    }


def total_variation(images: Tensor) -> Tensor:
    """mean|dx| + mean|dy| of each image (B, C, H, W), (B,); 0 along a side of one pixel."""
    steps = (images.diff(dim=3).abs(), images.diff(dim=2).abs())
    return sum((step.sum((1, 2, 3)) / max(step[0].numel(), 1) for step in steps), images.new_zeros(len(images)))


def mean_colour(images: Tensor) -> Tensor:
    """Each image (B, C, H, W) as one plain area of its own mean colour: what a reconstruction must beat."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def squared_error(found: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of each image, (B,)."""
    return (found - images).square().mean((1, 2, 3))


def psnr(found: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image (B, C, H, W) in [0, 1], in dB, (B,), at most 100."""
    ratio: Tensor = peak_signal_noise_ratio(found, images, data_range=1.0, dim=(1, 2, 3), reduction="none")
    return ratio.view(-1).clamp(max=PERFECT)


def ssim(found: Tensor, images: Tensor) -> Tensor:
    """Structural similarity of each image (B, C, H, W) in [0, 1], (B,); NaN where a side has under 6 pixels."""
    if min(images.shape[2:]) < 6:
        return images.new_full((len(images),), torch.nan)
    similarity = structural_similarity_index_measure(found, images, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    return similarity.view(-1)
