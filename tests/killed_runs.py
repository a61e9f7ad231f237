"""Runs of the command line that are killed, for tests that start them in processes of their own."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from processes import start

from lit_unlearn.attacks import Attack, Target
from lit_unlearn.cli import run
from lit_unlearn.results import AttackResult

EPOCHS = 3


class Killer(Callback):
    """Kills its own process in the middle of an epoch, once in a folder, with the signal that nothing can catch.

    Args:
        epoch: which; of a method of one epoch, its only one.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        mark = Path("killed")
        half = batch_idx == int(trainer.num_training_batches) // 2
        if trainer.current_epoch == self.epoch and half and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class KillingAttack(Attack):
    """Kills its own process when all is trained."""

    family = "other"

    def __init__(self) -> None:
        super().__init__("now")

    def evaluate(self, target: Target) -> AttackResult:
        os.kill(os.getpid(), signal.SIGKILL)
        return AttackResult({})


def fit(folder: Path, words: list[str]) -> None:
    run(["fit", *words])


def launched(folder: Path, name: str, *words: str) -> int | None:
    """Fits in a process of its own, in a folder of that name, and returns how it ended."""
    place = folder / name
    place.mkdir(exist_ok=True)
    process = start(partial(fit, words=list(words)), place, place / "run", {})
    process.join(300)
    process.kill()
    return process.exitcode
