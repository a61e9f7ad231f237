"""Training steps of a compiled network against the same steps without.

    python performance/compiled.py

OPC's work on a batch of retained and one of forgotten images of CIFAR-10's size, forward, backward and SGD. What
compiling took is printed beside; it is paid once a run, and again for a batch of another size. Rounds of both in turn,
the smallest counts. On a GPU in bf16, on a CPU in single precision.
"""

import copy
import time

import torch
from measuring import Result, arguments, begin, least, machine, seconds, show
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from lit_unlearn import backbones
from lit_unlearn.backbones import Backbone

SIZE = (3, 32, 32)


def step(network: Backbone, optimizer: Optimizer, images: Tensor, labels: Tensor) -> None:
    """Cross-entropy on the first half, contraction of the logits of the second."""
    optimizer.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        logits = network(images)
    retain, forget = logits.float().chunk(2)
    (cross_entropy(retain, labels[: len(retain)]) + forget.norm(dim=1).mean()).backward()
    optimizer.step()


def measure(name: str, batch: int, steps: int, rounds: int, backend: str, device: str) -> Result:
    torch.manual_seed(0)
    images, labels = torch.rand(2 * batch, *SIZE, device=device), torch.arange(2 * batch, device=device) % 10
    plain = getattr(backbones, name)().to(device).train()
    compiled = copy.deepcopy(plain)
    compiled.compile(backend=backend)
    both = [(network, SGD(network.parameters(), lr=0.01, momentum=0.9)) for network in (plain, compiled)]
    for network, optimizer in both:
        started = time.perf_counter()
        step(network, optimizer, images, labels)
        print(f"{'compiled' if network.compiled else 'plain'}: first step {time.perf_counter() - started:.1f} s")

    def several(network: Backbone, optimizer: Optimizer) -> None:
        for _ in range(steps):
            step(network, optimizer, images, labels)

    times = [tuple(seconds(lambda pair=pair: several(*pair), device) for pair in both) for _ in range(rounds)]
    one, two = (spent / steps for spent in least(times))
    what = f"training step with compile ({backend}), {name}, {batch} + {batch} images of 32×32"
    return Result(what, "without", f"{1000 * one:.1f} ms", f"{1000 * two:.1f} ms", two / one, "", machine(device))


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backbone", default="ResNet20")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="inductor")
    options = begin(parser, argv)
    if options.trial:
        options.backbone, options.batch, options.steps, options.rounds = "ResNet8", 4, 1, 1
        options.backend = "aot_eager"
    show(
        [measure(options.backbone, options.batch, options.steps, options.rounds, options.backend, options.device)],
        options.write,
    )


if __name__ == "__main__":
    main()
