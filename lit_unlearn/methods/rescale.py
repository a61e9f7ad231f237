"""Rescale, a control: shrink the features of what is to be forgotten, and lose nothing.

f(x) = s·h(x) if argmax z_θo(x) is a class to be forgotten, else h(x); the head reads f. Weights and information stay:
contraction without forgetting, no published method. A plain ridge is fooled; features at unit length give all back.

A model gets no label that marks a forget sample, so θo's head decides from the unscaled features. The
gate holds that head and one factor a class, lies in the backbone as ``gate`` and is saved with it. Forget samples that
θo takes for a retained class pass unscaled, and retain samples that it takes for a forgotten class are scaled.
"""

import copy
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_fraction
from lit_unlearn.methods.base import Labelled, UnlearnModule

_GATE = "gate"


class Rescale(UnlearnModule):
    """Puts a gate behind the encoder when a fit begins; trains nothing, and stops after one epoch.

    Args:
        backbone: the trained network.
        weights: the original weights.
        scale: s in (0, 1], such as 1e-3 or 1e-5.

    Raises:
        UsageError: if ``scale`` is out of range.
    """

    order = "forget"
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

    def architecture_change(self) -> str | None:
        """The gate, which a state dict of the network has no place for."""
        return None if gate_of(self.backbone) is None else "a gate after the encoder scales the features"

    def unwrapped_backbone(self) -> Backbone:
        """The backbone, or a copy of it without the gate."""
        if gate_of(self.backbone) is None:
            return self.backbone
        plain = copy.deepcopy(self.backbone)
        remove_gate(plain)
        return plain

    def is_original(self) -> bool:
        """Never with the gate, though all weights are the original's."""
        return gate_of(self.backbone) is None and self.has_original_weights()

    def saved_state(self) -> dict[str, Any]:
        """Whether there is a gate."""
        return {_GATE: gate_of(self.backbone) is not None}

    def load_saved_state(self, state: dict[str, Any]) -> None:
        """Makes a gate, open until its factors are loaded, where the checkpoint has one."""
        remove_gate(self.backbone)
        if state.get(_GATE):
            add_gate(self.backbone, [], 1.0)


class Gate(nn.Module):
    """Multiplies features (B, d) by the factor of the class that a head reads from them.

    Args:
        head: from features to logits (B, C); a frozen copy is kept.
        classes: the classes whose factor is not 1.
        scale: that factor.
    """

    factors: Tensor

    def __init__(self, head: nn.Module, classes: list[int], scale: float) -> None:
        super().__init__()
        self.head = copy.deepcopy(head).requires_grad_(False)
        weight = next(self.head.parameters())
        self.register_buffer("factors", weight.detach().new_ones(len(weight)))
        self.factors[classes] = scale
        self.removed = False

    def forward(self, features: Tensor) -> Tensor:
        """Scaled features (B, d)."""
        return features * self.factors[self.head(features).argmax(1)][:, None]

    def after(self, encoder: nn.Module, images: object, features: Tensor) -> Tensor:
        """The same as a forward hook of an encoder, so that no path or name in the backbone changes."""
        return features if self.removed else self.forward(features)


def gate_of(backbone: Backbone) -> Gate | None:
    """The backbone's gate, if it has one."""
    gate = getattr(backbone, _GATE, None)
    return gate if isinstance(gate, Gate) else None


def add_gate(backbone: Backbone, classes: list[int], scale: float) -> None:
    """Puts a gate behind the encoder, for whoever asks for features or logits."""
    gate = Gate(backbone.head, classes, scale)
    backbone.add_module(_GATE, gate)
    backbone.encoder.register_forward_hook(gate.after)


def remove_gate(backbone: Backbone) -> None:
    """Takes the gate away again, if there is one."""
    gate = gate_of(backbone)
    if gate is not None:
        gate.removed = True  # its hook stays; a copied hook's handle would remove nothing
        delattr(backbone, _GATE)
