"""NegGradPlus (NegGrad+): descend the loss of the retain set and climb that of the forget set in one step.

L = α·(E_Dr[CE(z(x), y)] + w/2·‖θ − θo‖²) − (1 − α)·E_Df[CE(z(x), y)]; Kurmanji et al., Towards Unbounded Machine
Unlearning, arXiv 2302.09880. Learning rate .01, neither momentum nor weight decay. Their code has two loops. In that of
large scale (``model/neggrad_plus``) α is .9999, w 0, and each batch goes through the network by itself, retain first,
so that BatchNorm sees one, then the other. It runs in a test of interclass confusion, on 200 images of two classes of
Lacuna-10 whose labels were exchanged; for a class of CIFAR-10 they have a call that is commented out, 5 epochs of
batches of 128 and 512 (BadT_experiments.ipynb). In that of small scale, up to 300 images of six classes
(``model/neggrad_plus_small``), α is .95, w .1, and the network is in eval mode: ``freeze_batchnorm``, which leaves
dropout on. For 100 images of a class of CIFAR-10 they take the first loop (MIA_experiments.ipynb cells 16 and 22), 5
epochs, batches of 32 and 16. Their code repeats the first shuffle of Df throughout an epoch; here each pass is
shuffled. It does not augment; here the data say.
"""

from pathlib import Path

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least, check_fraction
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.methods.networks import squared_distance


class NegGradPlus(UnlearnModule):
    """Descends on retain and ascends on forget.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        alpha: α in [0, 1], the weight of the retain loss; the forget loss has 1 − α, and rises without bound.
        anchor: w ≥ 0, how strongly every parameter is held at the original.
        freeze_batchnorm: normalise with θo's running statistics, which then stand; scales and shifts still learn.

    Raises:
        UsageError: if ``alpha`` lies outside [0, 1], or ``anchor`` is negative.
    """

    order = "paired"
    raises_loss = True
    search = (
        ("lr", 3e-4, 0.1),
        ("alpha", (0.9, 0.95, 0.99, 0.999, 0.9999)),
        ("forget_batch_size", (32, 64, 128, 256)),
        ("freeze_batchnorm", (False, True)),
    )

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
        alpha: float = 0.95,
        anchor: float = 0.0,
        freeze_batchnorm: bool = False,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_fraction("alpha", alpha, zero=True, one=True)
        check_at_least("anchor", anchor, 0)
        self.alpha, self.anchor, self.freeze_batchnorm = alpha, anchor, freeze_batchnorm
        self.teacher = self.original_copy() if anchor > 0 else None

    def on_train_start(self) -> None:
        """Freezes BatchNorm where asked."""
        if self.freeze_batchnorm:
            self.stop_batchnorm()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """The weighted difference of the cross-entropies of a retain and a forget batch."""
        losses = {}
        for part in ("retain", "forget"):
            images, labels = batch[part]
            losses[part] = cross_entropy(self(images), labels)
            self.log(f"train/{part}_loss", losses[part], batch_size=len(labels))
        if self.teacher is not None:
            apart = squared_distance(self.backbone, self.teacher)
            self.log("train/anchor", apart, batch_size=len(labels))
            losses["retain"] = losses["retain"] + self.anchor / 2 * apart
        return self.alpha * losses["retain"] - (1 - self.alpha) * losses["forget"]
