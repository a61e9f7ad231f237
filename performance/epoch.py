"""An OPC epoch through the Trainer against a bare hand-written loop over the same tensors.

    python performance/epoch.py

ResNet-20, Fashion-MNIST, three of ten classes to forget, batches of 256 and 256. The loop shuffles, cuts its batches
out of the same uint8 tensors and does the same arithmetic, and nothing else; on a CPU it is checked that both end at
the same weights. An epoch of each is timed in turn, from a fresh network, and the smallest of all rounds
counts.
"""

import copy
import tempfile

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from measuring import Result, arguments, begin, clock, least, machine, show
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn import backbones
from lit_unlearn.backbones import Backbone
from lit_unlearn.data import FashionMNIST, ForgetSpec, UnlearnDataModule
from lit_unlearn.methods import OPC


def optimizer_of(parameters: list[Tensor]) -> SGD:
    return SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def bare(backbone: Backbone, images: Tensor, labels: Tensor, steps: list[dict[str, Tensor]]) -> None:
    """The epoch by hand."""
    device = next(backbone.parameters()).device
    optimizer = optimizer_of(list(backbone.parameters()))
    backbone.train()
    for step in steps:
        retain, forget = (images.index_select(0, step[name]).to(device) / 255 for name in ("retain", "forget"))
        target = labels[step["retain"]].to(device)
        optimizer.zero_grad()
        logits = backbone(torch.cat([retain, forget]))
        loss = cross_entropy(logits[: len(retain)], target) + logits[len(retain) :].norm(dim=1).mean()
        loss.backward()
        optimizer.step()


class Stopwatch(Callback):
    """Times the training epoch, and nothing of what comes before and after."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds = 0.0

    def on_train_epoch_start(self, *_: object) -> None:
        """Starts."""
        self.seconds = -clock(self.device)

    def on_train_end(self, *_: object) -> None:
        """Stops."""
        self.seconds += clock(self.device)


def through_trainer(backbone: Backbone, data: UnlearnDataModule, device: str, folder: str) -> float:
    watch = Stopwatch(device)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=CSVLogger(folder),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    module = OPC(backbone, optimizer=optimizer_of)
    module.memory_format = "contiguous"  # as in the loop
    trainer.fit(module, datamodule=data)
    return watch.seconds


def measure(name: str, samples: int, batch: int, rounds: int, device: str) -> Result:
    seed_everything(0, verbose=False)
    data = UnlearnDataModule(FashionMNIST(), ForgetSpec(classes=[0, 1, 2]), batch_size=batch, train_limit=samples)
    network = getattr(backbones, name)(in_channels=1)
    times: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            ours, plain = copy.deepcopy(network), copy.deepcopy(network).to(device)
            seconds = through_trainer(ours, data, device, folder)
            loader = data.train_dataloader()
            started = clock(device)
            bare(plain, data.data.train_images, data.data.train_labels, list(loader.sampler))
            times.append((clock(device) - started, seconds))
            if device == "cpu":
                torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)
    one, two = least(times)
    steps = len(loader)
    print(f"{steps} steps; the Trainer adds {(two - one) / steps * 1000:.2f} ms to each")
    what = f"OPC epoch through the Trainer, {name}, batches of {batch} + {batch}, {samples:,} Fashion-MNIST images"
    return Result(what, "a bare loop", f"{one:.1f} s", f"{two:.1f} s", two / one, "≤ 1.05", machine(device))


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backbone", default="ResNet20")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser, argv)
    if options.trial:
        options.backbone, options.samples, options.batch, options.rounds = "ResNet8", 200, 32, 1
    result = measure(options.backbone, options.samples, options.batch, options.rounds, options.device)
    show([result], options.write)


if __name__ == "__main__":
    main()
