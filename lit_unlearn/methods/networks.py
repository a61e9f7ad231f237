"""The networks of a method: the backbone that learns, its original and frozen teachers."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gate import gate_of, without_gate
from lit_unlearn.backbones.parts import frozen_by_user
from lit_unlearn.backbones.saving import same_values
from lit_unlearn.backbones.weights import LoadedWeights, load_weights
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.scoring import SplitScoring

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FRESH = "fresh"
"""In place of weights: the backbone as it is constructed."""


class BackboneModule(SplitScoring):
    """Loads the original weights into a backbone, and keeps them apart from it.

    Args:
        backbone: the network, as constructed.
        weights: the original weights: a file, a name in the manifest or on the hub; None takes the backbone
            as it is, and so does ``fresh``, which says that this is meant.

    Raises:
        UsageError: for weights that do not fit, if no parameter learns, or if training would leave random weights as
            they are.

    Attributes:
        from_scratch: whether training starts from the backbone's fresh initialisation and not from the original.
        trains: whether it changes parameters, so that some of them must learn.
        needs_original: whether there must be an original all the same.
        frozen: the parameters, by name, that the user has frozen.
        loaded: what was read from ``weights``, or None.
        loaded_original: what was read of the original, where it is of a file of its own.
        teacher: a frozen network to learn from, where the method has one.
    """

    from_scratch: ClassVar[bool] = False
    needs_original: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    teacher: Backbone | None

    def __init__(self, backbone: Backbone, weights: str | Path | None) -> None:
        super().__init__()
        weights = None if weights == FRESH else weights
        self.backbone = backbone
        self.teacher = None
        self.frozen = tuple(frozen_by_user(backbone))
        if self.trains and not any(parameter.requires_grad for parameter in backbone.parameters()):
            raise UsageError(
                "no parameter of the network learns (requires_grad is False for all): call "
                "network.requires_grad_(True), or leave it on for the part that is to learn"
            )
        if self.from_scratch and backbone.pretrained is None:
            self.check_all_learns(backbone)
        fresh = _clone(backbone.state_dict()) if self.from_scratch and weights is not None else None
        self.loaded = load_weights(backbone, weights) if weights is not None else None
        self.loaded_original: LoadedWeights | None = None
        self._original = None if self.from_scratch and weights is None else _clone(backbone.state_dict())
        self._code: list[Backbone] = []  # in a list, so that no checkpoint has it
        if fresh is not None:
            backbone.load_state_dict(fresh)

    def check_all_learns(self, backbone: Backbone) -> None:
        """Refuses to leave random weights untrained.

        Raises:
            UsageError: if the backbone trains a part of itself only, or the user has frozen a part.
        """
        if backbone.trained != "all":
            raise UsageError(
                f"{type(self).__name__} starts from random weights, and the backbone trains a part of them alone "
                f"(train is {backbone.trained}): give it train all, or pretrained weights to start from"
            )
        if self.frozen:
            raise UsageError(
                f"{type(self).__name__} starts from random weights, and frozen parameters would stay random, such as "
                f"{backbone.name_in_network(self.frozen[0])}: call network.requires_grad_(True), or give the "
                "backbone pretrained weights to start from"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.backbone(images)
        return logits

    def set_original(self, original: Backbone | None, of_its_own_code: bool = False) -> None:
        """Takes another network, in the shape of the backbone, for the original.

        Args:
            original: None: there is no original.
            of_its_own_code: whether references are measured by its code; else its weights alone are taken, and the code
                is that of the backbone.
        """
        self._original = None if original is None else _clone(original.state_dict())
        self._code = [original] if original is not None and of_its_own_code else []

    def frozen_copy(self) -> Backbone:
        """A copy of the backbone as it stands, in eval mode, without gradients."""
        return copy.deepcopy(self.backbone).eval().requires_grad_(False)

    def unwrapped_backbone(self) -> Backbone:
        """The backbone in the original's shape; a method that changes the architecture overrides this."""
        return without_gate(self.backbone)

    def unwrapped_copy(self) -> Backbone:
        """A copy of the backbone in the original's shape, in eval mode, without gradients."""
        return copy.deepcopy(self.unwrapped_backbone()).eval().requires_grad_(False)

    def reference_copy(self) -> Backbone:
        """A network in the original's shape, into which weights of references are loaded."""
        if not self._code:
            return self.unwrapped_copy()
        like = next(self.backbone.parameters())
        return copy.deepcopy(self._code[0]).to(like.device, like.dtype).eval().requires_grad_(False)

    def stop_batchnorm(self) -> None:
        """Normalises with the running statistics from now on, which then stand; scales and shifts still learn."""
        for module in self.backbone.modules():
            if isinstance(module, _BATCH_NORM):
                module.eval()

    def original_copy(self) -> Backbone | None:
        """A frozen copy of the original model, or None for a run that has none."""
        if self._original is None:
            return None
        original = self.reference_copy()
        original.load_state_dict(self._original)
        return original

    def origin(self) -> LoadedWeights | None:
        """What was read of the original, or None."""
        return self.loaded

    def is_original(self) -> bool:
        """Whether the model answers as the original does; a method that does not change weights overrides this."""
        return gate_of(self.backbone) is None and self.has_original_weights()

    def has_original_weights(self) -> bool:
        """Whether the unwrapped backbone's parameters and buffers are, bit for bit, the original's.

        Where the run holds its weights in half precision, the original's are rounded to it first.
        """
        if self._original is None:
            return False
        state = self.unwrapped_backbone().state_dict()
        return all(same_values(state[name], value) for name, value in self._original.items())

    def teachers(self) -> dict[str, Backbone]:
        """The frozen networks beside the backbone, by the attribute that holds them."""
        children = self.named_children()
        return {name: child for name, child in children if isinstance(child, Backbone) and name != "backbone"}


def squared_distance(network: nn.Module, other: nn.Module) -> Tensor:
    """Σ (θ − θ')² over the entries of all parameters of two networks of the same shape."""
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    return torch.stack([(ours - theirs).square().sum() for ours, theirs in pairs]).sum()


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
