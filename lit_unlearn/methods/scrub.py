"""SCRUB: a student that disobeys its teacher on the forget set and obeys it on the retain set.

L = −KL_T(θo ‖ θ) on every forget batch of the first ``msteps`` epochs, then, in each epoch, L = γ·CE + α·KL_T(θo ‖ θ)
on every retain batch; one optimizer for both. Kurmanji et al., Towards Unbounded Machine Unlearning, arXiv 2302.09880.
Defaults are those of the released large-scale notebook, which runs 3 epochs (its rate would fall to a tenth after 3, 5
and 9), in batches of 256 retain and 512 forget samples: few, large maximising steps. Its own names for batches, set to
128 and 32, are read by nothing. Their small scale (Lacuna-6), ``model/scrub_small``, has batches of 32 and 64, and
Adam, whose steps do not shrink with the gradients of a network that has learnt the forget set by heart. For 100 images
of a class of CIFAR-10 they have a third setting (MIA_experiments.ipynb): SGD at .0005, a tenth of it in the last two
epochs, γ 1, α .5, T 4, three of five epochs with a pass over Df, batches of 32 and 16, SCRUB+R. None of them augments;
here the data say.

SCRUB+R (``rewind``) keeps the weights of each epoch and ends with those whose error on the forget set is nearest the
final model's error on a validation set with the classes of the forget set, in its proportions. The paper has images for
that which no training ever saw. Here, since the test set is not for choosing, they are a share of the retained training
images of those classes, which SCRUB leaves out; the original did learn them, so their error, and what is forgotten, is
too small rather than too large. Of epochs as good theirs ends with the first; it compares the untouched original, too,
but saves no file of it, and fails where that is the best. Where all samples of a class are forgotten, SCRUB+R is
refused.
"""

from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least
from lit_unlearn.methods.base import Labelled
from lit_unlearn.methods.distillation import distillation_loss
from lit_unlearn.methods.rewinding import RewindingModule


class SCRUB(RewindingModule):
    """Drives the student from the original on the forget set, and holds it there on the retain set.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        msteps: how many epochs, from the first, begin with a pass over the forget set.
        gamma: γ ≥ 0, weight of the cross-entropy on the retain set.
        alpha: α ≥ 0, weight of the distillation on the retain set.
        temperature: T > 0 of the distillation.
        rewind: SCRUB+R, end with the epoch that has forgotten just enough; of two as good, the later.
        validation: with ``rewind``, share in (0, 1) of the retained samples that training leaves out, of each class
            that has samples to forget.

    Raises:
        UsageError: if a number is out of range; before training, with ``rewind``, if no validation part can be had.
    """

    order = "forget_then_retain"
    raises_loss = True
    search = (
        ("lr", 1e-4, 0.01),
        ("alpha", 3e-4, 1.0),
        ("epochs", (3, 6, 10)),
        ("forget_batch_size", (16, 32, 64, 256, 512)),
        ("msteps", (2, 3, 5)),
    )

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=5e-4, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        msteps: int = 2,
        gamma: float = 0.99,
        alpha: float = 0.001,
        temperature: float = 4.0,
        rewind: bool = False,
        validation: float = 0.1,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler, rewind, validation)
        check_at_least("msteps", msteps, 0)
        check_at_least("gamma", gamma, 0)
        check_at_least("alpha", alpha, 0)
        check_at_least("temperature", temperature, 0, strict=True)
        self.msteps, self.gamma, self.alpha, self.temperature = msteps, gamma, alpha, temperature
        self.teacher = self.original_copy()

    def order_in(self, epoch: int) -> str:
        """All of forget and then all of retain, later retain alone."""
        return "forget_then_retain" if epoch < self.msteps else "retain"

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """A step of the max pass on a forget batch, or of the min pass on a retain batch."""
        ((part, (images, labels)),) = batch.items()
        assert self.teacher is not None
        with torch.no_grad():
            taught = self.teacher(images)
        logits = self(images)
        divergence = distillation_loss(logits, taught, self.temperature)
        loss = -divergence if part == "forget" else self.gamma * cross_entropy(logits, labels) + self.alpha * divergence
        self.log(f"train/{part}_loss", loss, batch_size=len(labels), on_epoch=True, on_step=False)
        return loss
