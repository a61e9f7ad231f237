"""Peak memory of ``fit`` on data of CIFAR-10's size against the size of the data, and on large data over it.

    python performance/memory.py
    python performance/memory.py --large

Random images, 3×32×32, as many to train on as asked for and a fifth of that to test on, through a whole run: OPC, a few
steps, the four splits scored, head recovery and feature mapping on Original and the unlearned model. A second run on
next to no data tells what Python, torch, the network and its activations take; the rest is held against the bytes of
the images. On a GPU the card's memory counts, which holds batches and features but never the data.

``--large`` takes 200,000 + 10,000 images of 64×64, a ResNet-8 of width 8 and the whole quick suite, and tells what the
run holds beside the images, Python and torch among it.
"""

import tempfile

import torch
from lightning.pytorch import Trainer
from measuring import Result, arguments, begin, machine, of_one_run, peak_bytes, show

from lit_unlearn.attacks import Attack, Evaluation, FeatureMapping, HeadRecovery
from lit_unlearn.backbones import ResNet8
from lit_unlearn.data import Dataset, ForgetSpec, Source, UnlearnDataModule
from lit_unlearn.methods import OPC
from lit_unlearn.reports.report import Report
from lit_unlearn.suites import attacks_of_config

SIZE, LARGE = (3, 32, 32), (3, 64, 64)
LEAST = 2000
MOST = 1.2e9
"""Bytes beside the images that a run on large data may hold."""
MEGA = 1e6


class Noise(Source):
    """Random images of ten classes."""

    def __init__(self, train: int, test: int, size: tuple[int, int, int]) -> None:
        self.counts = train, test
        self.size = size

    def load(self) -> Dataset:
        """Draws them."""
        images = [torch.randint(0, 256, (count, *self.size), dtype=torch.uint8) for count in self.counts]
        labels = [torch.arange(count) % 10 for count in self.counts]
        return Dataset(images[0], labels[0], images[1], labels[1], [str(name) for name in range(10)])


def run(samples: int, device: str, large: bool) -> None:
    """One whole run in this process."""
    source = Noise(samples, samples // 20, LARGE) if large else Noise(samples, samples // 5, SIZE)
    rule = ForgetSpec(classes=[0] if large else [0, 1, 2])
    batches = {"batch_size": 32, "eval_batch_size": 250} if large else {}  # whose activations would else be the peak
    data = UnlearnDataModule(source, rule, **batches)
    attacks: list[Attack] = attacks_of_config("attack/quick")[0] if large else [HeadRecovery(), FeatureMapping()]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            limit_train_batches=5,
            limit_val_batches=0,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[Evaluation(), *attacks, Report(page=False, checkpoint=False)],
        )
        trainer.fit(OPC(ResNet8(width=8 if large else 16)), datamodule=data)


def peak(samples: int, options: list[str]) -> int:
    """Most bytes that a run in a process of its own holds, where glibc hands memory back."""
    return int(of_one_run(__file__, "--one-run", "--samples", str(samples), *options))


def measure(samples: int, device: str, threads: int) -> Result:
    options = ["--device", device, "--threads", str(threads)]
    nothing, all_of_it = (peak(count, options) for count in (LEAST, samples))
    size = (samples - LEAST) * 6 // 5 * torch.Size(SIZE).numel()
    print(f"peak {all_of_it / MEGA:,.0f} MB, with {LEAST:,} images {nothing / MEGA:,.0f} MB")
    return Result(
        f"peak memory of fit over that of a run on {LEAST:,} images, {samples:,} + {samples // 5:,} images of 3×32×32",
        "the bytes of the images",
        f"{size / MEGA:,.0f} MB",
        f"{(all_of_it - nothing) / MEGA:,.0f} MB",
        (all_of_it - nothing) / size,
        "",
        machine(device),
    )


def measure_large(samples: int, device: str, threads: int) -> Result:
    images = samples * 21 // 20 * torch.Size(LARGE).numel()
    held = peak(samples, ["--device", device, "--threads", str(threads), "--large"])
    beside = held if device == "cuda" else held - images
    print(f"peak {held / MEGA:,.0f} MB, images {images / MEGA:,.0f} MB")
    return Result(
        f"peak memory of fit with the quick suite beside the images, {samples:,} + {samples // 20:,} images of 3×64×64",
        "the bound",
        f"{MOST / MEGA:,.0f} MB",
        f"{beside / MEGA:,.0f} MB",
        beside / MOST,
        "≤ 1",
        machine(device),
    )


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, help="50,000, or 200,000 of the large ones")
    parser.add_argument("--large", action="store_true", help="measure large data")
    parser.add_argument("--one-run", action="store_true", help="what this script asks itself for")
    options = begin(parser, argv)
    if options.one_run:
        run(options.samples, options.device, options.large)
        print(torch.cuda.max_memory_allocated() if options.device == "cuda" else peak_bytes())
        return
    samples = 4000 if options.trial else options.samples or (200_000 if options.large else 50_000)
    of = measure_large if options.large else measure
    show([of(samples, options.device, options.threads)], options.write)


if __name__ == "__main__":
    main()
