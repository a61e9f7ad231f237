"""Gradient inversion: many images at once against one by one, the plainest loop and the published library.

    python performance/inversion.py --networks lenet conv resnet20

``plain loop`` is the published recipe step by step: the network as it is, cross-entropy, ``autograd.grad`` twice, Adam
on the sign. ``one by one`` is our search with a batch of one; ours beside them is our search with all images in one
batch, or in chunks. Where the library ``breaching`` can be imported (its release 0.1.2 needs hydra-core too), its
attack "invertinggradients" is measured as well, image by image as it takes them. All figures are steps of one image.
"""

import importlib
import importlib.util
import io
import logging
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

import torch
from measuring import Result, arguments, begin, machine, seconds, show
from torch import Tensor, nn

from lit_unlearn.attacks.inversion.gradient_matching import GradientMatching
from lit_unlearn.attacks.inversion.reconstruction import descend
from lit_unlearn.backbones import ResNet18, ResNet20

SIZE = (3, 32, 32)
WANTED = {
    ("lenet", "the plain loop"): 3.0,
    ("resnet20", "the plain loop"): 2.0,
    ("conv", "breaching"): 10.0,
}
"""How many times as fast ours must be; elsewhere it must not be slower than the plain loop."""

InversionSearch = Callable[[Tensor, Tensor], object]
"""A search for images (B, C, H, W) of labels (B,)."""


def lenet() -> nn.Module:
    kinds = [(3, 2), (12, 2), (12, 1)]
    layers = [part for width, stride in kinds for part in (nn.Conv2d(width, 12, 5, stride, 2), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))


def conv() -> nn.Module:
    kinds = [(3, 16, 1), (16, 32, 2), (32, 64, 2)]
    layers = [part for i, o, stride in kinds for part in (nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet": lenet,
    "conv": conv,
    "resnet20": lambda: ResNet20(10, 3),
    "resnet18": lambda: ResNet18(10, 3),
}


def own_gradient(network: nn.Module, image: Tensor, label: Tensor) -> list[Tensor]:
    loss = nn.functional.cross_entropy(network(image), label)
    return [gradient.detach() for gradient in torch.autograd.grad(loss, list(network.parameters()))]


def plain(network: nn.Module, image: Tensor, label: Tensor, steps: int) -> None:
    """The published attack on one image."""
    parameters, target = list(network.parameters()), own_gradient(network, image, label)
    guess = torch.rand_like(image).requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=0.1)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(guess), label)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        product = sum((g * t).sum() for g, t in zip(gradients, target, strict=True))
        ours, theirs = (sum(g.square().sum() for g in all_of) for all_of in (gradients, target))
        rough = guess.diff(dim=2).abs().mean() + guess.diff(dim=3).abs().mean()
        (slope,) = torch.autograd.grad(1 - product / (ours.sqrt() * theirs.sqrt()) + 1e-2 * rough, guess)
        guess.grad = slope.sign()
        optimizer.step()
        guess.data.clamp_(0, 1)


def published(network: nn.Module, steps: int) -> InversionSearch:
    """The library's attack, with its own settings for it."""
    library: Any = importlib.import_module("breaching")
    with redirect_stdout(io.StringIO()):
        settings = library.get_attack_config("invertinggradients", [f"optim.max_iterations={steps}"])
    place = {"dtype": torch.float, "device": torch.device("cpu")}
    attacker = library.attacks.prepare_attack(network, nn.CrossEntropyLoss(), settings, place)
    about = SimpleNamespace(shape=SIZE, modality="vision")
    server = {"parameters": list(network.parameters()), "buffers": list(network.buffers()), "metadata": about}

    def search(image: Tensor, label: Tensor) -> None:
        known = {"num_data_points": 1, "labels": label, "local_hyperparams": None}
        shared = {"gradients": own_gradient(network, image, label), "buffers": None, "metadata": known}
        attacker.reconstruct([server], [shared], {})

    return search


def ours(matching: GradientMatching, images: Tensor, labels: Tensor, steps: int) -> None:
    targets, _ = matching.gradients(images, labels)
    signs = torch.ones(len(images))

    def slopes(guess: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return matching(guess, labels[index], targets, signs[index])

    descend(slopes, torch.rand_like(images), steps, 0.1, 1e-2, drop=False)


def in_parts(search: InversionSearch, images: Tensor, labels: Tensor, size: int) -> None:
    for part in zip(images.split(size), labels.split(size), strict=True):
        search(*part)


def measure(name: str, options: Any) -> Iterable[Result]:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    images, labels = torch.rand(options.images, *SIZE), torch.arange(options.images) % 10
    few, steps, chunk = min(options.singles, options.images), options.steps, options.chunk or options.images
    matching = GradientMatching(network, engine="auto", compile=options.compile)
    for size in {1, min(chunk, options.images), options.images % chunk} - {0}:
        ours(matching, images[:size], labels[:size], 1)  # chooses the engine, and compiles

    def rate(search: InversionSearch, count: int, size: int) -> float:
        """Steps of an image a second."""
        part = images[:count], labels[:count]
        return (
            count * steps / min(seconds(lambda: in_parts(search, *part, size), "cpu") for _ in range(options.repeats))
        )

    rates = {
        "one by one": rate(lambda x, y: ours(matching, x, y, steps), few, 1),
        "the plain loop": rate(lambda x, y: plain(network, x, y, steps), few, 1),
    }
    if importlib.util.find_spec("breaching") is not None:
        rates["breaching"] = rate(published(network, steps), few, 1)
    at_once = rate(lambda x, y: ours(matching, x, y, steps), options.images, chunk)
    engines = " or ".join(dict.fromkeys(matching.chosen[size.bit_length()] for size in (1, chunk)))
    compiled = ", compiled" if options.compile else ""
    what = f"inversion of {options.images} images of 3×32×32 at once, {name} ({engines}{compiled})"
    for against, slower in rates.items():
        least = WANTED.get((name, against), 1.0 if against == "the plain loop" else None)
        figures = f"{slower:,.0f} steps/s", f"{at_once:,.0f} steps/s", at_once / slower
        yield Result(what, against, *figures, "" if least is None else f"≥ {least:g}", machine("cpu"))


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["lenet", "conv", "resnet20"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--singles", type=int, default=8, help="how many of them are also searched for alone")
    parser.add_argument("--steps", type=int, default=30, help="one evaluation more is made at the end")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=None, help="how many are in one batch; all if not given")
    parser.add_argument("--compile", action="store_true")
    options = begin(parser, argv)
    if options.trial:
        options.networks, options.images, options.singles, options.steps, options.repeats = ["lenet"], 4, 2, 2, 1
    logging.getLogger("breaching").setLevel(logging.WARNING)
    for name in options.networks:
        show(list(measure(name, options)), options.write)


if __name__ == "__main__":
    main()
