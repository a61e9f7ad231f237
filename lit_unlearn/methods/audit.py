"""Audit: a model that somebody else made forget, by whatever code, put through the same scoring and attacks.

``validate`` scores and attacks it, beside its original and Retrain where they are given. What an attacker cannot know
without the original is left out, and the report says so.
"""

from pathlib import Path
from typing import Any

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.weights import load_weights
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.base import UnlearnData, UnlearnModule


class Audit(UnlearnModule):
    """Holds a foreign model; it trains nothing.

    Args:
        backbone: the network, as constructed, in the shape of both models.
        weights: of the model to audit: a file, or a name in the manifest.
        original: of the model before it forgot; None where the auditor does not have it.

    Raises:
        UsageError: if weights cannot be read or do not fit the backbone.
    """

    order = "retain"

    def __init__(self, backbone: Backbone, weights: str | Path, original: str | Path | None = None) -> None:
        super().__init__(backbone, original)
        if original is None:
            self._original = None
        self.hparams.update({"weights": str(weights), "original": None if original is None else str(original)})
        self.loaded = load_weights(backbone, weights)

    def check_data(self, data: UnlearnData) -> None:
        """Refuses to train.

        Raises:
            UsageError: if started by ``fit``.
        """
        raise UsageError("Audit trains nothing: it takes validate, or test, in place of fit")

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Lightning requires one; it is never called."""

    def subject(self) -> str:
        """The audited model, in words."""
        return f"the audited model, {self.hparams['weights']}"
