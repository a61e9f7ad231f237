"""What an attacker who fine-tunes trains on and measures: batches, images that are held back, and what a run got."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lit_unlearn.attacks.images import in_chunks
from lit_unlearn.attacks.splits import obtained, unseen_split
from lit_unlearn.attacks.target import Target
from lit_unlearn.backbones import Backbone
from lit_unlearn.metrics.evaluation import SplitAccuracy

AT_END = 10_000
"""At most so many samples of a split measure the end of the strongest run."""


class FineTuneBatches(NamedTuple):
    """What is trained on: images (n, C, H, W), packed, labels (n,), and which are in each batch (steps, batch size)."""

    images: Tensor
    labels: Tensor
    order: Tensor


class Measured(NamedTuple):
    """Accuracies of a network in training.

    Attributes:
        decisive: the split that shows what is left of the forgotten.
        accuracies: on it, on unseen images of retained classes, where there are some, and of single images on those
            that they are compared with.
    """

    decisive: str
    accuracies: Mapping[str, float]

    @property
    def useful(self) -> float:
        """The lower one of what is left of the forgotten, and of retained classes."""
        return min(self.accuracies[split] for split in (self.decisive, "test_retain") if split in self.accuracies)

    @property
    def sides(self) -> dict[str, float]:
        """The two accuracies of which the lead of single images is, where there is one."""
        pair = ("forget", unseen_split(self.accuracies))
        known = self.decisive == "forget" and pair[1] in self.accuracies
        return {split: self.accuracies[split] for split in pair} if known else {}

    @property
    def got(self) -> float:
        """What the attacker got, as the module of ``Relearn`` says."""
        return obtained(self.decisive, *self.sides.values()) if self.sides else self.useful


class EvalSubset(NamedTuple):
    """What is measured during training.

    Attributes:
        decisive: the split that shows what is left of the forgotten.
        sets: of each split that is measured this rank's share of images, packed or not, with their labels.
        counts: how many images of each all ranks have together.
    """

    decisive: str
    sets: Mapping[str, tuple[Tensor, Tensor]]
    counts: Mapping[str, int]

    @torch.no_grad()
    def measure(self, network: Backbone) -> Measured:
        """Accuracies over all ranks, in eval mode."""
        network.eval()
        return Measured(self.decisive, {split: accuracy_on(network, *images) for split, images in self.sets.items()})


def useful_curve(measured: Sequence[Measured]) -> Tensor:
    """The useful accuracy at every tick, in float64."""
    return torch.tensor([each.useful for each in measured], dtype=torch.float64)


def averaged(measured: Sequence[Measured], mean: Callable[[Tensor], float]) -> tuple[float, float, dict[str, float]]:
    """What a run got on average, its mean useful accuracy, and of single images the accuracies of which the lead is.

    Args:
        measured: at every tick of the mean.
        mean: over the steps of values at these ticks.
    """
    got = torch.tensor([each.got for each in measured], dtype=torch.float64)
    sides = [each.sides for each in measured]
    means = {
        f"mean_{split}_acc": mean(torch.tensor([side[split] for side in sides], dtype=torch.float64))
        for split in sides[0]
    }
    return mean(got), mean(useful_curve(measured)), means


class FineTuneRun(NamedTuple):
    """A copy that was trained.

    Attributes:
        got: what it got, on average over the steps.
        auc: the same mean of its useful accuracy.
        curve: its useful accuracy at each tick.
        means: ``mean_<split>_acc``, of single images the accuracies on average over the steps.
        chosen: how it was trained, as numbers.
        network: as it is in the end.
    """

    got: float
    auc: float
    means: dict[str, float]
    curve: Tensor
    chosen: dict[str, float]
    network: Backbone


class UnitHead(nn.Module):
    """A linear head that starts at zero and reads features (B, d) scaled to length √d.

    Args:
        num_features: d.
        num_classes: C.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features, self.out_features = num_features, num_classes
        self.linear = nn.Linear(num_features, num_classes)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.linear(normalize(features, dim=1) * self.in_features**0.5)
        return logits


def accuracy_on(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """The accuracy on images, packed or not, that are spread over the ranks.

    Args:
        network: from images (B, C, H, W) in single precision to logits (B, C).
        images: this rank's share.
        labels: of these (n,).
    """
    counter = SplitAccuracy().to(labels.device)
    for part, truth in in_chunks(images, labels):
        counter.update(network(part.float()), truth)
    value = counter.value
    assert value is not None, "a split that is named has samples"
    return value


def balanced(labels: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Positions, sorted, of at most ``count`` samples and half of all, drawn evenly from the classes of labels (N,)."""
    return of_each_class(labels, draw)[: min(count, len(labels) // 2)].sort().values


def of_each_class(labels: Tensor, draw: torch.Generator) -> Tensor:
    """Positions (N,) in a random order in which the classes of labels (N,) come in turn, as far as they go."""
    order = torch.randperm(len(labels), generator=draw)
    turn = torch.empty_like(order)
    for label in torch.unique(labels):
        here = labels[order] == label
        turn[here] = torch.arange(int(here.sum()))
    return order[turn.argsort(stable=True)]


def cycled(count: int, draws: int, draw: torch.Generator) -> Tensor:
    """Indices (draws,) below ``count``: all of them in random order, again and again."""
    passes = -(-draws // count) if draws else 0
    rounds = [torch.randperm(count, generator=draw) for _ in range(passes)]
    return torch.cat([torch.empty(0, dtype=torch.long), *rounds])[:draws]


@torch.no_grad()
def end_accuracies(network: Backbone, target: Target, held: Tensor) -> dict[str, float]:
    """Accuracy on the forget set beyond what was trained on, and on the test splits, on so many at most of each."""
    found = {}
    for split in ("forget", "test_forget", "test_retain", "test_matched"):
        if split in target.data.split_names:
            counter, left = SplitAccuracy().to(target.device), torch.arange(len(target.data.labels(split)))
            if split == "forget":
                left = left[~torch.isin(left, held)]
            if len(left) > AT_END:
                order = torch.randperm(len(left), generator=torch.Generator().manual_seed(0))
                left = left[order[:AT_END]].sort().values
            for images, labels in target.data.evaluation_batches(split, target.device, wanted=left):
                counter.update(network(images.float()), labels)
            if (value := counter.value) is not None:
                found[f"{split}_acc"] = value
    return found
