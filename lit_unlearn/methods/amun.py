"""AMUN (adversarial machine unlearning): teach the forget set's nearest adversarial examples what θo sees in them.

L = CE(z(x), y) over D ∪ D_A, D_A = {(x′, argmax z_θo(x′)) : x in Df}, x′ the first point that θo takes for another
class on a path of PGD steps away from x, in a ball in L2 of radius ε, ε/10 a step, ε doubled after every ``steps``;
what θo gets wrong is its own x′. Ebrahimpour-Boroojeny et al., arXiv 2503.00917. PGD-50; 10 epochs of batches of 128,
learning rate .01, a tenth each epoch. The paper starts the attack again from x for each ε: ``restart``; the released
code goes on from where it is, the default, and begins at ε .04. The paper's settings are for single images. To forget a
class, leave out Df's own labels: their variant ``forget_labels: false``; the one without Dr is left out. Of several
forgotten classes x′ may be taken for another one, and then teaches it; ``forgotten_answers: false`` leaves these out,
which is our own option. Deviations: D_A is shuffled in each epoch but spread evenly over the steps, on top of their
batches; and where no ε up to the images' diameter leads to another class, because θo's gradient is lost in rounding, a
sample has no x′, which a warning says (the released code would go on for ever). A step has its full length whatever the
gradient's; in that code, where θo's loss is almost 0, it is shorter, ε is doubled more often, and x′ lies farther off.
"""

from pathlib import Path
from typing import cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.gradient_batches import gradient_batches
from lit_unlearn.errors import check_at_least
from lit_unlearn.methods.adversarial import nearest_adversarial
from lit_unlearn.methods.base import UnlearnModule
from lit_unlearn.seed import seed_epoch


class AMUN(UnlearnModule):
    """Fine-tunes on all samples and on the nearest adversarial examples of the forget set.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        radius: ε > 0 of the first search, the L2 length of a change to an image whose pixels lie in [0, 1].
        steps: how many steps of PGD each ε has.
        restart: search from the sample itself for every ε.
        forget_labels: train the forget set with its own labels, too.
        forgotten_answers: train on adversarial examples that θo takes for a class which is forgotten as a whole, too.
            Where single images are forgotten, it changes nothing.

    Raises:
        UsageError: if a number is out of range.
    """

    order = "mixed"
    search = (
        ("lr", 1e-3, 0.1),
        ("lr_step_size", (1, 5, 10)),
        ("forget_labels", (False, True)),
        ("epochs", (10, 25, 80)),
        ("forgotten_answers", (False, True)),
    )

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        radius: float = 0.04,
        steps: int = 50,
        restart: bool = False,
        forget_labels: bool = True,
        forgotten_answers: bool = True,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("radius", radius, 0, strict=True)
        check_at_least("steps", steps, 1)
        self.radius, self.steps, self.restart = radius, steps, restart
        self.forget_labels, self.forgotten_answers = forget_labels, forgotten_answers
        self._adversarial: tuple[Tensor, Tensor] | None = None
        self._adversarial_batches: list[tuple[Tensor, ...]] = []

    def order_in(self, epoch: int) -> str:
        """Everything, or what is retained alone."""
        return "mixed" if self.forget_labels else "retain"

    def on_train_start(self) -> None:
        """Finds the adversarial examples of θo, in a resumed run too."""
        original, found, missing = cast(Backbone, self.original_copy()), [], 0
        gone = torch.tensor(() if self.forgotten_answers else self.data.split.forgotten_classes, device=self.device)
        for images, labels in gradient_batches(self.data.evaluation_batches("forget", self.device)):
            moved, answers = nearest_adversarial(original, images, labels, self.radius, self.steps, self.restart)
            crossed = answers != labels
            missing += int((~crossed).sum())
            kept = crossed & ~torch.isin(answers, gone.to(answers.dtype))
            found.append((moved[kept], answers[kept]))
        images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(labels) == 0:
            rank_zero_warn("AMUN: no sample to forget has an adversarial example to train on, so none is unlearned")
        elif missing:
            rank_zero_warn(f"AMUN: {missing} samples to forget have no adversarial example and go without")
        self._adversarial = images, labels

    def on_train_epoch_start(self) -> None:
        """Shuffles the adversarial examples."""
        assert self._adversarial is not None
        images, labels = self._adversarial
        shuffled, steps = torch.randperm(len(labels)).to(labels.device), int(self.trainer.num_training_batches)
        parts = images[shuffled].tensor_split(steps), labels[shuffled].tensor_split(steps)
        self._adversarial_batches = list(zip(*parts, strict=True))

    def training_step(self, batch: dict[str, tuple[Tensor, ...]], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch with its share of the adversarial examples."""
        ((images, labels, *_),) = batch.values()
        if not self._adversarial_batches:
            self._shuffle_again()
        moved, answers = self._adversarial_batches[batch_idx]
        images, labels = torch.cat([images, moved]), torch.cat([labels, answers])
        loss = cross_entropy(self(images), labels)
        self.log("train/loss", loss, batch_size=len(labels))
        return loss

    def _shuffle_again(self) -> None:
        """In a run that goes on within an epoch, as at its start."""
        with torch.random.fork_rng():
            seed_epoch(self.current_epoch, self.global_rank)
            self.on_train_epoch_start()

    def on_train_end(self) -> None:
        """Frees the adversarial examples."""
        self._adversarial, self._adversarial_batches = None, []
