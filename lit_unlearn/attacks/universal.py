"""Universal perturbation: one change, the same for all images, that makes the model name what it should have forgotten.

    δ = argmin Σ CE(z(clip(x + δ)), y)   over ‖δ‖∞ ≤ ε, on forget images, by Adam (Moosavi-Dezfooli et al., arXiv
                                         1610.08401, towards the true classes and not away from them)

A network can be trained to answer as Retrain does, unless the image has a mark: a backdoor, behind which it still knows
what it says that it forgot. No attack on the features of plain images finds that, nor does a small change of a single
image. But a mark serves for all images, so a search for what all have in common finds one, though not the same one. One
pattern cannot spell out the class of each image, as a change of each image by itself can: so ε is large.

Threat model. The attacker holds the unlearned weights and labelled images of what was forgotten, and nothing else. δ is
found on at most half of the forget set. Of classes what counts are unseen images of them. Of single images it is the
forget set, in two halves, beyond unseen images: to each half δ of the other is added. The search and its place among
the attacks are our own.
"""

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.fine_tuning import accuracy_on, balanced, cycled
from lit_unlearn.attacks.images import packed_pick, packed_share, unpacked
from lit_unlearn.attacks.splits import forgotten_split, unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, check_fraction
from lit_unlearn.results import AttackResult


class UniversalPerturbation(Attack):
    """The share of forgotten images whose class is named once all have the same pattern added.

    Numbers: accuracies with the pattern, ``test_forget_acc`` where whole classes are forgotten, else ``forget_acc``,
    and ``test_retain_acc`` or ``test_matched_acc``; ``images``, how many of what was forgotten; where single images are
    forgotten ``unseen``, how many test images; and ``samples``, how many images a pattern was found on. Of single
    images there are two patterns, and these are averages over both: each half of the forget set gets the other's.

    Args:
        radius: ε in (0, 1], the largest change of a pixel, of pixels in [0, 1].
        steps: of Adam.
        lr: its learning rate, as a share of ε.
        samples: of how many forget images a pattern is found, at most half of them.
        batch_size: images in a step.
        most: images of each split at most that are measured with a pattern.
        seed: of the choice of images and their order.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    family: ClassVar[str] = "perturbation"

    def __init__(
        self,
        radius: float = 0.3,
        steps: int = 100,
        lr: float = 0.1,
        samples: int = 500,
        batch_size: int = 128,
        most: int = 1000,
        seed: int = 0,
        name: str = "universal",
    ) -> None:
        super().__init__(name)
        check_fraction("radius", radius, one=True)
        for option, value in {"steps": steps, "samples": samples, "batch_size": batch_size, "most": most}.items():
            check_at_least(option, value, 1)
        if not 0 < lr < float("inf"):
            raise UsageError(f"lr is {lr}, but must be above 0")
        self.radius, self.steps, self.lr, self.samples = radius, steps, lr, samples
        self.batch_size, self.most, self.seed = batch_size, most, seed

    def lacks(self, target: Target) -> str | None:
        """Half of a single image is none."""
        if len(target.data.labels("forget")) < 2:
            return "it needs at least two images to be forgotten"
        return super().lacks(target)

    def evaluate(self, target: Target) -> AttackResult:
        """Finds a pattern, the same on every rank, and measures with it; of single images twice."""
        network = copy.deepcopy(target.model.backbone).float()
        draw = torch.Generator().manual_seed(self.seed)
        labels, known = target.data.labels("forget"), target.data.split_names
        decisive, beside = forgotten_split(known), unseen_split(known)
        single = decisive == "forget"
        half = balanced(labels, len(labels) if single else self.samples, draw)
        rest = torch.arange(len(labels))[~torch.isin(torch.arange(len(labels)), half)]
        named: dict[str, list[tuple[float, int]]] = {split: [] for split in (decisive, beside) if split in known}
        for found_on, asked in [(half, rest), (rest, half)] if single else [(half, rest)]:
            images = packed_pick(target.data, "forget", _spread(found_on, self.samples), target.device)
            pattern = self._found(network, *images, draw)
            for split, parts in named.items():
                of_split = asked if split == "forget" else torch.arange(len(target.data.labels(split)))
                parts.append(_accuracy(target, network, split, _spread(of_split, self.most), pattern))
        numbers = {f"{split}_acc": _mean(parts) for split, parts in named.items()}
        numbers |= {
            "samples": float(min(self.samples, len(half))),
            "images": float(sum(count for _, count in named[decisive])),
        }
        if single and beside in named:
            numbers["unseen"] = float(named[beside][0][1])
        return AttackResult(numbers)

    def _found(self, network: Backbone, images: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """The pattern (C, H, W)."""
        size = min(self.batch_size, len(labels))
        order = cycled(len(labels), self.steps * size, draw).view(self.steps, size).to(labels.device)
        pattern = torch.zeros(images.shape[1:], device=images.device, requires_grad=True)
        optimizer = Adam([pattern], self.lr * self.radius)
        for chosen in order:
            logits = network((unpacked(images[chosen]).float() + pattern).clamp(0, 1))
            (pattern.grad,) = torch.autograd.grad(cross_entropy(logits, labels[chosen]), pattern)
            optimizer.step()
            with torch.no_grad():
                pattern.clamp_(-self.radius, self.radius)
        return pattern.detach()


def _spread(positions: Tensor, most: int) -> Tensor:
    """At most so many of the positions, spread evenly over them."""
    count = min(most, len(positions))
    return positions[torch.arange(count) * len(positions) // count]


@torch.no_grad()
def _accuracy(target: Target, network: Backbone, split: str, positions: Tensor, pattern: Tensor) -> tuple[float, int]:
    """The accuracy on images of a split with the pattern, and how many images of all ranks it is of."""
    share = packed_share(target.data, split, positions, target.device)
    return accuracy_on(lambda images: network((images + pattern).clamp(0, 1)), *share), len(positions)


def _mean(parts: Sequence[tuple[float, int]]) -> float:
    """The mean of (value, weight)."""
    return sum(value * weight for value, weight in parts) / sum(weight for _, weight in parts)
