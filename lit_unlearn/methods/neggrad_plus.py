"""NegGradPlus (NegGrad+): descend the loss of the retain set and climb that of the forget set in one step.

L = α·E_Dr[CE(z(x), y)] − (1 − α)·E_Df[CE(z(x), y)], α .95, learning rate .01; Kurmanji et al., Towards Unbounded
Machine Unlearning, arXiv 2302.09880. As in their code, each batch goes through the network by itself, retain first, so
that BatchNorm sees one, then the other; neither momentum nor weight decay. Their code repeats the first shuffle of Df
throughout an epoch; here each pass is shuffled. Where few samples are forgotten, theirs has α .9999.
"""

from pathlib import Path

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_fraction
from lit_unlearn.methods.base import Labelled, UnlearnModule


class NegGradPlus(UnlearnModule):
    """Descends on retain and ascends on forget.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        alpha: α in [0, 1], the share of the retain set; the rest climbs, without bound.

    Raises:
        UsageError: if ``alpha`` lies outside [0, 1].
    """

    order = "paired"
    search = (("lr", 3e-4, 0.1), ("alpha", (0.9, 0.95, 0.99, 0.999)), ("forget_batch_size", (32, 64, 128, 256)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
        alpha: float = 0.95,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_fraction("alpha", alpha, zero=True, one=True)
        self.alpha = alpha

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """The weighted difference of the cross-entropies of a retain and a forget batch."""
        losses = {}
        for part in ("retain", "forget"):
            images, labels = batch[part]
            losses[part] = cross_entropy(self(images), labels)
            self.log(f"train/{part}_loss", losses[part], batch_size=len(labels))
        return self.alpha * losses["retain"] - (1 - self.alpha) * losses["forget"]
