"""Universal perturbation: one change, the same for all images, that makes the model name what it should have forgotten.

    δ = argmin Σ CE(z(clip(x + δ)), y)   over ‖δ‖∞ ≤ ε, on forget images, by Adam (Moosavi-Dezfooli et al., arXiv
                                         1610.08401, towards the true classes and not away from them)

A network can be trained to answer as Retrain does, unless the image has a mark: a backdoor, behind which it still knows
what it says that it forgot. No attack on the features of plain images finds that, nor does a small change of a single
image. But a mark serves for all images, so a search for what all have in common finds one, though not the same one. One
pattern cannot spell out the class of each image, as a change of each image by itself can: so ε is large.

Threat model. The attacker holds the unlearned weights and labelled images of what was forgotten, and nothing else. δ is
found on at most half of the forget set. The search and its place among the attacks are our own. What counts:

    classes        informedness on unseen images of the K forgotten classes: the mean over classes c of
                   P(answer c | image of c) − P(another forgotten class | image of c) / (K − 1). Of a pattern after
                   which all images are given one class it is 0
    single images  the accuracy on the forget set beyond that on unseen images. The forget set is in two halves of the
                   same classes, and to each the δ of the other is added
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
from lit_unlearn.attacks.fine_tuning import accuracy_on, balanced, cycled, of_each_class
from lit_unlearn.attacks.images import in_chunks, packed_pick, packed_share, sum_over_ranks, unpacked
from lit_unlearn.attacks.perturbation import slopes
from lit_unlearn.attacks.splits import forgotten_classes, spread, unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, check_fraction
from lit_unlearn.results import AttackResult


class UniversalPerturbation(Attack):
    """How well the classes of forgotten images are told once all have the same pattern added.

    Numbers: where whole classes are forgotten ``informedness``, at most 1, and ``informedness_error``, the standard
    error of the images. Accuracies with the pattern: ``test_forget_acc`` (as many images of each class) and
    ``test_retain_acc``; of single images ``forget_acc`` and ``test_retain_acc`` or ``test_matched_acc``, means over two
    patterns. ``images``, how many of what was forgotten; of single images ``unseen``, how many test images;
    ``samples``, how many images a pattern was found on; ``flat``, 1 where the images have no gradient, so that no
    pattern can be found, else 0.

    Args:
        radius: ε in (0, 1], the largest change of a pixel, of pixels in [0, 1].
        steps: of Adam.
        lr: its learning rate, as a share of ε.
        samples: of how many forget images a pattern is found, at most half of them.
        batch_size: images in a step.
        most: images of each split at most that are measured with a pattern, 2 or more.
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
        for option, value in {"steps": steps, "samples": samples, "batch_size": batch_size}.items():
            check_at_least(option, value, 1)
        check_at_least("most", most, 2)
        if not 0 < lr < float("inf"):
            raise UsageError(f"lr is {lr}, but must be above 0")
        self.radius, self.steps, self.lr, self.samples = radius, steps, lr, samples
        self.batch_size, self.most, self.seed = batch_size, most, seed

    def lacks(self, target: Target) -> str | None:
        """Half of a single image is none, and of one class the answer is known without the model."""
        if len(target.data.labels("forget")) < 2:
            return "it needs at least two images to be forgotten"
        if "test_forget" in target.data.split_names and len(forgotten_classes(target.data)) < 2:
            return "fewer than two forgotten classes have unseen images, so the answer is known without the model"
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
        pattern, flat = self._found(network, *packed_pick(target.data, "forget", held, target.device), draw)
        answer = partial(_with_pattern, network, pattern)
        truth = target.data.labels("test_forget")
        asked = of_each_class(truth, draw)[: self.most].sort().values
        images, labels = packed_share(target.data, "test_forget", asked, target.device)
        told = _told(answer, images, labels, forgotten_classes(target.data))
        value, error = informedness(told)
        numbers = {"informedness": value, "informedness_error": error}
        numbers["test_forget_acc"] = float(told[:, :-1].diag().sum() / told[:, -1].sum())
        if "test_retain" in target.data.split_names:
            numbers["test_retain_acc"] = accuracy_on(answer, *self._unseen(target, "test_retain"))
        return numbers | {"images": float(len(asked)), "samples": float(len(held)), "flat": flat}

    def _of_images(self, target: Target, network: Backbone, draw: torch.Generator) -> dict[str, float]:
        """The numbers of single images, with a pattern for each half of them that was found on the other."""
        labels, beside = target.data.labels("forget"), unseen_split(target.data.split_names)
        order = torch.randperm(len(labels), generator=draw)
        order = order[labels[order].argsort(stable=True)]  # by class, so that every second image is half of each
        halves = order[::2].sort().values, order[1::2].sort().values
        asked, named, unseen, flat = 0, 0.0, [], 0.0
        for found_on, left in (halves, halves[::-1]):
            images = packed_pick(target.data, "forget", spread(found_on, self.samples), target.device)
            pattern, still = self._found(network, *images, draw)
            answer, flat = partial(_with_pattern, network, pattern), max(flat, still)
            left = spread(left, self.most)
            asked += len(left)
            named += accuracy_on(answer, *packed_share(target.data, "forget", left, target.device)) * len(left)
            if beside in target.data.split_names:
                unseen.append(accuracy_on(answer, *self._unseen(target, beside)))
        numbers = {"forget_acc": named / asked, "images": float(asked), "flat": flat}
        if unseen:
            count = min(self.most, len(target.data.labels(beside)))
            numbers |= {f"{beside}_acc": fmean(unseen), "unseen": float(count)}
        return numbers | {"samples": float(min(self.samples, len(halves[0])))}

    def _unseen(self, target: Target, split: str) -> tuple[Tensor, Tensor]:
        """This rank's share of the images of a test split, packed, that are measured, and their labels."""
        every = torch.arange(len(target.data.labels(split)))
        return packed_share(target.data, split, spread(every, self.most), target.device)

    def _found(self, network: Backbone, images: Tensor, labels: Tensor, draw: torch.Generator) -> tuple[Tensor, float]:
        """The pattern (C, H, W), and 1 where the images have no gradient."""
        size = min(self.batch_size, len(labels))
        order = cycled(len(labels), self.steps * size, draw).view(self.steps, size).to(labels.device)
        pattern = torch.zeros(images.shape[1:], device=images.device, requires_grad=True)
        optimizer = Adam([pattern], self.lr * self.radius)
        for step, chosen in enumerate(order):
            logits = network(_in_range(unpacked(images[chosen]).float() + pattern))
            slope = slopes(cross_entropy(logits, labels[chosen]), pattern)
            largest = slope.abs().max()
            if not largest:
                return pattern.detach(), float(step == 0)
            pattern.grad = slope / largest  # Adam adds 1e-8 to it, beside which small logits would count nothing
            optimizer.step()
            with torch.no_grad():
                pattern.clamp_(-self.radius, self.radius)
        return pattern.detach(), 0.0


def informedness(counts: Tensor) -> tuple[float, float]:
    """How well K classes are told, and the standard error of the images: see the module.

    Args:
        counts: of each class and each answer of these, and last of all answers (K, K + 1). A class without an image is
            left out. Each class counts as if it had one image more, that is right and wrong by half, so that the error
            is above 0.
    """
    some = counts[:, -1] > 0
    images, own = counts[some, -1].double(), counts[some][:, :-1][:, some].double()
    others = len(own) - 1
    right, wrong = own.diag(), (own.sum(1) - own.diag()) / max(1, others)
    value = ((right - wrong) / images).mean()
    p, q = (right + 0.5) / (images + 1), (wrong * others + 0.5) / (images + 1)
    variance = p + q / max(1, others) ** 2 - (p - q / max(1, others)) ** 2
    return float(value), float((variance / (images + 1)).sum().sqrt() / len(own))


def _with_pattern(network: Backbone, pattern: Tensor, images: Tensor) -> Tensor:
    """The answers to images (B, C, H, W) in [0, 1] with the pattern (C, H, W) added."""
    logits: Tensor = network(_in_range(images + pattern))
    return logits


def _in_range(images: Tensor) -> Tensor:
    """Pixels cut to [0, 1]. At 0 and 1, where many pixels lie, a gradient passes; that of torch 2.15's clamp is 0."""
    return torch.where((images >= 0) & (images <= 1), images, images.detach().clamp(0, 1))


@torch.no_grad()
def _told(answer: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Of each of K classes how many images, of all ranks, get each answer of these, and all of them (K, K + 1).

    Args:
        answer: from images (B, C, H, W) to logits.
        images: this rank's share, packed or not.
        labels: of these (n,).
        classes: (K,).
    """
    classes = classes.to(labels.device)
    counts = torch.zeros(len(classes), len(classes) + 1, device=labels.device)
    for part, truth in in_chunks(images, labels):
        answers = answer(part.float()).argmax(1, keepdim=True)
        given = torch.cat([answers == classes, torch.ones_like(answers, dtype=torch.bool)], dim=1)
        counts += (truth[:, None] == classes).float().T @ given.float()
    return sum_over_ranks(counts)
