"""Augmented training batches against torchvision, PIL and a DataLoader with two workers.

    python performance/pipeline.py

Images of CIFAR-10's size at random, random crop of 4 and flip, floats in [0, 1], batches of 256. The plain side is the
usual one: a data set that makes a PIL image of each array, ``transforms.RandomCrop``, ``RandomHorizontalFlip``,
``ToTensor``, and workers that are already running when the clock starts. Ours is the loader and the augmentation of a
run, in one process. On a GPU both sides count until the batch is there; the plain one copies from pinned memory. Both
clocks are of the wall.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from measuring import Result, arguments, begin, least, machine, show
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lit_unlearn.data import Batches, OrderSampler
from lit_unlearn.data.augment import Augment

SIZE = (3, 32, 32)
CROP = 4
BATCH = 256


class Pictures(Dataset[tuple[Tensor, int]]):
    """Arrays as PIL images, transformed one by one."""

    def __init__(self, images: NDArray[np.uint8], labels: list[int]) -> None:
        self.images, self.labels = images, labels
        steps = [transforms.RandomCrop(SIZE[1], padding=CROP), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        """How many."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image in [0, 1] and its label."""
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def plain(images: Tensor, labels: Tensor, workers: int, device: str) -> Callable[[], Iterable[Tensor]]:
    pictures = Pictures(images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist())
    loader = DataLoader(
        pictures, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, pin_memory=device == "cuda"
    )
    return lambda: (batch.to(device, non_blocking=True) for batch, _ in loader)


def ours(images: Tensor, labels: Tensor, device: str) -> Callable[[], Iterable[Tensor]]:
    everything = torch.arange(len(labels))
    batches = Batches(images, labels, OrderSampler("full", everything[:0], everything, BATCH))
    augment = Augment(crop=CROP, flip=True)
    return lambda: (augment(batch["full"][0].to(device)) / 255 for batch in batches)


def seconds(epoch: Callable[[], Iterable[Tensor]], device: str) -> float:
    started = time.perf_counter()
    for batch in epoch():
        assert batch.shape[1:] == SIZE
        assert batch.dtype == torch.float32
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(samples: int, workers: int, rounds: int, device: str) -> Result:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, *SIZE), dtype=torch.uint8, generator=draw)
    labels = torch.arange(samples) % 10
    sides = plain(images, labels, workers, device), ours(images, labels, device)
    for side in sides:
        seconds(side, device)
    rates = [samples / time for time in least([tuple(seconds(side, device) for side in sides) for _ in range(rounds)])]
    return Result(
        "input pipeline with random crop and flip, 32×32",
        f"torchvision, PIL, DataLoader with {workers} workers",
        f"{rates[0]:,.0f} images/s",
        f"{rates[1]:,.0f} images/s",
        rates[1] / rates[0],
        "≥ 10" if device == "cuda" else "≥ 5",
        machine(device),
    )


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser, argv)
    if options.trial:
        options.samples, options.workers, options.rounds = 600, 0, 1
    show([measure(options.samples, options.workers, options.rounds, options.device)], options.write)


if __name__ == "__main__":
    main()
