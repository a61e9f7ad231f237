"""GradientAscent (GA): climb the loss of the forget set.

L = −E_Df[CE(z(x), y)]; 5 epochs, learning rate 1e-4, as in the sparse protocol. The loss has no lower bound, so the
climb can be clipped, or stopped once enough is forgotten; a run that leaves the numbers is reported as diverged.
"""

from pathlib import Path

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import check_at_least, check_fraction
from lit_unlearn.methods.base import Labelled, UnlearnModule


class GradientAscent(UnlearnModule):
    """Ascends the cross-entropy of the forget set.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        clip: cross-entropy (nats) of a sample beyond which it is climbed no further; None climbs without end.
        stop_at: fraction in [0, 1]: the run stops after an epoch in which the accuracy on its forget batches, each
            before its step, was on average at or below this; None never stops it.

    Raises:
        UsageError: if ``clip`` is not positive or ``stop_at`` lies outside [0, 1].
    """

    order = "forget"
    raises_loss = True
    search = (("lr", 1e-5, 0.01), ("epochs", (5, 7, 10)), ("forget_batch_size", (64, 128, 256)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=1e-4, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        clip: float | None = None,
        stop_at: float | None = None,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        if clip is not None:
            check_at_least("clip", clip, 0, strict=True)
        if stop_at is not None:
            check_fraction("stop_at", stop_at, zero=True, one=True)
        self.clip, self.stop_at = clip, stop_at

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """The negative cross-entropy of a batch of the forget set."""
        images, labels = batch["forget"]
        logits = self(images)
        loss = -ascent(logits, labels, self.clip)
        right = (logits.detach().argmax(1) == labels).float().mean()
        self.log("train/loss", loss)
        self.log("train/forget_acc", right, batch_size=len(labels), on_epoch=True, on_step=False, sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Stops where the forget accuracy over the epoch's batches is low enough."""
        if self.stop_at is not None and self.trainer.callback_metrics["train/forget_acc"] <= self.stop_at:
            self.finish()


def ascent(logits: Tensor, labels: Tensor, clip: float | None) -> Tensor:
    """The mean cross-entropy to climb; samples beyond ``clip`` stop pulling."""
    losses = cross_entropy(logits, labels, reduction="none")
    return (losses if clip is None else losses.clamp(max=clip)).mean()
