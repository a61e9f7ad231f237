"""Training batches from a folder of photographs against torchvision's ImageFolder and a DataLoader.

    python performance/streaming.py

JPEGs of noise over a gradient, of a quarter more pixels than a side of the batch: RandomResizedCrop and a flip, 64 or
224 pixels, batches of 64, the same transforms (torchvision, version 2) and as many workers on both sides. The plain
side is ``datasets.ImageFolder`` whose pictures become tensors first, and workers that go on from epoch to epoch. Ours
is the loader of a run, on which nothing is cached. Both clocks are of the wall.
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from measuring import Result, arguments, begin, least, machine, show
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from lit_unlearn.data import Batches, ImageFolder, ImageNetTransforms, OrderSampler
from lit_unlearn.data.reading import Reading

BATCH = 64
CLASSES = 10


def write(root: Path, count: int, side: int) -> None:
    """So many JPEGs in class folders, and one of each class to test on."""
    draw, slope = np.random.default_rng(0), np.linspace(0, 200, side)[:, None, None]
    for number in range(count + CLASSES):
        part = "train" if number < count else "test"
        folder = root / part / str(number % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = slope + draw.integers(0, 56, (side, side, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def plain(root: Path, size: int, workers: int, device: str) -> Callable[[], Iterable[Tensor]]:
    transform = v2.Compose([v2.ToImage(), *ImageNetTransforms(size, size).train])
    loader = DataLoader(
        datasets.ImageFolder(root / "train", transform),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device == "cuda",
    )
    return lambda: (images.to(device, non_blocking=True) for images, _ in loader)


def ours(root: Path, size: int, workers: int, device: str) -> Callable[[], Iterable[Tensor]]:
    data, transforms = ImageFolder(root).load_raw(), ImageNetTransforms(size, size)
    everything = torch.arange(len(data.train_labels))
    sampler = OrderSampler("full", everything[:0], everything, BATCH)
    reading = Reading(transforms.of(training=True), workers, pin=device == "cuda")
    batches = Batches(data.train_images, data.train_labels, sampler, reading)
    return lambda: (batch["full"][0].to(device, non_blocking=True) for batch in batches)


def seconds(epoch: Callable[[], Iterable[Tensor]], shape: tuple[int, ...], device: str) -> float:
    started = time.perf_counter()
    for batch in epoch():
        assert batch.shape[1:] == shape
        assert batch.dtype == torch.uint8
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(count: int, size: int, workers: int, rounds: int, device: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), count, size * 5 // 4)
        sides = [side(Path(folder), size, workers, device) for side in (plain, ours)]
        for side in sides:
            seconds(side, (3, size, size), device)
        rows = [tuple(seconds(side, (3, size, size), device) for side in sides) for _ in range(rounds)]
    rates = [count / time for time in least(rows)]
    return Result(
        f"streamed JPEGs with random resized crop and flip, {size}×{size}",
        f"torchvision's ImageFolder, DataLoader with {workers} workers",
        f"{rates[0]:,.0f} images/s",
        f"{rates[1]:,.0f} images/s",
        rates[1] / rates[0],
        "≥ 0.95",
        machine(device),
    )


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--samples", type=int, default=4_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser, argv)
    if options.trial:
        options.sizes, options.samples, options.workers, options.rounds = [16], 200, 0, 1
    for size in options.sizes:
        show([measure(options.samples, size, options.workers, options.rounds, options.device)], options.write)


if __name__ == "__main__":
    main()
