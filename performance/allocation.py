"""Training steps and inference passes with memory kept that a step frees, against glibc's own settings.

    python performance/allocation.py

A ResNet-8 and random images of Fashion-MNIST's size, each measure in a process of its own, without settings of the
allocator in the environment. Rounds of both in turn; the median round of each counts. On a CPU only.
"""

import statistics
from collections.abc import Callable

import torch
from measuring import Result, arguments, begin, machine, of_one_run, seconds, show
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.allocation import keep_freed_memory
from lit_unlearn.backbones import ResNet8

WORK = {"training step": 64, "inference pass": 1000}
SIZE = (1, 28, 28)


def training(network: ResNet8, batch: int) -> Callable[[], None]:
    images, labels = torch.rand(batch, *SIZE), torch.arange(batch) % 10
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def inference(network: ResNet8, batch: int) -> Callable[[], None]:
    images = torch.rand(batch, *SIZE)

    @torch.no_grad()
    def work() -> None:
        network.eval()(images)

    return work


def one_run(what: str, batch: int, steps: int) -> float:
    """Seconds of a step in this process, after some that count for nothing."""
    torch.manual_seed(0)
    network = ResNet8(in_channels=SIZE[0])
    work = training(network, batch) if what == "training step" else inference(network, batch)
    for _ in range(3):
        work()
    return sum(seconds(work, "cpu") for _ in range(steps)) / steps


def measured(what: str, keep: bool, batch: int, steps: int, threads: int) -> float:
    options = ["--threads", str(threads), "--one-run", what, "--steps", str(steps), "--batch", str(batch)]
    return float(of_one_run(__file__, *options, *(["--keep"] if keep else [])))


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--keep", action="store_true", help="in the one run")
    parser.add_argument("--one-run", choices=tuple(WORK), help="what main starts in a process of its own")
    options = begin(parser, argv)
    if options.device != "cpu":
        parser.error("--device: the allocator is the processor's")
    if options.one_run:
        if options.keep:
            keep_freed_memory()
        print(one_run(options.one_run, options.batch, options.steps))
        return
    if options.trial:
        options.rounds, options.steps, options.batch = 1, 1, 8
    results = []
    for what, usual in WORK.items():
        batch = options.batch or usual
        rounds = [
            [measured(what, keep, batch, options.steps, options.threads) for keep in (False, True)]
            for _ in range(options.rounds)
        ]
        plain, ours = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
        name = f"{what} with memory kept that a step frees, ResNet8, {batch:,} images of 28×28"
        row = f"{plain:.1f} ms", f"{ours:.1f} ms", ours / plain, ""
        results.append(Result(name, "glibc's own settings", *row, machine("cpu")))
    show(results, options.write)


if __name__ == "__main__":
    main()
