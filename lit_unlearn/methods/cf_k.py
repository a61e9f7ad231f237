"""CFk (CF-k, catastrophic forgetting): train the last k layers on the retain set, and let the rest fade.

L = E_Dr[CE(z(x), y)] over the last k layers, from θo. Goel et al., Towards Adversarial Evaluations for Inexact Machine
Unlearning, arXiv 2201.06640. Deviations: the reference code freezes parameters alone, and frozen BatchNorm layers
normalise with the batch and move their running statistics on; here they stand. It trains 30
epochs (EU-k 62) with weight decay 5e-5, in cosine cycles from .1 to .005, and clips the gradient's norm at 10, as
``model/cf_k`` does; the default is a constant .01.
"""

from pathlib import Path

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.parts import Unit, last_k
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.finetune import FineTune


class CFk(FineTune):
    """Trains the last k layers of θo further on the retain set.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        k: a whole number, how many units are trained, counted from the end; or a float, a share of them in (0, 1],
            rounded up: 1 is one unit, 1.0 is all.
        unit: what is counted: ``layers``, weight layers, the head being the last (the reference); ``blocks``, or
            ``stage``, both with the head besides.

    Raises:
        UsageError: if the unit is unknown, ``k`` is out of range, the network has fewer than k of it or trains a part
            of itself only, or all of the last k are frozen.
    """

    search = (("lr", 3e-3, 1.0), ("k", (0.1, 0.25, 0.45, 0.8)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-5),
        lr_scheduler: LRSchedulerCallable | None = None,
        k: int | float = 0.45,
        unit: Unit = "layers",
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        if backbone.trained != "all":
            raise UsageError(
                f"{type(self).__name__} chooses itself what is trained: set its k and unit, and the backbone's train, "
                f"which is {backbone.trained}, to all"
            )
        backbone.train_only(last_k(backbone, k, unit))
        if not any(parameter.requires_grad for parameter in backbone.parameters()):
            name = type(self).__name__
            raise UsageError(f"{name}: all parameters of the last k are frozen (k {k}, unit {unit}): choose a larger k")
