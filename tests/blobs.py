"""A source of small learnable images that needs no file."""

import torch

from lit_unlearn.data import Dataset, Source

CLASSES = 4


class Blobs(Source):
    """Grey 8x8 images of four classes: a pattern of the class under noise."""

    def __init__(self, train: int = 48, test: int = 24, noise: float = 0.5) -> None:
        self.train, self.test, self.noise = train, test, noise

    def load(self) -> Dataset:
        draw = torch.Generator().manual_seed(7)
        patterns = torch.rand(CLASSES, 1, 8, 8, generator=draw)
        labels = [torch.arange(count) % CLASSES for count in (self.train, self.test)]
        images = [
            ((1 - self.noise) * patterns[part] + self.noise * torch.rand(len(part), 1, 8, 8, generator=draw))
            .mul(255)
            .to(torch.uint8)
            for part in labels
        ]
        return Dataset(images[0], labels[0], images[1], labels[1], ["ant", "bee", "cow", "dog"])
