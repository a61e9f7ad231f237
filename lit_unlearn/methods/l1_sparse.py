"""L1Sparse (l1-sparse): fine-tune on the retain set while sparsity squeezes out what it does not need.

L = E_Dr[CE(z(x), y)] + γ_t·‖θ‖₁ over all parameters, γ_t = α·(1 − t/(T − t0)) in epoch t = 0, 1, … of T, and 0 in the
last t0; Jia et al., Model Sparsity Can Simplify Machine Unlearning, arXiv 2304.04934. 10 epochs, learning rate .01.
Their README leaves α open, and their code has .2 where nothing is given. The default 5e-4 is where the code of AMUN
starts, which then raises it, to 9.7 times as much in the sixth and seventh of ten epochs, and lowers it again; the code
of Scissorhands (JingWu321/Scissorhands) gives 1e-4. T is the Trainer's ``max_epochs``. With t0 = T their code leaves
the penalty constant; here that is refused.
"""

from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.methods.base import Labelled, UnlearnData, UnlearnModule
from lit_unlearn.methods.fading import linear_decay, planned_epochs


class L1Sparse(UnlearnModule):
    """Trains θo further on the retain set under a falling L1 penalty.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        alpha: α ≥ 0, the weight of the penalty in the first epoch.
        free_epochs: t0 ≥ 0, how many epochs at the end are without penalty.

    Raises:
        UsageError: if an argument is out of range; before training, if there is no ``max_epochs`` or none of its epochs
            would have a penalty.
    """

    order = "retain"
    search = (("lr", 1e-3, 0.1), ("alpha", 1e-4, 0.1))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        alpha: float = 5e-4,
        free_epochs: int = 0,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("alpha", alpha, 0)
        check_at_least("free_epochs", free_epochs, 0)
        self.alpha, self.free_epochs = alpha, free_epochs

    def check_data(self, data: UnlearnData) -> None:
        """Checks that the penalty has epochs to fall in."""
        epochs = planned_epochs(self, "its penalty falls to 0")
        if self.free_epochs >= epochs:
            raise UsageError(f"free_epochs is {self.free_epochs}, but must be below trainer.max_epochs, {epochs}")

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy on a retain batch, and the penalty."""
        images, labels = batch["retain"]
        loss = cross_entropy(self(images), labels)
        norm = torch.stack([parameter.abs().sum() for parameter in self.backbone.parameters()]).sum()
        gamma = linear_decay(self.alpha, self.current_epoch, (self.trainer.max_epochs or 0) - self.free_epochs)
        self.log("train/retain_loss", loss, batch_size=len(labels))
        self.log("train/l1_norm", norm, batch_size=len(labels))
        return loss + gamma * norm
