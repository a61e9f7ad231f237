"""FineTune (FT): go on training on the retain set, and let the rest fade.

L = E_Dr[CE(z(x), y)], from θo; learning rate .01 as in the field's sparse/saliency protocol.
"""

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_unlearn.methods.base import Labelled, SearchSpace, UnlearnModule


class FineTune(UnlearnModule):
    """Trains θo further on the retain set alone."""

    order = "retain"
    search: ClassVar[SearchSpace] = (("lr", 1e-3, 0.1),)

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy on a batch of the retain set."""
        images, labels = batch["retain"]
        loss = cross_entropy(self(images), labels)
        self.log("train/loss", loss)
        return loss
