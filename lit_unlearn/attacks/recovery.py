"""Training-free recovery (OPC, arXiv 2507.07754): can linear algebra bring the forgotten classes back?

Threat model. The attacker holds the unlearned model and a calibration set S. For head recovery he needs labels of S;
for feature mapping he holds the original model, needs no labels, and may lack every forget sample
(``calibration: retain``).

    FM   W = argmin Σ_S ‖W f(x) − f0(x)‖² + ridge,   prediction g0(W f(x))
    HR   V = argmin Σ_S ‖V f(x) − onehot(y)‖² + ridge,   prediction argmax V f(x)

with f, f0 the unlearned and original features and g0 the original head. HR onto g0's logits is FM by algebra, offered
for those who hold only the original's answers. Both fit in closed form from streaming float64 moments. Neither is
strong against a model that merely shrinks features: a ridge sees a direction of small variance last.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_unlearn.attacks.base import Attack
from lit_unlearn.attacks.target import Encoded, Target
from lit_unlearn.errors import UsageError, unknown
from lit_unlearn.metrics.normal_equations import NormalEquations

Calibration = Literal["train", "retain", "heldout"]

_CALIBRATION: dict[str, tuple[tuple[str, ...], str]] = {
    "train": (("forget", "retain"), "all"),
    "retain": (("retain",), "all"),
    "heldout": (("test_forget", "test_retain"), "calibration"),
}


class LinearRecovery(Attack):
    """Fits a linear map from unlearned features to a goal on a calibration set, and scores what it predicts.

    Args:
        name: how its numbers are called.
        calibration: ``train``, the whole training set; ``retain``, its retained part; ``heldout``, every other test
            sample, in which case test accuracies are of the remaining ones.
        ridge: penalty relative to the mean variance of the features, ≥ 0.
        bias: whether the map has a free intercept.
    """

    family: ClassVar[str] = "recovery"

    def __init__(self, name: str, calibration: Calibration, ridge: float, bias: bool) -> None:
        super().__init__(name)
        if calibration not in _CALIBRATION:
            raise unknown("calibration set", calibration, _CALIBRATION)
        if not ridge >= 0:
            raise UsageError(f"ridge is {ridge}, but must be at least 0")
        self.calibration, self.ridge, self.bias = calibration, ridge, bias

    @abstractmethod
    def width(self, target: Target) -> int:
        """The width k of what the map is fitted to."""

    @abstractmethod
    def goal(self, target: Target, batch: Encoded, original: Encoded | None) -> Tensor:
        """What the map is fitted to, (B, k)."""

    @abstractmethod
    def logits(self, target: Target, mapped: Tensor) -> Tensor:
        """What a mapped batch (B, k) predicts, (B, C)."""

    def run(self, target: Target) -> Mapping[str, float]:
        """Accuracy after recovery on every split, as ``<split>_acc``."""
        splits, part = _CALIBRATION[self.calibration]
        moments = NormalEquations(target.model.backbone.num_features, self.width(target)).to(target.device)
        for split in splits:
            if split in target.data.split_names:
                for batch, original in _pairs(target, split, part, self.needs_original):
                    moments.update(batch.features, self.goal(target, batch, original))
        solution = moments.solve(self.ridge, self.bias)
        test_part = "evaluation" if self.calibration == "heldout" else "all"
        return target.accuracies(lambda batch: self.logits(target, solution(batch.features)), test_part)


class HeadRecovery(LinearRecovery):
    """Head recovery: a new head on the unlearned features, in closed form.

    Fitted on retained data alone, with a bias, it cannot name a forgotten class; feature mapping can.

    Args:
        target: ``labels``, or ``logits``: the original's, which with a bias is feature mapping by algebra.
        calibration: ``train``, ``retain`` or ``heldout``, see :class:`LinearRecovery`.
        ridge: relative penalty ≥ 0.
        bias: whether the head has a free intercept.
        name: how its numbers are called.

    Example:
        >>> Trainer(callbacks=[HeadRecovery(), FeatureMapping()])  # doctest: +SKIP
    """

    def __init__(
        self,
        target: Literal["labels", "logits"] = "labels",
        calibration: Calibration = "train",
        ridge: float = 1e-6,
        bias: bool = True,
        name: str = "hr",
    ) -> None:
        super().__init__(name, calibration, ridge, bias)
        if target not in ("labels", "logits"):
            raise unknown("target of head recovery", target, ("labels", "logits"))
        self.onto = target
        self.needs_original = target == "logits"  # type: ignore[misc]

    def width(self, target: Target) -> int:
        """C."""
        return target.num_classes

    def goal(self, target: Target, batch: Encoded, original: Encoded | None) -> Tensor:
        """One-hot labels, or the original's logits."""
        if original is not None:
            return original.logits
        return one_hot(batch.labels, target.num_classes)

    def logits(self, target: Target, mapped: Tensor) -> Tensor:
        """The mapped batch is the prediction."""
        return mapped


class FeatureMapping(LinearRecovery):
    """Feature mapping: from unlearned features to the original's, read by the original head.

    Args:
        calibration: ``train``, ``retain`` or ``heldout``, see :class:`LinearRecovery`.
        ridge: relative penalty ≥ 0.
        bias: whether the map has a free intercept.
        name: how its numbers are called.
    """

    needs_original = True

    def __init__(
        self, calibration: Calibration = "train", ridge: float = 1e-6, bias: bool = True, name: str = "fm"
    ) -> None:
        super().__init__(name, calibration, ridge, bias)

    def width(self, target: Target) -> int:
        """The original's d."""
        assert target.original is not None
        return target.original.backbone.num_features

    def goal(self, target: Target, batch: Encoded, original: Encoded | None) -> Tensor:
        """The original's features."""
        assert original is not None
        return original.features

    @torch.no_grad()
    def logits(self, target: Target, mapped: Tensor) -> Tensor:
        """What the original head makes of the mapped features."""
        assert target.original is not None
        head = target.original.backbone.head
        logits: Tensor = head(mapped.to(next(head.parameters()).dtype))
        return logits


def _pairs(target: Target, split: str, part: str, both: bool) -> Iterator[tuple[Encoded, Encoded | None]]:
    model = target.model.batches(split, part)
    if both and target.original is target.model:
        yield from ((batch, batch) for batch in model)
    elif both and target.original is not None:
        yield from zip(model, target.original.batches(split, part), strict=True)
    else:
        yield from ((batch, None) for batch in model)
