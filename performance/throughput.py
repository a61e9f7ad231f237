"""Images a second in training ResNet-18 at 32×32, and the fraction of the card's bf16 peak.

    python performance/throughput.py --device cuda

Steps of cross-entropy with SGD in bf16 autocast, channels last, once as the package trains and once with ``compile``. A
training image counts three forward passes' worth of multiplications and additions, as is usual, counted by torch on the
network itself. The peak is that of dense bf16 products on the card's data sheet; of a card that is not listed, and of
a CPU, no fraction is given. Against is one large matrix product, which shows what the card reaches in the same run.
"""

import torch
from measuring import Result, arguments, begin, machine, seconds, show
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from lit_unlearn.backbones import ResNet18

SIZE = (3, 32, 32)
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "4090": 165e12,
}
"""Dense bf16 operations a second of the data sheets, by a part of the card's name, the longer parts first."""


def peak(name: str) -> float | None:
    return next((rate for card, rate in PEAKS.items() if card in name), None)


def operations_per_image() -> float:
    """Multiplications and additions of a training step, for each image."""
    with torch.device("meta"):
        network, image = ResNet18(), torch.empty(1, *SIZE)
    with FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return 3.0 * counter.get_total_flops()


def product_rate(size: int, repeats: int, device: str) -> float:
    """Operations a second of one square product in bf16."""
    left = torch.rand(size, size, device=device, dtype=torch.bfloat16)
    left @ left
    spent = min(seconds(lambda: left @ left, device) for _ in range(repeats))
    return 2.0 * size**3 / spent


def images_per_second(batch: int, steps: int, rounds: int, compile: bool, device: str) -> float:
    torch.manual_seed(0)
    network = ResNet18().to(device, memory_format=torch.channels_last).train()
    if compile:
        network.compile()
    images = torch.rand(batch, *SIZE, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 10
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)

    def several() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                loss = cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()

    several()
    return batch * steps / min(seconds(several, device) for _ in range(rounds))


def measure(batch: int, steps: int, rounds: int, compile: bool, size: int, device: str) -> Result:
    each, rate = operations_per_image(), images_per_second(batch, steps, rounds, compile, device)
    product, limit = product_rate(size, 5, device), peak(machine(device))
    share = "" if limit is None else f", {each * rate / limit:.0%} of the bf16 peak"
    return Result(
        f"ResNet-18 in bf16, batches of {batch}{', compiled' if compile else ''}",
        "a matrix product in bf16",
        f"{product / 1e12:.3g} TFLOP/s",
        f"{rate:,.0f} images/s, {each * rate / 1e12:.3g} TFLOP/s{share}",
        each * rate / product,
        "",
        machine(device),
    )


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser, argv)
    sizes = (4, 1, 1) if options.trial else (options.batch, options.steps, options.rounds)
    size = 256 if options.trial else 8192
    kinds = (False,) if options.trial else (False, True)
    show([measure(*sizes, compile, size, options.device) for compile in kinds], options.write)


if __name__ == "__main__":
    main()
