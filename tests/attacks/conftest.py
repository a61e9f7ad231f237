"""Targets without a Trainer, and attacks that look at what they are given."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_unlearn.attacks import Target
from lit_unlearn.attacks.target import EncodedData
from lit_unlearn.backbones import Backbone, ResNet8
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.data import Digits, ForgetSpec, UnlearnDataModule

CPU = torch.device("cpu")


class Splits:
    """Splits of vectors that need no images: the identity is their encoder."""

    def __init__(self, **splits: tuple[Tensor, Tensor]) -> None:
        self.splits = splits

    @property
    def class_names(self) -> list[str]:
        return [f"kind {number}" for number in range(1 + max(int(y.max()) for _, y in self.splits.values()))]

    @property
    def split_names(self) -> list[str]:
        return list(self.splits)

    def labels(self, split: str) -> Tensor:
        return self.splits[split][1]

    def evaluation_batches(
        self, split: str, device: Any, part: str = "all", most: int | None = None, wanted: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        cut = {"all": slice(None), "calibration": slice(0, None, 2), "evaluation": slice(1, None, 2)}[part]
        x, y = (tensor[cut][:most] if wanted is None else tensor[wanted] for tensor in self.splits[split])
        yield from zip(x.split(7), y.split(7), strict=True)


class Vectors(Backbone):
    """A backbone whose encoder is given and whose head is drawn from a seed."""

    def __init__(
        self, encoder: nn.Module, width: int, classes: int, seed: int = 0, stages: Mapping[str, str] | None = None
    ) -> None:
        torch.manual_seed(seed)
        super().__init__(encoder, nn.Linear(width, classes), [0.0], [1.0], stages or {})

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x)
        return out


@pytest.fixture
def vectors() -> type[Vectors]:
    return Vectors


@pytest.fixture
def make_target() -> Callable[..., Target]:
    def make(model: Backbone, original: Backbone | None = None, budget: int = 2**20, **splits: Any) -> Target:
        data = Splits(**splits)
        frozen = [None if net is None else net.eval().requires_grad_(False) for net in (model, original)]
        encoded = [None if net is None else EncodedData(net, data, CPU, budget) for net in frozen]
        return Target(encoded[0], encoded[1], data, model.num_classes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def four_splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Noisy clusters in five dimensions of four classes; classes 0 and 1 are forgotten."""
    draw = torch.Generator().manual_seed(3)
    centres = 1.5 * torch.randn(4, 5, generator=draw)

    def cluster(classes: list[int], count: int) -> tuple[Tensor, Tensor]:
        labels = torch.tensor(classes).repeat(count)
        return centres[labels] + torch.randn(len(labels), 5, generator=draw), labels

    return {
        "forget": cluster([0, 1], 15),
        "retain": cluster([2, 3], 20),
        "test_forget": cluster([0, 1], 9),
        "test_retain": cluster([2, 3], 10),
    }


class DigitsTargets:
    """The digits with classes 0, 1 and 2 forgotten: Original and Retrain by their weights, and others beside them."""

    def __init__(self) -> None:
        self.data = UnlearnDataModule(Digits(), ForgetSpec(classes=[0, 1, 2]))
        self.data.setup("fit")
        names = "digits_resnet8", "digits_resnet8_retrain_classes_0_1_2"
        self.original, self.retrain = (EncodedData(self.network(name), self.data, CPU) for name in names)

    def network(self, weights: str | None = None) -> ResNet8:
        torch.manual_seed(5)
        network = ResNet8(num_classes=10, in_channels=1)
        if weights is not None:
            load_weights(network, weights)
        return network.eval().requires_grad_(False)

    def make_target(self, model: Backbone | EncodedData) -> Target:
        """A target that has both reference models; ``original`` and ``retrain`` may be the model too."""
        encoded = model if isinstance(model, EncodedData) else EncodedData(model.eval(), self.data, CPU)
        return Target(encoded, self.original, self.data, 10, self.retrain)


@pytest.fixture(scope="session")
def digits() -> DigitsTargets:
    return DigitsTargets()
