"""OPC, one-point contraction: forget deeply by leaving nothing to read in the representation.

L = E_Dr[CE(z(x), y)] + λ · E_Df[‖z(x)‖₂], arXiv 2507.07754, a reconstruction: no code was released, and λ is ours.
A small logit norm forces an uncertain prediction (:func:`lit_unlearn.methods.contraction.entropy_floor`). But the head
alone can make z small while the features keep everything, so ``contract`` also takes the features or any stage.
Retain and forget samples go through the network in one batch, so that both share BatchNorm statistics as they will
in evaluation.

Contraction, then release, is ours. What is contracted to a point stands out as such, and forgotten images are found by
it. So the last epochs may train on the retain set alone (``release``): what contracted is free to move, and no longer
pushed anywhere. Before that, weights may be mixed with fresh ones, or partly drawn anew or shuffled, so that training
does not find its way back.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lit_unlearn.backbones import Backbone
from lit_unlearn.errors import UsageError, check_at_least, check_fraction, unknown
from lit_unlearn.methods.base import Labelled, UnlearnModule
from lit_unlearn.methods.contraction import ContractionPoint, contraction_loss, depth, entropy_floor, target_point
from lit_unlearn.methods.distillation import distillation_loss
from lit_unlearn.methods.fading import linear_decay, planned_epochs
from lit_unlearn.methods.kernels import learning_weights, renew, renew_head
from lit_unlearn.methods.protocols import UnlearnData
from lit_unlearn.seed import generator, run_seed

Schedule = Literal["constant", "linear"]
Redraw = Literal["fresh", "shuffled"]

_CHOICES = {
    "target": get_args(ContractionPoint),
    "norm": ("l2", "squared"),
    "schedule": get_args(Schedule),
    "redraw_as": get_args(Redraw),
    "fresh_head": (False, True, "forgotten"),
}
_SMOOTHING = 0.8
"""Weight of the steps before in the variance that ends contraction: about five steps count."""


class OPC(UnlearnModule):
    """Contracts the forget set to one point while the retain set is trained on, and may then train on that alone.

    Args:
        backbone: the trained network.
        weights: the original weights.
        optimizer: optimizer factory: parameters → optimizer.
        lr_scheduler: scheduler factory: optimizer → scheduler; it steps once an epoch.
        contract: where to contract: ``logits`` (the paper), ``features``, ``both``, ``stages`` (all of them), or a list
            of stage names.
        target: the point: ``origin`` (the paper); ``retain_mean``, the retain samples' mean in the same batch;
            ``random_point``, a fixed point of norm 1 in the positive orthant, which a ReLU can reach; or ``uniform``,
            any point with all coordinates equal, for logits the uniform softmax.
        norm: ``l2`` (the paper) or ``squared``.
        weight: λ ≥ 0, or λ of each place by its name; a place that is not named has 1.
        schedule: of λ: ``constant``, or ``linear``, falling to 0 over the epochs before ``release``, also where
            ``stop_at`` ends contraction sooner; it needs ``max_epochs``.
        freeze_head: leave the head as it was, so that the encoder has to forget.
        distill: weight ≥ 0 of a retain term KL_T(original ‖ unlearned), without the forgotten classes.
        temperature: T > 0 of that term.
        release: how many of the last epochs train on the retain set alone, without contraction.
        stop_at: contraction ends early, and release begins, when the variance of the forget samples in a batch has
            fallen to this share of what it was, in (0, 1), at every place. If it never falls so far, contraction ends
            with a warning: where ``release`` says, or, with ``release`` 0, after half of the steps. None contracts to
            the end. Contraction of stages that goes on too long collapses a network.
        blend: when release begins, share in [0, 1] of fresh values that kernels and weight matrices, with the head's,
            are mixed with.
        redraw: when release begins, share in [0, 1] of the entries of each kernel and weight matrix that is replaced.
        redraw_as: by what: ``fresh`` values, or, ``shuffled``, each other's in a random order.
        fresh_head: when release begins, draw the head anew as a whole, or the rows of the classes of which nothing is
            retained (``forgotten``). A head that is not drawn anew still tells these classes apart if only they are
            allowed as answers.
        release_distill: the weight of distillation during release; None is ``distill``.

    Raises:
        UsageError: for an unknown place or choice, a number out of range, ``blend``, ``redraw`` or ``fresh_head``
            without ``release`` or ``stop_at``, or a part that must learn and is frozen; before training, if ``release``
            is not below ``max_epochs``, or there is no ``max_epochs`` where ``release``, ``stop_at`` or ``linear``
            needs it.
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
        weight: float | dict[str, float] = 1.0,
        schedule: Schedule = "constant",
        freeze_head: bool = False,
        distill: float = 0.0,
        temperature: float = 2.0,
        release: int = 0,
        stop_at: float | None = None,
        blend: float = 0.0,
        redraw: float = 0.0,
        redraw_as: Redraw = "fresh",
        fresh_head: bool | Literal["forgotten"] = False,
        release_distill: float | None = None,
    ) -> None:
        super().__init__(backbone, weights, optimizer, lr_scheduler)
        check_at_least("temperature", temperature, 0, strict=True)
        for name, least in {"distill": distill, "release": release, "release_distill": release_distill or 0}.items():
            check_at_least(name, least, 0)
        for name, share in {"blend": blend, "redraw": redraw}.items():
            check_fraction(name, share, zero=True, one=True)
        if stop_at is not None:
            check_fraction("stop_at", stop_at)
        _check_choices(target=target, norm=norm, schedule=schedule, redraw_as=redraw_as, fresh_head=fresh_head)
        self.taps = tap_names(contract, backbone.stages)
        self.weights = weights_of(weight, self.taps)
        if freeze_head and not any(p.requires_grad for p in backbone.encoder.parameters()):
            raise UsageError("freeze_head leaves nothing to train: the encoder is frozen already")
        self.target, self.norm, self.schedule, self.stop_at = target, norm, schedule, stop_at
        self.distill, self.temperature = distill, temperature
        self.release, self.blend, self.redraw, self.redraw_as = release, blend, redraw, redraw_as
        self.fresh_head = fresh_head
        self.release_distill = distill if release_distill is None else release_distill
        if freeze_head:
            backbone.head.requires_grad_(False)
        self._renewed = self._to_renew()
        if distill > 0 or self.release_distill > 0:
            self.teacher = self.original_copy()
        self._released = self._contracted = False
        self._variance: dict[str, tuple[float, float]] = {}

    def _to_renew(self) -> list[str]:
        """The names of the weights that are mixed or redrawn when release begins, if it can."""
        if (self.blend or self.redraw or self.fresh_head) and not self.release and self.stop_at is None:
            raise UsageError("blend, redraw and fresh_head change weights when release begins: set release or stop_at")
        if self.fresh_head and not all(parameter.requires_grad for parameter in self.backbone.head.parameters()):
            raise UsageError("fresh_head draws the head anew, but the head does not learn: leave one of the two out")
        if not self.blend and not self.redraw:
            return []
        return learning_weights(self.backbone, "blend and redraw change kernels and weight matrices")

    def order_in(self, epoch: int) -> str:
        """Pairs of batches, and the retain set alone after release."""
        return "retain" if self._released or self._contracted or epoch >= self._contraction_epochs() else self.order

    def saved_state(self) -> dict[str, Any]:
        """Whether release has begun or is to begin, and how far contraction went."""
        known = {"released": self._released, "contracted": self._contracted, "variance": self._variance}
        return known if any(known.values()) else {}

    def load_saved_state(self, state: dict[str, Any]) -> None:
        """Takes it up."""
        self._released, self._contracted = state.get("released", False), state.get("contracted", False)
        self._variance = state.get("variance", {})

    def check_data(self, data: UnlearnData) -> None:
        """Refuses a run in which no epoch is left for contraction."""
        if self._contraction_epochs() <= 0:
            epochs = self.trainer.max_epochs
            raise UsageError(f"release is {self.release}, but must be below trainer.max_epochs, {epochs}")

    def on_train_start(self) -> None:
        """Begins anew in a further fit of the same module."""
        if self.trainer.global_step == 0:
            self.load_saved_state({})

    def on_train_batch_start(self, batch: dict[str, Labelled], batch_idx: int) -> None:
        """Begins release: in the first epoch of it, or at the step after contraction went as far as it should."""
        if not self._released and (self._contracted or "forget" not in batch):
            self._released = True
            weights = [self.backbone.get_parameter(name) for name in self._renewed]
            draw = generator(run_seed(), "release")
            renew(weights, self.blend, self.redraw, draw, shuffled=self.redraw_as == "shuffled")
            rows = self.data.split.forgotten_classes if self.fresh_head == "forgotten" else None
            if self.fresh_head and (rows is None or rows):
                weights += list(self.backbone.head.parameters())
                renew_head(self.backbone.head, draw, rows)
            for optimizer in self.trainer.optimizers:
                for each in weights:
                    optimizer.state.pop(each, None)  # momentum of weights that are gone
        if self._released:
            batch.pop("forget", None)  # of an epoch in which contraction ended early: not trained on, and not counted

    def training_step(self, batch: dict[str, Labelled], batch_idx: int) -> Tensor:
        """Cross-entropy (and distillation) on retain, and until release contraction on forget."""
        images, labels = batch["retain"]
        if self._released:
            logits = self(images)
            loss = cross_entropy(logits, labels)
            self.log("train/retain_loss", loss, batch_size=len(labels))
            return loss + self._distillation(images, logits, self.release_distill)
        taps = self.backbone.taps(torch.cat([images, batch["forget"][0]]), ["logits", "features", *self.taps])
        retain = {name: value[: len(images)] for name, value in taps.items()}
        forget = {name: value[len(images) :] for name, value in taps.items()}
        loss = cross_entropy(retain["logits"], labels)
        self.log("train/retain_loss", loss, batch_size=len(labels))
        each = {name: self._contraction(forget[name], retain[name]) for name in self.taps}
        self.log("train/contraction", torch.stack(list(each.values())).sum(), batch_size=len(labels))
        factor = self._factor()
        loss = loss + torch.stack([factor * self.weights[name] * value for name, value in each.items()]).sum()
        loss = loss + self._distillation(images, retain["logits"], self.distill)
        if self.stop_at is not None:
            self._watch({name: forget[name] for name in self.taps}, batch_idx)
        if self.trainer.is_last_batch:
            self._log_depth({"forget": forget, "retain": retain})
        return loss

    def _contraction_epochs(self) -> float:
        """How many epochs contract, unless contraction ends early."""
        if not self.release and self.stop_at is None:
            return math.inf
        epochs = planned_epochs(self, "release follows contraction")
        return epochs - self.release if self.release else epochs / 2

    def _factor(self) -> float:
        """What λ is multiplied by in this epoch."""
        if self.schedule == "constant":
            return 1.0
        epochs = planned_epochs(self, "λ falls") - self.release
        return linear_decay(1.0, self.trainer.current_epoch, epochs)

    def _distillation(self, images: Tensor, logits: Tensor, weight: float) -> Tensor | float:
        if self.teacher is None or weight == 0:
            return 0.0
        with torch.no_grad():
            taught = self.teacher(images)
        gone = list(self.data.split.forgotten_classes)
        return weight * distillation_loss(logits, taught, self.temperature, gone)

    @torch.no_grad()
    def _watch(self, forget: Mapping[str, Tensor], batch_idx: int) -> None:
        """Follows the variance of the forget samples, and ends contraction when it has gone far or long enough."""
        assert self.stop_at is not None
        own = torch.stack([value.float().var(0, correction=0).mean() for value in forget.values()])
        for name, now in zip(forget, self.trainer.strategy.reduce(own, reduce_op="mean").tolist(), strict=True):
            first, before = self._variance.get(name, (now, now))
            self._variance[name] = first, _SMOOTHING * before + (1 - _SMOOTHING) * now
        shares = {name: now / first if first else math.inf for name, (first, now) in self._variance.items() if now}
        left = {name: share for name, share in shares.items() if not share <= self.stop_at}
        epochs = self.current_epoch + (batch_idx + 1) / self.trainer.num_training_batches
        self._contracted = not left or epochs >= self._contraction_epochs()
        if left and self._contracted:
            place = max(left, key=lambda name: left[name])
            rank_zero_warn(
                f"contraction ended before stop_at: the variance of the forget samples at {place} is {left[place]:.2g} "
                f"of what it was, not {self.stop_at:g}; with a higher lr or weight, or more epochs, it falls further"
            )

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


def _check_choices(**choices: str | bool) -> None:
    for name, value in choices.items():
        if value not in _CHOICES[name]:
            raise unknown(name, value, _CHOICES[name])


def tap_names(contract: str | list[str], stages: tuple[str, ...]) -> list[str]:
    """The places to contract, by name.

    Raises:
        UsageError: if a name is not ``logits``, ``features``, ``both``, ``stages`` or a stage of the backbone, or there
            is none.
    """
    several = {"both": ["logits", "features"], "stages": list(stages)}
    names = several.get(contract, [contract]) if isinstance(contract, str) else contract
    allowed = ("logits", "features", *stages)
    for name in names:
        if name not in allowed:
            raise unknown("place to contract", name, (*allowed, "both", "stages"))
    if not names:
        raise UsageError(f"contract is {contract!r}: it must name at least one place that the network has")
    return list(names)


def weights_of(weight: float | dict[str, float], places: list[str]) -> dict[str, float]:
    """λ of each place.

    Raises:
        UsageError: for a λ below 0, or one of a place that is not contracted.
    """
    given = weight if isinstance(weight, dict) else dict.fromkeys(places, weight)
    for name, value in given.items():
        if name not in places:
            raise unknown("place with a weight", name, places)
        check_at_least("weight" if given is not weight else f"weight.{name}", value, 0)
    return {name: given.get(name, 1.0) for name in places}
