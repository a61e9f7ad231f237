"""A gate behind an encoder: it scales features by the class that a frozen head reads from them.

It is no network of its own: a backbone that has one keeps all its names and paths, and its state dict the entries
``gate.…`` beside them.
"""

import copy

from torch import Tensor, nn

from lit_unlearn.backbones.backbone import Backbone

GATE = "gate"
"""The gate's name in a backbone."""

CHANGE = "a gate after the encoder scales the features"
"""What a backbone with a gate is beside its class, in words."""


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
    gate = getattr(backbone, GATE, None)
    return gate if isinstance(gate, Gate) else None


def add_gate(backbone: Backbone, classes: list[int], scale: float) -> None:
    """Puts a gate behind the encoder, for whoever asks for features or logits."""
    gate = Gate(backbone.head, classes, scale)
    backbone.add_module(GATE, gate)
    backbone.encoder.register_forward_hook(gate.after)


def remove_gate(backbone: Backbone) -> None:
    """Takes the gate away again, if there is one."""
    gate = gate_of(backbone)
    if gate is not None:
        gate.removed = True  # its hook stays; a copied hook's handle would remove nothing
        delattr(backbone, GATE)


def without_gate(backbone: Backbone) -> Backbone:
    """The backbone, or where it has a gate, a copy of it without one."""
    if gate_of(backbone) is None:
        return backbone
    plain = copy.deepcopy(backbone)
    remove_gate(plain)
    return plain
