"""Evaluation and the quick suite of attacks against a plain inference pass and a training epoch.

    python performance/suite.py
    python performance/suite.py --copies 4

Fashion-MNIST, three of ten classes forgotten. The plain pass puts every sample of the four splits once through the
network; the plain epoch trains it on all training images, by hand, without a Trainer. Ours is what ``fit`` does after
its last step: the four splits are scored, then every attack of ``configs/attack/quick.yaml`` is run. What the original
and Retrain make of the images is there already then, since they were scored before. Those weights that come with the
package are used where there are some: Retrain's are under attack. A round of each is timed in turn, and the smallest
of all rounds counts. ``--copies`` has each training image so many times, for what relearning costs does not grow with
the data.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from lightning.pytorch import seed_everything
from measuring import Result, arguments, begin, least, machine, seconds, show
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn import attacks, backbones
from lit_unlearn.attacks import Attack, Target
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.data import Dataset, FashionMNIST, ForgetSpec, UnlearnDataModule

QUICK = Path(__file__).resolve().parents[1] / "configs" / "attack" / "quick.yaml"
WEIGHTS = {"ResNet8": ("fashion_mnist_resnet8_retrain_classes_0_1_2", "fashion_mnist_resnet8")}


def quick_suite() -> list[Attack]:
    callbacks = yaml.safe_load(QUICK.read_text(encoding="utf-8"))["trainer"]["callbacks"]
    return [getattr(attacks, each["class_path"])(**each.get("init_args", {})) for each in callbacks]


@torch.no_grad()
def one_pass(network: Backbone, data: UnlearnDataModule, device: torch.device) -> None:
    for split in data.split_names:
        for images, _ in data.evaluation_batches(split, device):
            network(images)


def epoch(network: Backbone, images: Tensor, labels: Tensor, batch: int, device: torch.device) -> None:
    network = copy.deepcopy(network).requires_grad_().train()
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)
    for chosen in torch.randperm(len(labels)).split(batch):
        optimizer.zero_grad()
        pixels = images.index_select(0, chosen).to(device) / 255
        cross_entropy(network(pixels), labels[chosen].to(device)).backward()
        optimizer.step()


def networks(name: str) -> list[Backbone]:
    """The one under attack, the original and Retrain."""
    made = [getattr(backbones, name)(in_channels=1).eval().requires_grad_(False) for _ in range(2)]
    for network, weights in zip(made, WEIGHTS.get(name, ()), strict=False):
        load_weights(network, weights)
    return [*made, copy.deepcopy(made[0])]


def score(target: Target) -> None:
    target.accuracies(lambda batch: batch.logits)


def attack(target: Target, times: dict[str, float], device: str) -> None:
    for each in quick_suite():
        spent = seconds(lambda each=each: each.evaluate(target), device)
        times[each.title] = min(spent, times.get(each.title, spent))


class Copies(FashionMNIST):
    """Fashion-MNIST with each training image several times."""

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.copies = copies

    def load(self) -> Dataset:
        """Reads both sets."""
        data = super().load()
        images, labels = data.train_images.repeat(self.copies, 1, 1, 1), data.train_labels.repeat(self.copies)
        return replace(data, train_images=images, train_labels=labels)


def measure(name: str, samples: int, copies: int, batch: int, rounds: int, device: str) -> list[Result]:
    seed_everything(0, verbose=False)
    data = UnlearnDataModule(
        Copies(copies), ForgetSpec(classes=[0, 1, 2]), batch_size=batch, train_limit=samples * copies
    )
    place = torch.device(device)
    network, original, retrain = (each.to(place) for each in networks(name))
    known = [EncodedData(each, data, place) for each in (original, retrain)]
    for each in known:
        score(Target(each, known[0], data, 10, known[1]))
    images, labels = data.data.train_images, data.data.train_labels
    parts: dict[str, float] = {}
    rows = []
    for _ in range(rounds):
        target = Target(EncodedData(network, data, place), known[0], data, 10, known[1])
        work: list[Callable[[], None]] = [
            lambda: one_pass(network, data, place),
            lambda: epoch(network, images, labels, batch, place),
            lambda target=target: score(target),
            lambda target=target: attack(target, parts, device),
        ]
        rows.append(tuple(seconds(each, device) for each in work))
    passing, training, scoring, attacking = least(rows)
    print(", ".join(f"{title} {spent:.2f} s" for title, spent in parts.items()))
    on, what = machine(device), f"{name}, {len(labels):,} + {len(data.data.test_labels):,} Fashion-MNIST images"
    once, all_ours = "one inference pass", scoring + attacking
    return [
        Result(f"scoring the four splits, {what}", once, *_both(passing, scoring), "", on),
        Result(f"quick suite after it, {what}", once, *_both(passing, attacking), "≤ 1.2", on),
        Result(f"scoring and quick suite, {what}", "one training epoch", *_both(training, all_ours), "≤ 1", on),
    ]


def _both(plain: float, ours: float) -> tuple[str, str, float]:
    return f"{plain:.1f} s", f"{ours:.1f} s", ours / plain


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backbone", default="ResNet8")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--copies", type=int, default=1, help="of each training image")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    options = begin(parser, argv)
    if options.trial:
        options.samples, options.rounds = 500, 1
    results = measure(options.backbone, options.samples, options.copies, options.batch, options.rounds, options.device)
    show(results, options.write)


if __name__ == "__main__":
    main()
