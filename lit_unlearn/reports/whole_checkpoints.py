"""Checkpoints that are written whole or not at all.

Lightning writes to the folder for temporary files first, and copies from there where that is another disk. If the disk
is full, or the machine stops, half a file is left under the final name.
"""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from lit_unlearn.files import replaced


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside a file of this machine and then replaces it; other places are Lightning's."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            OSError: naming the file; an old one of that name stays.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replaced(path) as file:
            torch.save(checkpoint, file)


def write_whole_checkpoints(trainer: Trainer) -> None:
    """Has a Trainer write its checkpoints so, unless it has a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
