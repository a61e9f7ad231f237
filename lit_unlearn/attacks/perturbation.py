"""Perturbed images: how small a change of the picture makes the model name what it should have forgotten?

    x' = argmin CE(z(x'), y)   over ‖x' − x‖∞ ≤ ε and pixels in [0, 1], by signed gradient steps (Madry et al.,
                               arXiv 1706.06083, towards the true class and not away from it)

An image is recognised again if the model names its class at x or at any step. A large enough change brings any network
to any answer, Retrain too, so the share is read beside Retrain's: what an unlearned model recognises beyond it is the
residual knowledge of Hsu et al., arXiv 2601.22359. They draw perturbations at random, or along one gradient; here it
is a search. Of single images what counts is the share beyond that of unseen images, which are searched alike. A model
that never saw them names nearly all of either within 8/255, so for them the ball is smaller.

Threat model. The attacker holds the unlearned weights and labelled images of what was forgotten, and nothing else.
"""

import copy
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.images import sum_over_ranks
from lit_unlearn.attacks.splits import forgotten_split, unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gradient_batches import gradient_batches
from lit_unlearn.errors import check_at_least, check_fraction
from lit_unlearn.metrics.evaluation import SplitAccuracy
from lit_unlearn.results import AttackResult

_OF_CLASSES, _OF_IMAGES = 8 / 255, 1 / 255


class PerturbedImages(Attack):
    """The share of forgotten images whose class is named somewhere in a small ball around them.

    Numbers: shares of the images that are recognised, ``forget_acc`` and, where whole classes are forgotten,
    ``test_forget_acc``, else ``test_retain_acc`` or ``test_matched_acc``; ``images``, how many images of what was
    forgotten were tried: of ``test_forget`` where it has some, else of ``forget``; where single images are forgotten
    ``unseen``, how many test images; and ``flat``, the share, of the split where it is largest, that is not recognised
    and has a gradient of 0.

    Args:
        radius: ε in (0, 1], in units of pixels in [0, 1]; None is 8/255 where whole classes are forgotten, else 1/255.
        steps: how many gradient steps, each of 2.5 · ε / steps.
        most: images of each split at most.
        name: metric name prefix.

    Raises:
        UsageError: for an option out of range.
    """

    family: ClassVar[str] = "perturbation"

    def __init__(self, radius: float | None = None, steps: int = 20, most: int = 1000, name: str = "linf") -> None:
        super().__init__(name)
        if radius is not None:
            check_fraction("radius", radius, one=True)
        check_at_least("steps", steps, 1)
        check_at_least("most", most, 1)
        self.radius, self.steps, self.most = radius, steps, most

    def evaluate(self, target: Target) -> AttackResult:
        """Searches around each image."""
        numbers: dict[str, float] = {}
        network = copy.deepcopy(target.model.backbone).float()  # in half precision small steps are lost
        known = target.data.split_names
        single = forgotten_split(known) == "forget"
        beside = unseen_split(known) if single else "test_forget"
        radius = self.radius or (_OF_IMAGES if single else _OF_CLASSES)
        for split in (split for split in ("forget", beside) if split in known):
            counter = SplitAccuracy().to(target.device)
            tried, blind = torch.zeros((), device=target.device), torch.zeros((), device=target.device)
            batches = target.data.evaluation_batches(split, target.device, most=self.most)
            for images, labels in gradient_batches(batches):
                named, still = self._recognised(network, images.float(), labels, radius)
                blind += still.sum()
                counter.update(torch.stack([~named, named], 1).float(), torch.ones_like(labels))
                tried += len(labels)
            if (value := counter.value) is not None:
                numbers[f"{split}_acc"] = value
                count = float(sum_over_ranks(tried))
                numbers["unseen" if single and split == beside else "images"] = count
                numbers["flat"] = max(numbers.get("flat", 0.0), float(sum_over_ranks(blind)) / count)
        return AttackResult(numbers)

    def _recognised(self, network: Backbone, images: Tensor, labels: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """Whether each of the images (B, C, H, W) is named by its label (B,) at any step; and whether none moves it."""
        moved = images.clone()
        found, flat = torch.zeros((2, len(labels)), dtype=torch.bool, device=labels.device)
        for step in range(self.steps + 1):
            moved.requires_grad_()
            logits = network(moved)
            found |= logits.argmax(1) == labels
            if step == self.steps or bool(found.all()):
                break
            slope = slopes(cross_entropy(logits, labels, reduction="sum"), moved)
            flat = flat if step else ~found & ~slope.flatten(1).any(1)
            nearer = moved.detach() - 2.5 * radius / self.steps * slope.sign()
            moved = (images + (nearer - images).clamp(-radius, radius)).clamp(0, 1)
        return found, flat


def slopes(loss: Tensor, pixels: Tensor) -> Tensor:
    """The gradient of a loss by pixels, 0 where the network lets none through or it is not finite."""
    if not loss.requires_grad:
        return torch.zeros_like(pixels)
    (found,) = torch.autograd.grad(loss, pixels, allow_unused=True)
    return torch.zeros_like(pixels) if found is None else found.nan_to_num(0.0, 0.0, 0.0)
