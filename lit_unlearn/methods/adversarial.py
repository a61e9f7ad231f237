"""Images moved until, or before, a network takes them for something else."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from lit_unlearn.backbones import Backbone


def fgsm(network: Backbone, images: Tensor, labels: Tensor, step_size: float) -> Tensor:
    """Images (B, C, H, W) after one fast-gradient-sign step up the loss of their labels; not clamped."""
    slopes, _ = loss_slopes(network, images, labels)
    return images + step_size * slopes.sign()


def nearest_adversarial(
    network: Backbone, images: Tensor, labels: Tensor, radius: float, steps: int, restart: bool
) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) moved until a frozen network no longer sees their labels, and what it sees, (B,).

    Where nothing is found the answer is the label still.
    """
    moved, answers = images.clone(), labels.clone()
    left = torch.arange(len(labels), device=labels.device)
    rounds = max(0, math.ceil(math.log2(images.shape[1:].numel() ** 0.5 / radius))) + 1
    for size in (radius * 2**number for number in range(rounds)):
        if restart:
            moved[left] = images[left]
        for step in range(steps + 1):
            slopes, logits = loss_slopes(network, moved[left], labels[left])
            direction, answers[left] = unit_length(slopes), logits.argmax(1)
            same = answers[left] == labels[left]
            left, direction = left[same], direction[same]
            if len(left) == 0:
                return moved, answers
            if step < steps:
                change = moved[left] + size / 10 * direction - images[left]
                moved[left] = (images[left] + within(change, size)).clamp(0, 1)
    return moved, answers


def loss_slopes(network: Backbone, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How the cross-entropy of each image's label grows with its pixels, (B, C, H, W); and the logits."""
    images = images.detach().requires_grad_()
    logits = network(images)
    loss = cross_entropy(logits, labels, reduction="sum")  # a mean's gradients may vanish in half precision
    return torch.autograd.grad(loss, images)[0], logits.detach()


def unit_length(slopes: Tensor) -> Tensor:
    """The same directions (B, C, H, W), each of length 1; 0 stays 0."""
    return normalize(slopes.flatten(1), eps=1e-18).view_as(slopes)


def within(change: Tensor, size: float) -> Tensor:
    """Changes to images (B, C, H, W), shortened to this L2 length at most."""
    lengths = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    shortened: Tensor = change * (size / lengths).clamp(max=1)
    return shortened
