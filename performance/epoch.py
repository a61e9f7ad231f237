"""An OPC epoch through the Trainer against a bare hand-written loop over the same tensors.

    python performance/epoch.py
    python performance/epoch.py --streamed

ResNet-20, Fashion-MNIST, three of ten classes to forget, batches of 256 and 256. The loop shuffles, cuts its batches
out of the same uint8 tensors and does the same arithmetic, and nothing else; on a CPU it is checked that both end at
the same weights. An epoch of each is timed in turn, from a fresh network, and the smallest of all rounds
counts.

``--streamed`` reads JPEGs of 64×64 with random transforms by worker processes on both sides: the loop is over the
loader of the run, and clocks are of the wall.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from measuring import Result, arguments, begin, clock, least, machine, show
from streaming import write
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn import backbones
from lit_unlearn.backbones import Backbone
from lit_unlearn.data import FashionMNIST, ForgetSpec, ImageFolder, ImageNetTransforms, UnlearnDataModule
from lit_unlearn.methods import OPC

SIDE = 64
Batch = dict[str, tuple[Tensor, Tensor]]
Clock = Callable[[], float]


def optimizer_of(parameters: list[Tensor]) -> SGD:
    return SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def cut(images: Tensor, labels: Tensor, steps: Iterable[dict[str, Tensor]]) -> Iterator[Batch]:
    """Batches out of a tensor."""
    for step in steps:
        yield {name: (images.index_select(0, chosen), labels[chosen]) for name, chosen in step.items()}


def bare(backbone: Backbone, batches: Iterable[Batch]) -> None:
    """The epoch by hand."""
    device = next(backbone.parameters()).device
    optimizer = optimizer_of(list(backbone.parameters()))
    backbone.train()
    for batch in batches:
        retain, forget = (batch[name][0].to(device) / 255 for name in ("retain", "forget"))
        target = batch["retain"][1].to(device)
        optimizer.zero_grad()
        logits = backbone(torch.cat([retain, forget]))
        loss = cross_entropy(logits[: len(retain)], target) + logits[len(retain) :].norm(dim=1).mean()
        loss.backward()
        optimizer.step()


class Stopwatch(Callback):
    """Times the training epoch, and nothing of what comes before and after."""

    def __init__(self, now: Clock) -> None:
        self.now = now
        self.seconds = 0.0

    def on_train_epoch_start(self, *_: object) -> None:
        """Starts."""
        self.seconds = -self.now()

    def on_train_end(self, *_: object) -> None:
        """Stops."""
        self.seconds += self.now()


def through_trainer(backbone: Backbone, data: UnlearnDataModule, device: str, folder: str, now: Clock) -> float:
    watch = Stopwatch(now)
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
            seconds = through_trainer(ours, data, device, folder, partial(clock, device))
            loader = data.train_dataloader()
            started = clock(device)
            bare(plain, cut(data.data.train_images, data.data.train_labels, list(loader.sampler)))
            times.append((clock(device) - started, seconds))
            if device == "cpu":
                torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-5)
    one, two = least(times)
    steps = len(loader)
    print(f"{steps} steps; the Trainer adds {(two - one) / steps * 1000:.2f} ms to each")
    what = f"OPC epoch through the Trainer, {name}, batches of {batch} + {batch}, {samples:,} Fashion-MNIST images"
    return Result(what, "a bare loop", f"{one:.1f} s", f"{two:.1f} s", two / one, "≤ 1.05", machine(device))


def wall(device: str) -> float:
    """Seconds of the wall, for the processor's are also spent in other processes."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_streamed(name: str, samples: int, batch: int, rounds: int, workers: int, device: str) -> Result:
    seed_everything(0, verbose=False)
    network, now = getattr(backbones, name)(), partial(wall, device)
    times: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), samples, SIDE * 5 // 4)
        data = UnlearnDataModule(
            ImageFolder(folder),
            ForgetSpec(classes=[0, 1, 2]),
            batch_size=batch,
            transforms=ImageNetTransforms(SIDE, SIDE * 5 // 4),
            workers=workers,
        )
        for _ in range(rounds):
            plain = copy.deepcopy(network).to(device)
            seconds = through_trainer(copy.deepcopy(network), data, device, folder, now)
            loader = data.train_dataloader()
            started = now()
            bare(plain, loader)
            times.append((now() - started, seconds))
    one, two = least(times)
    what = f"OPC epoch through the Trainer on streamed JPEGs, {name}, {samples:,} of {SIDE}×{SIDE}, {workers} workers"
    return Result(
        what, "a bare loop over its loader", f"{one:.1f} s", f"{two:.1f} s", two / one, "≤ 1.05", machine(device)
    )


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--backbone", default="ResNet20")
    parser.add_argument("--samples", type=int, help="60,000, or 8,000 that are streamed")
    parser.add_argument("--streamed", action="store_true", help="read JPEGs by worker processes")
    parser.add_argument("--workers", type=int, default=2, help="with --streamed")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = begin(parser, argv)
    if options.trial:
        options.backbone, options.samples, options.batch, options.rounds, options.workers = "ResNet8", 200, 32, 1, 0
    samples = options.samples or (8_000 if options.streamed else 60_000)
    sizes = options.backbone, samples, options.batch, options.rounds
    if options.streamed:
        result = measure_streamed(*sizes, options.workers, options.device)
    else:
        result = measure(*sizes, options.device)
    show([result], options.write)


if __name__ == "__main__":
    main()
