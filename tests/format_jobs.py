"""A run whose processes would choose different memory formats: a job for :mod:`processes`."""

import os
from pathlib import Path
from typing import Any

from blobs import Blobs
from lightning.pytorch import Callback, Trainer

from lit_unlearn.backbones import ResNet8
from lit_unlearn.backbones.memory_format import memory_format_of
from lit_unlearn.data import ForgetSpec, UnlearnDataModule
from lit_unlearn.methods import SCRUB, callbacks


class Seen(Callback):
    """The formats of all networks of a method when training ends."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        copies = [pl_module.backbone, pl_module.original_copy(), *pl_module.teachers().values()]
        self.formats = {memory_format_of(network) for network in copies if network is not None}


def of_two(folder: Path) -> list[str]:
    """Each process finds another format faster; they train SCRUB, which has a teacher."""
    found = ["channels_last", "contiguous"][int(os.environ["RANK"])]
    callbacks.faster_format = lambda *_: found  # type: ignore[assignment]
    seen = Seen()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, callbacks=[seen], **quiet)
    data = UnlearnDataModule(Blobs(), ForgetSpec(classes=[0, 1]), batch_size=8, eval_batch_size=10)
    trainer.fit(SCRUB(ResNet8(num_classes=4, in_channels=1, width=4)), datamodule=data)
    return sorted(seen.formats)
