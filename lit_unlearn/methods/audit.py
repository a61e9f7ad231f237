"""Audit: a model that somebody else made forget, by whatever code, put through the same scoring and attacks.

``validate`` scores and attacks it, beside its original and Retrain where they are given. What an attacker cannot know
without the original is left out, and the report says so.
"""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.backbone import Network
from lit_unlearn.backbones.gate import without_gate
from lit_unlearn.backbones.saving import first_mismatch
from lit_unlearn.backbones.weights import LoadedWeights, load_weights
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.base import UnlearnData, UnlearnModule
from lit_unlearn.methods.networks import FRESH


class Audit(UnlearnModule):
    """Holds a foreign model; it trains nothing.

    Args:
        backbone: the network, as constructed, in the shape of both models.
        weights: of the model to audit: a file, or a name in the manifest. None audits the backbone as it is.
        original: weights of the model before it forgot, or from Python a backbone of the same shape; None where the
            auditor does not have it. A backbone is measured as it is, and weights of Retrains are loaded into a copy of
            it: what the audited network's own code does acts on no reference. Weights are loaded into a copy of the
            audited network.

    Raises:
        UsageError: if weights cannot be read or do not fit the backbone, or the original is of another kind or shape.
    """

    order = "retain"
    trains = False
    objects = ("original",)

    def __init__(
        self, backbone: Backbone, weights: str | Path | None = None, original: str | Path | Network | None = None
    ) -> None:
        if not isinstance(original, str | Path | Backbone | None):
            raise UsageError(
                f"original is a {type(original).__name__}, but must be a network, a state dict, or a file of weights"
            )
        before = copy.deepcopy(original if isinstance(original, Backbone) else backbone)
        loaded = load_weights(backbone, weights) if weights not in (None, FRESH) else None
        super().__init__(backbone)
        self.loaded = loaded
        self.loaded_original = load_weights(before, original) if isinstance(original, str | Path) else None
        found = first_mismatch(without_gate(backbone).state_dict(), before.state_dict())
        if isinstance(original, Backbone) and found:
            name, here, there = found
            raise UsageError(
                f"original is of another architecture than the audited network: {original.name_in_network(name)} is "
                f"{there} there and {here} here; give the network before unlearning"
            )
        self.set_original(before if original is not None else None, of_its_own_code=isinstance(original, Backbone))
        self.hparams.update({"weights": _name(weights), "original": _name(original)})

    def check_data(self, data: UnlearnData) -> None:
        """Refuses to train.

        Raises:
            UsageError: if started by ``fit``.
        """
        raise UsageError("Audit trains nothing: it takes validate, or test, in place of fit")

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Lightning requires one; it is never called."""

    def origin(self) -> LoadedWeights | None:
        """The weights are those of the audited model."""
        return self.loaded_original

    def is_original(self) -> bool:
        """Never: an audited model with the original's weights is a model that has not forgotten."""
        return False

    def subject(self) -> str:
        """The audited model, in words."""
        return f"the audited model, {self.hparams['weights'] or 'the backbone as given'}"


def _name(source: str | Path | nn.Module | None) -> str | None:
    """Where weights come from, in plain text."""
    if source is None:
        return None
    return f"a {type(source).__name__} given from Python" if isinstance(source, nn.Module) else str(source)
