"""Gradient inversion: many images at once against one by one and against the plainest loop, as ratios of one run.

    python benchmarks/inversion.py --networks lenet conv resnet20 --images 64 --steps 3

``plain`` is the published recipe step by step: the network as it is, cross-entropy, ``autograd.grad`` twice, Adam on
the sign. ``one by one`` is our search with a batch of one; ``at once`` our search with all images in one batch.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_unlearn.backbones import ResNet18, ResNet20
from lit_unlearn.metrics.gradient_matching import GradientMatching
from lit_unlearn.metrics.reconstruction import descend

SIZE = (3, 32, 32)
LEAST = {"lenet": 3.0, "conv": 1.0, "resnet20": 2.0, "resnet18": 1.0}
"""How often the plain loop must fit into one search at once."""


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


def plain(network: nn.Module, image: Tensor, label: Tensor, steps: int) -> None:
    """The published attack on one image."""
    parameters = list(network.parameters())
    loss = nn.functional.cross_entropy(network(image), label)
    target = [gradient.detach() for gradient in torch.autograd.grad(loss, parameters)]
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


def ours(matching: GradientMatching, images: Tensor, labels: Tensor, steps: int) -> None:
    targets, _ = matching.gradients(images, labels)
    signs = torch.ones(len(images))

    def slopes(guess: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return matching(guess, labels[index], targets, signs[index])

    descend(slopes, torch.rand_like(images), steps, 0.1, 1e-2, drop=False)


def seconds(work: Callable[[], None], repeats: int) -> float:
    """The least CPU time, so that what else runs on the machine counts for less."""

    def once() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return min(once() for _ in range(repeats))


def measure(name: str, count: int, steps: int, repeats: int, compile: bool, singles: int) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    images, labels = torch.rand(count, *SIZE), torch.arange(count) % 10
    few = images[:singles].split(1), labels[:singles].split(1)
    matching = GradientMatching(network, engine="auto", compile=compile)
    for part in (images, images[:1]):
        ours(matching, part, labels[: len(part)], 1)  # chooses the engine, and compiles

    def each(search: Callable[[Tensor, Tensor], None]) -> None:
        for image, label in zip(*few, strict=True):
            search(image, label)

    rates = {
        "plain": singles * steps / seconds(lambda: each(lambda x, y: plain(network, x, y, steps)), repeats),
        "one by one": singles * steps / seconds(lambda: each(lambda x, y: ours(matching, x, y, steps)), repeats),
        "at once": count * steps / seconds(lambda: ours(matching, images, labels, steps), repeats),
    }
    engines = "/".join(matching.chosen[size.bit_length()] for size in (1, count))
    ratios = [rates["at once"] / rates[other] for other in ("plain", "one by one")]
    speeds = ", ".join(f"{kind} {rate:.1f}" for kind, rate in rates.items())
    verdict = "reached" if ratios[0] >= LEAST[name] else "MISSED"
    print(
        f"{name}, {count} images, engine {engines}: image-steps a CPU second: {speeds}; "
        f"at once = {ratios[0]:.2f} × plain ({LEAST[name]:g} wanted: {verdict}) = {ratios[1]:.2f} × one by one",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["lenet", "conv", "resnet20"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--singles", type=int, default=64, help="how many of them are also searched for alone")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        measure(name, options.images, options.steps, options.repeats, options.compile, options.singles)


if __name__ == "__main__":
    main()
