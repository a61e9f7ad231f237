"""EUk (EU-k, exact unlearning of the last k layers): re-initialise them, and train them on the retain set.

L = E_Dr[CE(z(x), y)] over the last k layers, from a fresh initialisation, above frozen layers of θo. Goel et al.,
Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640. Deviations from the reference code:
those of :mod:`lit_unlearn.methods.cf_k`; BatchNorm among the last k layers starts afresh as well, which keeps θo's
values there; and each layer is drawn by its own rule, where that code draws all as He et al. by fan-in, biases 0.
"""

import copy
from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.backbones.parts import Unit, last_k
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.cf_k import CFk
from lit_unlearn.methods.retrain import must_differ, reinitialise


class EUk(CFk):
    """Re-initialises the last k layers of θo when a fit begins, and trains them on the retain set.

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
            of itself only, all of the last k are frozen, or a weight among them would keep the original's values: what
            no layer re-initialises takes those of the backbone as it is given, before it has ``weights``.
    """

    search = (("lr", 3e-3, 0.3), ("k", (0.1, 0.25, 0.45, 0.8)))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-5),
        lr_scheduler: LRSchedulerCallable | None = None,
        k: int | float = 0.45,
        unit: Unit = "layers",
    ) -> None:
        given = {name: value.detach().clone() for name, value in backbone.named_parameters()}
        super().__init__(backbone, weights, optimizer, lr_scheduler, k, unit)
        fresh = copy.deepcopy(backbone)
        trained = last_k(fresh, k, unit)
        reinitialise(nn.ModuleList(trained.values()))
        before = dict(backbone.named_parameters())
        with torch.no_grad():
            for name, parameter in fresh.named_parameters():
                if not parameter.requires_grad:  # what the user froze among the last k
                    parameter.copy_(before[name])
            untouched = {
                name: value
                for name, value in must_differ(fresh)
                if value.requires_grad and name.rpartition(".")[0] in trained and torch.equal(value, before[name])
            }
            for name, value in untouched.items():  # no function draws it: as the network was constructed
                value.copy_(given[name])
        kept = [name for name, value in untouched.items() if torch.equal(value, before[name])]
        if kept:
            raise UsageError(
                f"EUk cannot re-initialise {', '.join(kept[:3])}: give the untrained network as backbone and the "
                "trained weights as weights, or choose another k or unit"
            )
        self._fresh = fresh.state_dict()

    def setup(self, stage: str) -> None:
        """Puts the fresh layers in, for a fit; until then the backbone is the original."""
        if stage == "fit":
            self.backbone.load_state_dict(self._fresh)
