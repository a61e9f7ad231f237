"""What Relearn finds in one process, and in each of two that share the samples: a job for :mod:`processes`."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from lit_unlearn.attacks import Relearn
from lit_unlearn.attacks.target import EncodedData, Target
from lit_unlearn.backbones import Backbone

CLASSES, WIDTH = 4, 5
QUICK = {"samples": 8, "steps": 6, "batch_size": 16, "learning_rates": [0.01, 0.3], "every": 2}
SPLITS, WEIGHTS = "splits.pt", "weights.pt"


class LinearNetwork(Backbone):
    """A linear encoder of vectors, and a head."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES), [0.0], [1.0], {})

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x)
        return out


class Shares:
    """Splits of vectors, of which each rank has every ``world``-th sample, in a number of batches of its own."""

    def __init__(self, splits: dict[str, tuple[Tensor, Tensor]], rank: int, world: int) -> None:
        self.splits, self.rank, self.world = splits, rank, world
        self.split_names = list(splits)
        self.class_names = [f"kind {number}" for number in range(CLASSES)]

    def labels(self, split: str) -> Tensor:
        return self.splits[split][1]

    def evaluation_batches(
        self,
        split: str,
        device: torch.device,
        part: str = "all",
        most: int | None = None,
        wanted: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert part == "all"
        assert most is None
        if wanted is not None:
            own = wanted[wanted % self.world == self.rank]
            yield self.splits[split][0][own], self.splits[split][1][own]
            return
        count = -(-len(self.splits[split][1]) // self.world // 7) + 1
        pieces = (tensor[self.rank :: self.world].tensor_split(count) for tensor in self.splits[split])
        yield from zip(*pieces, strict=True)


def relearned(folder: Path) -> dict[str, float]:
    """The numbers that this process finds."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        distributed.init_process_group("gloo")
    network = LinearNetwork()
    network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    data = Shares(torch.load(folder / SPLITS, weights_only=True), rank, world)
    target = Target(EncodedData(network.eval().requires_grad_(False), data, torch.device("cpu")), None, data, CLASSES)
    found = dict(Relearn(**QUICK).evaluate(target).numbers)
    if world > 1:
        distributed.destroy_process_group()
    return found
