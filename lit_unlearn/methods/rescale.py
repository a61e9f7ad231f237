"""Rescale, a control: shrink the features of what is to be forgotten, and lose nothing.

f(x) = s·h(x) if argmax z_θo(x) is a class to be forgotten, else h(x); the head reads f. Weights and information stay:
contraction without forgetting, no published method. A plain ridge is fooled; features at unit length give all back.

A model gets no label that marks a forget sample, so θo's head decides from the unscaled features. The
gate holds that head and one factor a class, lies in the backbone as ``gate`` and is saved with it. Forget samples that
θo takes for a retained class pass unscaled, and retain samples that it takes for a forgotten class are scaled.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gate import GATE, add_gate, gate_of, remove_gate
from lit_unlearn.errors import check_fraction
from lit_unlearn.methods.base import Labelled, UnlearnModule


class Rescale(UnlearnModule):
    """Puts a gate behind the encoder when a fit begins; trains nothing, and stops after one epoch.

    Args:
        backbone: the trained network.
        weights: the original weights.
        scale: s in (0, 1], such as 1e-3 or 1e-5.

    Raises:
        UsageError: if ``scale`` is out of range; before training, if what is to be forgotten is not whole classes.
    """

    order = "forget"
    trains = False
    needs_classes = True

    def __init__(self, backbone: Backbone, weights: str | Path | None = None, scale: float = 1e-3) -> None:
        super().__init__(backbone, weights)
        check_fraction("scale", scale, one=True)
        self.scale = scale
        self.automatic_optimization = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Nothing is trained."""
        return []

    def on_train_start(self) -> None:
        """Sets the gate, unless a resumed run has it."""
        if gate_of(self.backbone) is None:
            add_gate(self.backbone, list(self.data.split.forgotten_classes), self.scale)

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> None:
        """Nothing: the gate is set."""

    def on_train_epoch_end(self) -> None:
        """Ends the run."""
        self.finish()

    def saved_state(self) -> dict[str, Any]:
        """Whether there is a gate."""
        return {GATE: gate_of(self.backbone) is not None}

    def load_saved_state(self, state: dict[str, Any]) -> None:
        """Makes a gate, open until its factors are loaded, where the checkpoint has one."""
        remove_gate(self.backbone)
        if state.get(GATE):
            add_gate(self.backbone, [], 1.0)
