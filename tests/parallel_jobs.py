"""What tests/distributed lets one process do and two: the same jobs, which return what they found.

A job with W processes has batches of 1/W of the size on each, so that both see the same samples in a step.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from blobs import CLASSES, Blobs
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lit_unlearn import methods
from lit_unlearn.attacks import (
    IDI,
    Attack,
    DetectSamples,
    Distance,
    Evaluation,
    FeatureMap,
    FeatureMapping,
    GradientInversion,
    Grafting,
    HeadRecovery,
    KNNRecovery,
    Prune,
    Quantise,
    ReferenceMembership,
    Relearn,
    Representation,
    SVCEfficacy,
    ThresholdMembership,
    WorstRecovery,
)
from lit_unlearn.backbones import Backbone, Custom, ResNet8
from lit_unlearn.cli import run
from lit_unlearn.data import ForgetSpec, UnlearnDataModule
from lit_unlearn.methods import Audit, UnlearnModule
from lit_unlearn.reports import Row
from lit_unlearn.reports.report import Report, report_of

METHODS = [getattr(methods, name) for name in methods.__all__ if name not in ("Audit", "UnlearnModule")]
BATCH = 8
OPTIONS = {
    "PruneRegrow": {"half_precision": False},  # rounding to half precision makes small differences large
    "SSD": {"alpha": 1.0, "importance": "per_sample"},  # whatever the batches, and something is dampened
}
ORIGINAL, UNLEARNED, FORGET_FILE, AUDIT = "original.pt", "unlearned.pt", "forget.txt", "audit.yaml"
ODD = {"train": 47, "test": 23}


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": world(),
        "strategy": "ddp" if world() > 1 else "auto",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 1,
    }
    return Trainer(callbacks=list(callbacks), **{**quiet, **settings})


def plain_network() -> Backbone:
    """A network without batch norm, on which one process and two take the same steps."""
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    return Custom(nn.Sequential(*layers), in_channels=1)


def trained_by(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The weights after two epochs of each method."""
    found = {}
    for method in METHODS:
        data = UnlearnDataModule(Blobs(), ForgetSpec(classes=[0, 1]), batch_size=BATCH // world())
        os.environ["PL_GLOBAL_SEED"] = "3"
        torch.manual_seed(3)
        module = method(plain_network(), **OPTIONS.get(method.__name__, {}))
        trainer(max_epochs=2, default_root_dir=folder).fit(module, datamodule=data)
        found[method.__name__] = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    return found


def every_attack() -> list[Attack]:
    """All families; those that train a network or search take few steps, since rounding grows with each."""
    return [
        HeadRecovery(),
        FeatureMapping(),
        WorstRecovery(),
        KNNRecovery(limit=20),
        SVCEfficacy(),
        ThresholdMembership("m_entropy"),
        ReferenceMembership(),
        DetectSamples(),
        Representation(),
        IDI(steps=20),
        FeatureMap(),
        Grafting(),
        Distance(points=3, images=9, recalibrate=8),
        Quantise(bits=4),
        Prune(amount=0.5),
        Relearn(steps=4, learning_rates=[0.05]),
        GradientInversion(gradient="oracle", steps=3, images=3, restarts=1),
    ]


def audited_on_one_image(folder: Path) -> dict[str, Any]:
    """Every attack where a single image is to be forgotten, fewer than there are processes, and no size is even."""
    data = UnlearnDataModule(
        Blobs(**ODD), ForgetSpec(index_file=folder / FORGET_FILE), eval_batch_size=10 // world(), batch_size=BATCH
    )
    network = ResNet8(num_classes=CLASSES, in_channels=1, width=4)
    report = Report(page=False)
    callbacks = [Evaluation(reference_models=False), *every_attack(), report]
    trainer(*callbacks, default_root_dir=folder / f"one-image-{world()}").validate(
        Audit(network, folder / UNLEARNED, folder / ORIGINAL), datamodule=data, verbose=False
    )
    return found_in(report.rows)


def audited_digits(folder: Path) -> dict[str, Any]:
    """The quick suite and more on the digits, from the command line."""
    parallel = [f"--trainer.devices={world()}", *(["--trainer.strategy=ddp"] if world() > 1 else [])]
    sizes = [f"--data.init_args.eval_batch_size={400 // world()}"]
    cli = run(["validate", "--config", str(folder / AUDIT), *parallel, *sizes])
    return found_in(report_of(cli.trainer).rows)


def found_in(rows: list[Row]) -> dict[str, Any]:
    return {row.method: {name: asdict(row)[name] for name in ("metrics", "attacks", "skipped")} for row in rows}


class Diary(Callback):
    """Which training images were in which batch of this rank, by their number; and what was written."""

    def __init__(self) -> None:
        self.epochs: list[list[dict[str, list[int]]]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        images = data.data.train_images
        self.numbers = {image.numpy().tobytes(): number for number, image in enumerate(images)}
        assert len(self.numbers) == len(images)
        self.epochs.append([])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pixels = {name: (images * 255).round().to(torch.uint8) for name, (images, *_) in batch.items()}
        self.epochs[-1].append(
            {name: [self.numbers[image.numpy().tobytes()] for image in images] for name, images in pixels.items()}
        )


def unlearned_from_the_command_line(folder: Path) -> dict[str, Any]:
    """A run with batch norm, of which all is kept: batches, rows, checkpoints, and the files each process opened."""
    settings = {
        "seed_everything": 0,
        "model": {
            "class_path": "OPC",
            "init_args": {
                "backbone": {"class_path": "ResNet8", "init_args": {"num_classes": 4, "in_channels": 1, "width": 4}},
                "weights": str(folder / ORIGINAL),
            },
        },
        "data": {
            "class_path": "UnlearnDataModule",
            "init_args": {
                "source": {"class_path": "blobs.Blobs", "init_args": ODD},
                "forget": {"index_file": str(folder / "six.txt")},
                "batch_size": BATCH // world(),
                "forget_batch_size": 4 // world(),
                "eval_batch_size": 5,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": world(),
            "strategy": "ddp" if world() > 1 else "auto",
            "max_epochs": 3,
            "check_val_every_n_epoch": 2,  # the last epoch ends without
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [{"class_path": "HeadRecovery"}, {"class_path": "parallel_jobs.Diary"}],
            "logger": {
                "class_path": "CSVLogger",
                "init_args": {"save_dir": str(folder / f"runs-{world()}"), "name": "OPC"},
            },
        },
    }
    config = folder / f"{os.environ.get('RANK', 0)}-of-{world()}.yaml"
    config.write_text(yaml.safe_dump(settings))
    written = Written()
    cli = run(["fit", "--config", str(config)])
    module: UnlearnModule = cli.model
    diary = next(callback for callback in cli.trainer.callbacks if isinstance(callback, Diary))
    report = report_of(cli.trainer)
    return {
        "epochs": diary.epochs,
        "rows": [asdict(row) for row in report.rows],
        "directory": str(report.directory),
        "weights": dict(module.backbone.state_dict()),
        "logged": {name: float(value) for name, value in cli.trainer.logged_metrics.items() if name[:4] == "val/"},
        "written": written.stop(folder),
    }


class Written:
    """Watches which files this process opens to write, or renames to."""

    def __init__(self) -> None:
        self.paths: list[str] | None = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.paths is not None and event == "open" and isinstance(arguments[0], str):
            if arguments[2] & (os.O_WRONLY | os.O_RDWR):
                self.paths.append(arguments[0])
        elif self.paths is not None and event == "os.rename":
            self.paths.append(str(arguments[1]))

    def stop(self, folder: Path) -> list[str]:
        paths, self.paths = self.paths or [], None
        return sorted({os.path.relpath(path, folder) for path in paths if str(folder) in os.path.abspath(path)})


def everything(folder: Path) -> dict[str, Any]:
    """All of it, in one start of the processes."""
    return {
        "weights": trained_by(folder),
        "one image": audited_on_one_image(folder),
        "run": unlearned_from_the_command_line(folder),
        "digits": audited_digits(folder),
    }
