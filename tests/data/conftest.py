import pytest
import torch

from lit_unlearn.data import Dataset, Source


class TinySource(Source):
    """40 training and 20 test images, 4 classes; every pixel of image i is i, so that an image tells its index."""

    def __init__(self, names: bool = False) -> None:
        self.names = names

    def load(self) -> Dataset:
        train = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
        names = [f"{index % 4}/{index:03d}.png" for index in range(40)] if self.names else None
        labels = torch.arange(40) % 4
        return Dataset(train, labels, train[:20].clone(), labels[:20], ["cat", "dog", "frog", "hare"], names)


@pytest.fixture
def tiny() -> TinySource:
    return TinySource()


@pytest.fixture
def named() -> TinySource:
    return TinySource(names=True)
