"""The search for many unknown images at once: over restarts and signs in one batch, and over ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_unlearn.attacks.encoded import rank_and_world
from lit_unlearn.attacks.images import sum_over_ranks
from lit_unlearn.attacks.inversion.directions import NamedGradients
from lit_unlearn.attacks.inversion.gradient_matching import GradientMatching
from lit_unlearn.attacks.inversion.reconstruction import descend

_CHUNK_BYTES = 2**31
_COPIES = 4
"""How often one image's gradient lies in memory during a step."""
_LARGEST_CHUNK = 64


class InversionProblem(NamedTuple):
    """What is known of S images, whose directions may have each of K signs.

    Attributes:
        labels: (S, K).
        signs: ±1, (K,).
        directions: from indices (B,) among the S to unit directions, (B, …) each.
        features: penultimate features (S, d) to begin from, or None.
    """

    labels: Tensor
    signs: Tensor
    directions: Callable[[Tensor], NamedGradients]
    features: Tensor | None = None


class Found(NamedTuple):
    """What a search ends with: images (S, C, H, W), their distances (S,) and the index of their sign (S,)."""

    images: Tensor
    distances: Tensor
    sign_index: Tensor


@dataclass(frozen=True)
class InversionSearch:
    """How to search; the options are those of :class:`lit_unlearn.attacks.inversion.GradientInversion`.

    Attributes:
        steps: of each search.
        lr: learning rate.
        tv: weight of the total variation.
        restarts: searches an image and sign, of which the smallest distance counts.
        seed: of the noise that they start from; no rank, chunk or engine changes it.
        chunk: searches at once, or None.
        drop: whether searches that have converged stop.
    """

    steps: int
    lr: float
    tv: float
    restarts: int
    seed: int
    chunk: int | None
    drop: bool

    def __call__(self, matching: GradientMatching, problem: InversionProblem, shape: torch.Size) -> Found:
        """Searches for images of a shape (C, H, W); each rank takes its share, and all have the result."""
        device, (count, signs) = problem.labels.device, problem.labels.shape
        draw = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(count, self.restarts, *shape, generator=draw).to(device)
        images = torch.zeros(count, self.restarts, signs, *shape, device=device)
        distances = images.new_zeros(images.shape[:3])
        rank, world = rank_and_world()
        own = torch.cartesian_prod(torch.arange(rank, count, world), torch.arange(self.restarts), torch.arange(signs))
        for part in torch.split(own.to(device), self._chunk(matching)) if len(own) else ():
            slot, restart, sign = part.unbind(1)
            place = slot, restart, sign
            images[place], distances[place] = self._solve(matching, problem, slot, sign, noise[slot, restart])
        distances = sum_over_ranks(distances).flatten(1)
        nearest = distances.nan_to_num(nan=torch.inf).argmin(1)
        every = torch.arange(count, device=device)
        return Found(sum_over_ranks(images).flatten(1, 2)[every, nearest], distances[every, nearest], nearest % signs)

    def _chunk(self, matching: GradientMatching) -> int:
        if self.chunk is not None:
            return self.chunk
        size = sum(value.nbytes for value in matching.parameters.values())
        return min(max(_CHUNK_BYTES // (_COPIES * size), 1), _LARGEST_CHUNK)

    def _solve(
        self, matching: GradientMatching, problem: InversionProblem, slot: Tensor, sign: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        if problem.features is not None:
            start = self._approach(matching, problem.features[slot], start)
        labels, signs, targets = problem.labels[slot, sign], problem.signs[sign], problem.directions(slot)

        def slopes(images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal targets
            if len(index) != len(next(iter(targets.values()))):
                targets = problem.directions(slot[index])
            return matching(images, labels[index], targets, signs[index])

        return descend(slopes, start, self.steps, self.lr, self.tv, self.drop)

    def _approach(self, matching: GradientMatching, goal: Tensor, start: Tensor) -> Tensor:
        """Images whose features come near the goal (B, d)."""
        network: Any = matching.network

        def slopes(images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            images = images.requires_grad_()
            miss = (network.features(images) - goal[index]).square().sum(1) / goal[index].square().sum(1)
            return miss.detach(), torch.autograd.grad(miss.sum(), images)[0]

        return descend(slopes, start, max(self.steps // 4, 1), self.lr, self.tv)[0]
