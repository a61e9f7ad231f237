"""BoundaryExpanding (BE): give the forget set a class of its own, then take that class away again.

L = E_Df[CE(z⁺(x), C)], z⁺ the logits with one output unit appended; Chen et al., Boundary Unlearning, arXiv 2303.11570.
The unit starts as in the authors' code, Xavier-normal with bias 0; 10 epochs, batch 64, learning rate 1e-5, no weight
decay; that code does not augment, here the data say, and its first step is in eval mode, here none is. The paper cuts
the unit off at the end, ``keep_unit`` does not.
The unit lies beside the head, of which it is one more row, so that every evaluation in between is of the model as it
would be after the cut, and the optimizer stays the same.
"""

import copy
import math
from pathlib import Path

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.seed import generator, run_seed


class BoundaryExpanding(UnlearnModule):
    """Trains the forget set towards an appended class.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        keep_unit: leave the unit on: the model has C + 1 outputs from the start, and the last names what is forgotten.

    Raises:
        UsageError: if the unit is to stay on a head that is no plain linear layer.
    """

    order = "forget"
    training_only = ("unit",)  # it would show who was forgotten
    search = (("lr", 3e-6, 0.01),)

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=1e-5, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
        keep_unit: bool = False,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        self.unit: nn.Linear | None = new_unit(backbone)
        self.classes = backbone.num_classes
        self.keep_unit = keep_unit
        if keep_unit:
            if type(backbone.head) is not nn.Linear:
                raise UsageError(f"keep_unit needs a head of class Linear, but it is a {type(backbone.head).__name__}")
            backbone.head = with_rows(backbone.head, join(backbone.head, self.unit))
            self.unit = None

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy of a forget batch against the appended class."""
        images, labels = batch["forget"]
        features = self.backbone.features(images)
        logits: Tensor = self.backbone.head(features)
        if self.unit is not None:
            logits = torch.cat([logits, self.unit(features)], dim=1)
        loss = cross_entropy(logits, torch.full_like(labels, self.classes))
        self.log("train/loss", loss)
        return loss

    def architecture_change(self) -> str | None:
        """The unit that stays on."""
        if not self.keep_unit:
            return None
        return f"the head has one output more than the {self.classes} classes, for what is forgotten"

    def unwrapped_backbone(self) -> Backbone:
        """The backbone with C outputs: itself, or a copy without the unit that stays on."""
        if not self.keep_unit:
            return self.backbone
        plain = copy.deepcopy(self.backbone)
        assert isinstance(plain.head, nn.Linear)
        rows = {name: value[: self.classes] for name, value in plain.head.state_dict().items()}
        plain.head = with_rows(plain.head, rows)
        return plain


def new_unit(backbone: Backbone) -> nn.Linear:
    """One output unit, drawn as a row of a Xavier-normal head with C + 1 rows, the same for every run of one seed."""
    unit = nn.Linear(backbone.num_features, 1, bias=getattr(backbone.head, "bias", None) is not None)
    draw = generator(run_seed(), "unit")
    std = math.sqrt(2 / (backbone.num_features + backbone.num_classes + 1))
    with torch.no_grad():
        unit.weight.copy_(torch.randn(unit.weight.shape, generator=draw) * std)
    if unit.bias is not None:
        nn.init.zeros_(unit.bias)
    return unit


def join(head: nn.Linear, unit: nn.Linear) -> dict[str, Tensor]:
    """The rows of a head, and below them the unit."""
    last = unit.state_dict()
    return {name: torch.cat([value, last[name].to(value)]) for name, value in head.state_dict().items()}


def with_rows(head: nn.Linear, rows: dict[str, Tensor]) -> nn.Linear:
    """A linear layer like ``head``, that learns if it does, but with these rows (C', d) and biases (C',)."""
    weight = rows["weight"]
    new = nn.Linear(weight.shape[1], weight.shape[0], "bias" in rows, device=weight.device, dtype=weight.dtype)
    new.load_state_dict(rows)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(head.get_parameter(name).requires_grad)
    return new.train(head.training)
