"""What recovery costs beside the passes that it needs: ``python benchmarks/recovery.py [--samples N] [--rounds R]``.

Both in one run, on the same random images: a plain inference pass, and head recovery with feature mapping from nothing,
over features that no one computed before. Feature mapping needs the original's features too, so the plain pass to
compare with is that of both networks; where Original was scored before, as in every run, its features are there already
and one pass remains. A round of each is timed in turn, and the smallest of all rounds counts.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lit_unlearn.attacks import FeatureMapping, HeadRecovery, Target
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import Backbone, ResNet8, ResNet20

BATCH = 500


class Images:
    """Random images as the training splits of a source: three of ten classes are forgotten."""

    split_names = ("forget", "retain")

    def __init__(self, samples: int, shape: tuple[int, int, int]) -> None:
        draw = torch.Generator().manual_seed(0)
        images, labels = torch.rand(samples, *shape, generator=draw), torch.arange(samples) % 10
        self.splits = {"forget": labels < 3, "retain": labels >= 3}
        self.splits = {name: (images[mask], labels[mask]) for name, mask in self.splits.items()}

    def evaluation_batches(
        self, split: str, device: torch.device, part: str = "all"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split; there are no parts."""
        images, labels = self.splits[split]
        for pair in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            yield pair[0].to(device), pair[1].to(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(make: Callable[[], Backbone], shape: tuple[int, int, int], samples: int, rounds: int) -> str:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = Images(samples, shape)
    nets = [make().to(device).eval().requires_grad_(False) for _ in range(2)]

    @torch.no_grad()
    def plain(count: int) -> None:
        for net in nets[:count]:
            for split in data.split_names:
                for images, _ in data.evaluation_batches(split, device):
                    net(images)

    def recover(known: EncodedData | None = None) -> None:
        original = known or EncodedData(nets[1], data, device)
        target = Target(EncodedData(nets[0], data, device), original, data, 10)
        HeadRecovery().run(target)
        FeatureMapping().run(target)

    known = EncodedData(nets[1], data, device)
    for split in data.split_names:
        list(known.batches(split))
    recover(known)
    times = torch.tensor(
        [
            [
                seconds(lambda: plain(1), device),
                seconds(lambda: recover(known), device),
                seconds(lambda: plain(2), device),
                seconds(recover, device),
            ]
            for _ in range(rounds)
        ]
    )
    one, beside, two, alone = times.min(0).values.tolist()
    what = f"{type(nets[0]).__name__}, {samples} images of {shape} on {device.type}"
    beside_known = f"HR + FM beside a known original {beside:.2f} s, ratio {beside / one:.2f}"
    from_nothing = f"HR + FM from nothing {alone:.2f} s, ratio {alone / two:.2f}"
    return f"{what}: one pass {one:.2f} s, {beside_known}; two passes {two:.2f} s, {from_nothing}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(measure(lambda: ResNet8(in_channels=1), (1, 28, 28), options.samples, options.rounds))
    print(measure(ResNet20, (3, 32, 32), options.samples, options.rounds))


if __name__ == "__main__":
    main()
