"""Universal perturbation: one change, the same for all images, that makes the model name what it should have forgotten.

    δ = argmin Σ CE(z(clip(x + δ)), y)   over ‖δ‖∞ ≤ ε, on forget images, by Adam (Moosavi-Dezfooli et al., arXiv
                                         1610.08401, towards the true classes and not away from them)

A network can be trained to answer as Retrain does, unless the image has a mark: a backdoor, behind which it still knows
what it says that it forgot. No attack on the features of plain images finds that, nor does a small change of a single
image. But a mark serves for all images, so a search for what all have in common finds one, though not the same one. One
pattern cannot spell out the class of each image, as a change of each image by itself can: so ε is large.

Threat model. The attacker holds the unlearned weights and labelled images of what was forgotten, and nothing else. δ is
found on at most half of the forget set. The search and its place among the attacks are our own. What counts:

    classes        on unseen images of them, the mean over classes c of P(answer c | image of c) − P(answer c | image of
                   another forgotten class): of a pattern after which all are given one class, 0
    single images  the accuracy on the forget set beyond that on unseen images. The forget set is in two halves, and to
                   each the δ of the other is added
"""

import copy
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.fine_tuning import CHUNK, accuracy_on, balanced, cycled
from lit_unlearn.attacks.images import packed_pick, packed_share, sum_over_ranks, unpacked
from lit_unlearn.attacks.splits import forgotten_classes, unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, check_fraction
from lit_unlearn.results import AttackResult


class UniversalPerturbation(Attack):
    """How well the classes of forgotten images are told once all have the same pattern added.

    Numbers: ``test_forget_acc`` where whole classes are forgotten, from 0 to 1, with its two parts ``right`` and
    ``wrong``, means over classes; else ``forget_acc``, an accuracy. Accuracies with the pattern on ``test_retain_acc``
    or ``test_matched_acc``; ``images``, how many of what was forgotten; of single images ``unseen``, how many test
    images; and ``samples``, how many images a pattern was found on. Of single images all are means over two patterns.

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
        """Half of a single image is none, and of one class the answer is known without the model."""
        if len(target.data.labels("forget")) < 2:
            return "it needs at least two images to be forgotten"
        if "test_forget" in target.data.split_names and len(forgotten_classes(target.data)) < 2:
            return "one class is forgotten whole, so a pattern after which all images get it would pass"
        return super().lacks(target)

    def evaluate(self, target: Target) -> AttackResult:
        """Finds a pattern, the same on every rank, and measures with it; of single images twice."""
        network = copy.deepcopy(target.model.backbone).float()
        draw = torch.Generator().manual_seed(self.seed)
        if "test_forget" in target.data.split_names:
            return AttackResult(self._of_classes(target, network, draw))
        return AttackResult(self._of_images(target, network, draw))

    def _of_classes(self, target: Target, network: Backbone, draw: torch.Generator) -> dict[str, float]:
        """The numbers where whole classes are forgotten."""
        held = balanced(target.data.labels("forget"), self.samples, draw)
        pattern = self._found(network, *packed_pick(target.data, "forget", held, target.device), draw)
        images, labels = self._asked(target, "test_forget")
        told = _told(partial(_with_pattern, network, pattern), images, labels, forgotten_classes(target.data))
        right = told.diag().mean()
        wrong = (told.sum() - told.diag().sum()) / (told.numel() - len(told))
        numbers = {"test_forget_acc": float((right - wrong).clamp(min=0)), "right": float(right), "wrong": float(wrong)}
        if "test_retain" in target.data.split_names:
            shown = self._asked(target, "test_retain")
            numbers["test_retain_acc"] = accuracy_on(partial(_with_pattern, network, pattern), *shown)
        asked = min(self.most, len(target.data.labels("test_forget")))
        return numbers | {"images": float(asked), "samples": float(len(held))}

    def _of_images(self, target: Target, network: Backbone, draw: torch.Generator) -> dict[str, float]:
        """The numbers of single images, with a pattern for each half of them that was found on the other."""
        labels, beside = target.data.labels("forget"), unseen_split(target.data.split_names)
        half = balanced(labels, len(labels), draw)
        rest = torch.arange(len(labels))[~torch.isin(torch.arange(len(labels)), half)]
        asked, named, unseen = 0, 0.0, []
        for found_on, left in ((half, rest), (rest, half)):
            images = packed_pick(target.data, "forget", _spread(found_on, self.samples), target.device)
            answer = partial(_with_pattern, network, self._found(network, *images, draw))
            left = _spread(left, self.most)
            asked += len(left)
            named += accuracy_on(answer, *packed_share(target.data, "forget", left, target.device)) * len(left)
            if beside in target.data.split_names:
                unseen.append(accuracy_on(answer, *self._asked(target, beside)))
        numbers = {"forget_acc": named / asked, "images": float(asked), "samples": float(min(self.samples, len(half)))}
        if unseen:
            count = min(self.most, len(target.data.labels(beside)))
            numbers |= {f"{beside}_acc": fmean(unseen), "unseen": float(count)}
        return numbers

    def _asked(self, target: Target, split: str) -> tuple[Tensor, Tensor]:
        """This rank's share of the images of a split, packed, that are measured with a pattern, and their labels."""
        every = torch.arange(len(target.data.labels(split)))
        return packed_share(target.data, split, _spread(every, self.most), target.device)

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


def _with_pattern(network: Backbone, pattern: Tensor, images: Tensor) -> Tensor:
    """The answers to images (B, C, H, W) in [0, 1] with the pattern (C, H, W) added."""
    logits: Tensor = network((images + pattern).clamp(0, 1))
    return logits


@torch.no_grad()
def _told(answer: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """For each of K classes and each answer of these, the share of its images that get it, of all ranks (K, K).

    Args:
        answer: from images (B, C, H, W) to logits.
        images: this rank's share, packed or not.
        labels: of these (n,).
        classes: (K,). A class without an image has the share 0.
    """
    classes = classes.to(labels.device)
    counts = torch.zeros(len(classes), len(classes) + 1, device=labels.device)
    for part, truth in zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True):
        answers = answer(unpacked(part).float()).argmax(1, keepdim=True)
        given = torch.cat([answers == classes, torch.ones_like(answers, dtype=torch.bool)], dim=1)
        counts += (truth[:, None] == classes).float().T @ given.float()
    counts = sum_over_ranks(counts)
    return counts[:, :-1] / counts[:, -1:].clamp(min=1)
