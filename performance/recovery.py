"""What recovery costs beside the passes that it needs.

    python performance/recovery.py

Both in one run, on the same random images: a plain inference pass, and head recovery with feature mapping from nothing,
over features that no one computed before. Feature mapping needs the original's features too, so the plain pass to
compare with is that of both networks; where Original was scored before, as in every run, its features are there already
and one pass remains. A round of each is timed in turn, and the smallest of all rounds counts.
"""

from collections.abc import Callable, Iterator

import torch
from measuring import Result, arguments, begin, least, machine, seconds, show
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

    def labels(self, split: str) -> Tensor:
        """All labels of a split."""
        return self.splits[split][1]

    def evaluation_batches(
        self, split: str, device: torch.device, part: str = "all"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split; there are no parts."""
        images, labels = self.splits[split]
        for pair in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            yield pair[0].to(device), pair[1].to(device)


def measure(
    make: Callable[[], Backbone], shape: tuple[int, int, int], samples: int, rounds: int, name: str
) -> list[Result]:
    device = torch.device(name)
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
        HeadRecovery().evaluate(target)
        FeatureMapping().evaluate(target)

    known = EncodedData(nets[1], data, device)
    for split in data.split_names:
        list(known.batches(split))
    recover(known)
    work: list[Callable[[], None]] = [lambda: plain(1), lambda: recover(known), lambda: plain(2), recover]
    one, beside, two, alone = least([tuple(seconds(each, name) for each in work) for _ in range(rounds)])
    what = f"{type(nets[0]).__name__}, {samples:,} images of {'×'.join(map(str, shape))}"
    return [
        Result(title, against, f"{passes:.2f} s", f"{ours:.2f} s", ours / passes, "≤ 1.3", machine(name))
        for title, against, passes, ours in (
            (f"head recovery and feature mapping beside a known original, {what}", "one inference pass", one, beside),
            (f"head recovery and feature mapping from nothing, {what}", "a pass of both networks", two, alone),
        )
    ]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser, argv)
    if options.trial:
        options.samples, options.rounds = 100, 1
    for make, shape in ((lambda: ResNet8(in_channels=1), (1, 28, 28)), (ResNet20, (3, 32, 32))):
        show(measure(make, shape, options.samples, options.rounds, options.device), options.write)


if __name__ == "__main__":
    main()
