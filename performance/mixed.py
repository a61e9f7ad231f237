"""Training steps and inference passes in bf16-mixed against 32-true.

    python performance/mixed.py
    python performance/mixed.py --threads 2

Steps, passes, images and clock are those of ``formats.py``. It prints lines of the table in docs/performance.md.
"""

from collections.abc import Callable

import torch
from formats import faster, inference, training
from lightning.pytorch.plugins import MixedPrecision, Precision
from measuring import arguments, begin, machine

from lit_unlearn.backbones import Backbone, ResNet8, ResNet18, ResNet20, Timm


def transformer() -> Backbone:
    """A vision transformer of 200,000 parameters."""
    options = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
    return Timm("vit_tiny_patch16_224", 10, options=options)


NETWORKS: dict[str, Callable[[], Backbone]] = {
    "ResNet8": ResNet8,
    "ResNet20": ResNet20,
    "ResNet18": ResNet18,
    "ViT": transformer,
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = begin(parser, argv)
    if options.write:
        parser.error("--write: these lines are of another table than the page's first")
    if options.trial:
        options.networks, options.batch, options.rounds = ["ViT"], 4, 1
    headings = ("Network", "Batch", "On", "Training step", "Inference pass")
    print(f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    precisions = [Precision(), MixedPrecision("bf16-mixed", options.device)]
    for name in options.networks:
        torch.manual_seed(0)
        network = NETWORKS[name]().to(options.device)
        ratios = [
            faster([kind(network, options.batch, precision, options.device) for precision in precisions], options)
            for kind in (training, inference)
        ]
        cells = [name, str(options.batch), machine(options.device), *(f"{ratio:.2f}" for ratio in ratios)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
