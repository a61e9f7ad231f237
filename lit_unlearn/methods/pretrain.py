"""Pretrain: the original model, trained on everything.

L = E_D[CE(z(x), y)], from the backbone as constructed. It is the model that the other methods start from.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from lit_unlearn.methods.base import Labelled, UnlearnModule


class Pretrain(UnlearnModule):
    """Trains the original model θo on the full training set.

    ``weights``, if given, is the Original of the table only. Training starts from the backbone as constructed: from
    random weights, or from pretrained ones.

    Raises:
        UsageError: if random weights would stay untrained, since the backbone trains a part of itself only or a part is
            frozen.
    """

    order = "full"
    from_scratch = True
    needs_forget = False

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy on a batch of the full training set."""
        images, labels = batch["full"]
        loss = cross_entropy(self(images), labels)
        self.log("train/loss", loss)
        return loss
