"""The plain networks whose weights go home, without this package: run as a script, it loads and answers.

Arguments: the folder with ``<name>.safetensors`` and ``images.pt``; it writes ``<name>.logits.pt``.
"""

import sys
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn


class Own(nn.Module):
    """A network of the user's own, whose head is in the middle of its names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.answer = nn.ModuleDict({"last": nn.Linear(24, 5)})
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.answer["last"](self.scale * self.body(images).flatten(1))


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Identity()
        if before != after:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(after)))

    def forward(self, x: Tensor) -> Tensor:
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.shortcut(x)).relu()


class PlainResNet8(nn.Module):
    """The ResNet-8 of this package in plain PyTorch; the normalisation is inside."""

    def __init__(self, width: int = 4, classes: int = 5) -> None:
        super().__init__()
        self.normalise = nn.Module()
        for name in ("mean", "std"):
            self.normalise.register_buffer(name, torch.zeros(3, 1, 1))
        stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, width, 3, 1, 1, bias=False), bn=nn.BatchNorm2d(width)))
        blocks = [Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)]
        stages = {f"stage{number}": nn.Sequential(block) for number, block in enumerate(blocks, start=1)}
        self.encoder = nn.Sequential(OrderedDict(stem=stem, relu=nn.ReLU(), **stages, pool=nn.AdaptiveAvgPool2d(1)))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder((images - self.normalise.mean) / self.normalise.std).flatten(1))


def main(folder: Path) -> None:
    import json

    import timm
    from safetensors import safe_open
    from torchvision.models import get_model

    networks = {
        "own": Own(),
        "resnet8": PlainResNet8(),
        "torchvision": get_model("resnet18", num_classes=5),
        "timm": timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8),
    }
    images = torch.load(folder / "images.pt", weights_only=True)
    for name, network in networks.items():
        with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
            said = json.loads(file.metadata()["lit_unlearn"])["network"]
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()}, strict=True)  # noqa: SIM118
        mean, std = (torch.tensor(said[key]).view(-1, 1, 1) for key in ("mean", "std"))
        given = images if said["normalises"] else (images - mean) / std
        with torch.no_grad():
            torch.save(network.eval()(given), folder / f"{name}.logits.pt")
    assert not any(name.startswith("lit_unlearn") for name in sys.modules)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
