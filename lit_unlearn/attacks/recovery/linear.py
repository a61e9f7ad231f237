"""Linear recovery (OPC, arXiv 2507.07754): can linear algebra recover the forgotten classes?

Threat model. The attacker holds the unlearned model and a calibration set S. For head recovery they need labels of S;
for feature mapping they hold the original model, need no labels, and may lack every forget sample
(``calibration: retain``).

    FM   W = argmin Σ_S ‖W f(x) − f0(x)‖² + ridge,   prediction g0(W f(x))
    HR   V = argmin Σ_S ‖V f(x) − onehot(y)‖² + ridge,   prediction argmax V f(x)

with f, f0 the unlearned and original features and g0 the original head. HR onto g0's logits is FM by algebra, offered
for those who hold only the original's answers. Both fit in closed form from streaming float64 moments. On raw features,
as in the paper, neither is strong against a model that merely shrinks features: a ridge sees a direction of small
variance last. So f may be normalised first, which the paper does not do; f0 never is, because g0 reads it.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.recovery.base import (
    Calibration,
    Layers,
    Lens,
    Normalisation,
    Readout,
    Recovery,
    check_normalise,
)
from lit_unlearn.attacks.splits import HALVES
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import check_at_least, unknown
from lit_unlearn.metrics.normal_equations import LinearMap, NormalEquations, WideLeastSquares

WIDE = 4096
"""Features up to this width are fitted from their sums, whatever the number of samples."""


class LinearRecovery(Recovery):
    """Fits a linear map from unlearned features to a goal on a calibration set, and scores what it predicts.

    Args:
        name: metric name prefix.
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`Recovery`.
        ridge: penalty relative to the mean variance of the features, ≥ 0.
        bias: whether the map has a free intercept.
        normalise: what is done to the features first. ``raw``: nothing; ``standard``: mean 0 and variance 1 in each
            dimension; ``l2``: each sample to length 1; ``gated``: if samples come in two groups of length, the short
            group is brought to the length of the other, see :class:`~lit_unlearn.attacks.recovery.scaling.NormGate`.
        layers: ``features``, or ``stages`` for a map from each, see :class:`Recovery`.

    Attributes:
        is_ridge: whether it solves a ridge regression, and needs no sums of its own.
    """

    is_ridge: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        calibration: Calibration | None,
        ridge: float,
        bias: bool,
        normalise: Normalisation,
        layers: Layers,
    ) -> None:
        super().__init__(name, calibration, layers)
        check_at_least("ridge", ridge, 0)
        check_normalise(normalise)
        self.ridge, self.bias, self.normalise = ridge, bias, normalise

    @abstractmethod
    def width(self, target: Target) -> int:
        """The width k of what the map is fitted to."""

    @abstractmethod
    def goal(self, target: Target, batch: Encoded, original: Encoded | None) -> Tensor:
        """What the map is fitted to, (B, k)."""

    @abstractmethod
    def logits(self, target: Target, mapped: Tensor) -> Tensor:
        """What a mapped batch (B, k) predicts, (B, C)."""

    def lenses(self, target: Target) -> Mapping[str, Lens]:
        """What the map is fitted from, by the name of the readout."""
        return self.normalised(target, self.views(target), self.normalise)

    def solve(self, moments: NormalEquations) -> LinearMap:
        """The map, from the sums over the calibration set of all ranks."""
        return moments.solve(self.ridge, self.bias)

    def moments(self, target: Target, width: int) -> NormalEquations | WideLeastSquares:
        """What collects features of a width; the samples themselves where they are wide and fewer than that."""
        parts = ((target.data.labels(split), part) for split, part in self.calibration_parts(target))
        count = sum(len(labels if part == "all" else labels[HALVES[part] :: 2]) for labels, part in parts)
        if self.is_ridge and width > max(WIDE, count):
            return WideLeastSquares()
        return NormalEquations(width, self.width(target))

    def readouts(self, target: Target) -> Mapping[str, Readout]:
        """One fitted map behind each lens."""
        lenses = self.lenses(target)
        moments = {name: self.moments(target, lens.width).to(target.device) for name, lens in lenses.items()}
        for batch, original in self.calibration_batches(target):
            goal = self.goal(target, batch, original)
            for name, lens in lenses.items():
                moments[name].update(lens.read(batch), goal)
        return {name: self._readout(target, lens, self._solved(moments.pop(name))) for name, lens in lenses.items()}

    def _solved(self, moments: NormalEquations | WideLeastSquares) -> LinearMap:
        if isinstance(moments, WideLeastSquares):
            return moments.solve(self.ridge, self.bias)
        return self.solve(moments)

    def _readout(self, target: Target, lens: Lens, solution: LinearMap) -> Readout:
        return lambda batch: self.logits(target, solution(lens.read(batch)))


class HeadRecovery(LinearRecovery):
    """Head recovery: a new head on the unlearned features, in closed form.

    Fitted on retained data alone, with a bias, it cannot name a forgotten class; feature mapping can.

    Args:
        target: ``labels``, or ``logits``: the original's, which with a bias is feature mapping by algebra.
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`LinearRecovery`.
        ridge: relative penalty ≥ 0.
        bias: whether the head has a free intercept.
        normalise: ``raw``, ``standard``, ``l2`` or ``gated``, see :class:`LinearRecovery`.
        layers: ``features`` or ``stages``, see :class:`Recovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, or a number out of range.

    Example:
        >>> Trainer(callbacks=[HeadRecovery(), FeatureMapping()])  # doctest: +SKIP
    """

    def __init__(
        self,
        target: Literal["labels", "logits"] = "labels",
        calibration: Calibration | None = None,
        ridge: float = 1e-6,
        bias: bool = True,
        normalise: Normalisation = "raw",
        layers: Layers = "features",
        name: str = "hr",
    ) -> None:
        super().__init__(name, calibration, ridge, bias, normalise, layers)
        if target not in ("labels", "logits"):
            raise unknown("target of head recovery", target, ("labels", "logits"))
        self.onto = target
        self.needs_original = target == "logits"

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
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`LinearRecovery`.
        ridge: relative penalty ≥ 0.
        bias: whether the map has a free intercept.
        normalise: ``raw``, ``standard``, ``l2`` or ``gated``, see :class:`LinearRecovery`.
        layers: ``features`` or ``stages``, see :class:`Recovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, or a number out of range.
    """

    needs_original = True

    def __init__(
        self,
        calibration: Calibration | None = None,
        ridge: float = 1e-6,
        bias: bool = True,
        normalise: Normalisation = "raw",
        layers: Layers = "features",
        name: str = "fm",
    ) -> None:
        super().__init__(name, calibration, ridge, bias, normalise, layers)

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


class StageRecovery(HeadRecovery):
    """Head recovery at every encoder stage: where along the depth of the network is the forgotten class still there?

    The stages' activations are averaged over positions. Numbers are ``<stage>/<split>_acc``.

    Args:
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`LinearRecovery`.
        ridge: relative penalty ≥ 0.
        bias: whether the heads have a free intercept.
        normalise: ``raw``, ``standard``, ``l2`` or ``gated``, see :class:`LinearRecovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, or a number out of range.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        ridge: float = 1e-6,
        bias: bool = True,
        normalise: Normalisation = "l2",
        name: str = "stages",
    ) -> None:
        super().__init__("labels", calibration, ridge, bias, normalise, "stages", name)
