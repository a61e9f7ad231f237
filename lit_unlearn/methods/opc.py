"""OPC, one-point contraction: forget deeply by leaving nothing to read in the representation.

L = E_Dr[CE(z(x), y)] + λ · E_Df[‖z(x)‖₂], arXiv 2507.07754, a reconstruction: no code was released, and λ is ours.
A small logit norm forces an uncertain prediction (:func:`lit_unlearn.methods.contraction.entropy_floor`). But the head
alone can make z small while the features keep everything, so ``contract`` also takes the features or any stage.
Retain and forget samples go through the network in one batch, so that both share BatchNorm statistics as they will
in evaluation.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, unknown
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.methods.contraction import ContractionPoint, contraction_loss, depth, entropy_floor, target_point
from lit_unlearn.methods.distillation import distillation_loss
from lit_unlearn.seed import run_seed


class OPC(UnlearnModule):
    """Contracts the forget set to one point while the retain set is trained on.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        contract: where to contract: ``logits`` (the paper), ``features``, ``both``, or a list of stage names.
        target: the point: ``origin`` (the paper); ``retain_mean``, the retain samples' mean in the same batch;
            ``random_point``, a fixed point of norm 1 in the positive orthant, which a ReLU can reach; or ``uniform``,
            any point with all coordinates equal, for logits the uniform softmax.
        norm: ``l2`` (the paper) or ``squared``.
        weight: λ ≥ 0.
        freeze_head: leave the head as it was, so that the encoder has to forget.
        distill: weight ≥ 0 of a retain term KL_T(original ‖ unlearned), without the forgotten classes.
        temperature: T > 0 of that term.

    Raises:
        UsageError: for an unknown place or target, or a weight or temperature out of range.
    """

    order = "paired"
    search = (("lr", 1e-3, 0.1), ("weight", 0.3, 10.0))

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable = lambda params: SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        contract: str | list[str] = "logits",
        target: ContractionPoint = "origin",
        norm: Literal["l2", "squared"] = "l2",
        weight: float = 1.0,
        freeze_head: bool = False,
        distill: float = 0.0,
        temperature: float = 2.0,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("weight", weight, 0)
        check_at_least("distill", distill, 0)
        check_at_least("temperature", temperature, 0, strict=True)
        if target not in get_args(ContractionPoint):
            raise unknown("target", target, get_args(ContractionPoint))
        if norm not in ("l2", "squared"):
            raise unknown("norm", norm, ("l2", "squared"))
        self.taps = tap_names(contract, backbone.stages)
        if freeze_head and not any(p.requires_grad for p in backbone.encoder.parameters()):
            raise UsageError("freeze_head leaves nothing to train: the encoder is frozen already")
        self.target, self.norm, self.weight = target, norm, weight
        self.distill, self.temperature = distill, temperature
        if freeze_head:
            backbone.head.requires_grad_(False)
        if distill > 0:
            self.teacher = self.original_copy()

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy (and distillation) on retain, contraction on forget."""
        (images, labels), (forget_images, _) = batch["retain"], batch["forget"]
        taps = self.backbone.taps(torch.cat([images, forget_images]), ["logits", "features", *self.taps])
        retain = {name: value[: len(images)] for name, value in taps.items()}
        forget = {name: value[len(images) :] for name, value in taps.items()}
        loss = cross_entropy(retain["logits"], labels)
        self.log("train/retain_loss", loss, batch_size=len(labels))
        contraction = torch.stack([self._contraction(forget[name], retain[name]) for name in self.taps]).sum()
        self.log("train/contraction", contraction, batch_size=len(labels))
        loss = loss + self.weight * contraction
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(images)
            gone = list(self.data.split.forgotten_classes)
            loss = loss + self.distill * distillation_loss(retain["logits"], taught, self.temperature, gone)
        if self.trainer.is_last_batch:
            self._log_depth({"forget": forget, "retain": retain})
        return loss

    def _contraction(self, forget: Tensor, retain: Tensor) -> Tensor:
        point = target_point(self.target, forget, retain.detach(), run_seed())
        return contraction_loss(forget, point, squared=self.norm == "squared")

    @torch.no_grad()
    def _log_depth(self, parts: dict[str, dict[str, Tensor]]) -> None:
        for part, taps in parts.items():
            for name, value in depth(taps["logits"], taps["features"]).items():
                self.log(f"depth/{part}_{name}", value)
        largest = parts["forget"]["logits"].float().norm(dim=1).max()
        self.log("depth/forget_entropy_floor", entropy_floor(largest, self.backbone.num_classes))


def tap_names(contract: str | list[str], stages: tuple[str, ...]) -> list[str]:
    """The places to contract, by name.

    Raises:
        UsageError: if a name is not ``logits``, ``features``, ``both`` or a stage of the backbone, or none is given.
    """
    names = {"both": ["logits", "features"]}.get(contract, [contract]) if isinstance(contract, str) else contract
    allowed = ("logits", "features", *stages)
    for name in names:
        if name not in allowed:
            raise unknown("place to contract", name, (*allowed, "both"))
    if not names:
        raise UsageError("contract is an empty list, but must name at least one place")
    return list(names)
