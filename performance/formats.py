"""Training steps and inference passes in channels_last against contiguous.

    python performance/formats.py
    python performance/formats.py --threads 2

A step is forward, cross-entropy, backward and SGD; a pass is forward in eval mode without gradients. Images are of
CIFAR-10's size. Rounds of both formats in turn; the ratio is that of the medians: of one thread's processor time,
otherwise of time on the wall. It prints lines of the table in docs/performance.md, each with what the probe of a run
chooses, and how long it took.
"""

import copy
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from measuring import arguments, begin, machine
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn import backbones
from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.memory_format import faster_format, set_memory_format

SIZE = (3, 32, 32)


def training(network: Backbone, batch: int, precision: Precision, device: str) -> Callable[[], None]:
    images, labels = torch.rand(batch, *SIZE, device=device), torch.arange(batch, device=device) % 10
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        with precision.forward_context():
            loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def inference(network: Backbone, batch: int, precision: Precision, device: str) -> Callable[[], None]:
    images = torch.rand(batch, *SIZE, device=device)

    @torch.no_grad()
    def work() -> None:
        with precision.forward_context():
            network.eval()(images)

    return work


def faster(both: Sequence[Callable[[], None]], options: Namespace) -> float:
    """How many times as fast the second work is as the first."""
    alone = options.device == "cpu" and options.threads == 1
    times: list[list[float]] = []
    for _ in range(1 + options.rounds):
        times.append([])
        for work in both:
            started = time.process_time() if alone else wall(options.device)
            work()
            times[-1].append((time.process_time() if alone else wall(options.device)) - started)
    one, two = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return one / two


def wall(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def line(name: str, batch: int, precision: Precision, options: Namespace) -> str:
    torch.manual_seed(0)
    plain = getattr(backbones, name)().to(options.device)
    last = copy.deepcopy(plain)
    set_memory_format(last, "channels_last")
    started = time.perf_counter()
    chosen = faster_format(plain, SIZE, batch, torch.device(options.device), precision)
    spent = time.perf_counter() - started
    ratios = [
        faster([kind(network, batch, precision, options.device) for network in (plain, last)], options)
        for kind in (training, inference)
    ]
    cells = [name, str(batch), str(precision.precision), machine(options.device), *(f"{ratio:.2f}" for ratio in ratios)]
    return f"| {' | '.join(cells)} | {chosen}, {spent:.1f} s |"


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backbones", nargs="+", default=["ResNet8", "ResNet20", "ResNet18"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    options = begin(parser, argv)
    if options.write:
        parser.error("--write: these lines are of another table than the page's first")
    if options.trial:
        options.backbones, options.batches, options.rounds = ["ResNet8"], [4], 1
    headings = ("Network", "Batch", "Precision", "On", "Training step", "Inference pass", "The probe")
    print(f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    precisions = [Precision(), MixedPrecision("bf16-mixed", options.device)]
    for name in options.backbones:
        for batch in options.batches:
            for precision in precisions:
                print(line(name, batch, precision, options), flush=True)


if __name__ == "__main__":
    main()
