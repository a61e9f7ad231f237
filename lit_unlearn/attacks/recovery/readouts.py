"""Recovery by readouts of other kinds than a regression: class means, neighbours, a kernel, a probe.

Threat model. As for head recovery: the unlearned model and a labelled calibration set; no original. All but the probe
among forgotten classes answer the full question, which of all C classes an image has.

    NearestMean          argmin_c ‖f(x) − μ_c‖
    LinearDiscriminant   argmax_c (x − μ)ᵀ S⁻¹ m_c − m_cᵀ S⁻¹ m_c / 2 + log π_c     S: covariance within classes
    KNNRecovery          the most frequent class of the k calibration samples of largest cosine to f(x)
    CapacityRecovery     ridge regression on random Fourier features of f(x): length 1, then standardised
    ForgetProbe          logistic regression among the forgotten classes alone

On handwritten digits the ridge on random features recovers as much as a multi-layer perceptron from the same normalised
and standardised features, or more, from every model tried; it is in closed form and streams, so it is used here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lit_unlearn.attacks.encoded import Encoded
from lit_unlearn.attacks.images import sum_over_ranks
from lit_unlearn.attacks.recovery.base import Calibration, Layers, Lens, Normalisation, Readout, Recovery
from lit_unlearn.attacks.recovery.discriminants import linear_discriminant, nearest_mean
from lit_unlearn.attacks.recovery.linear import HeadRecovery
from lit_unlearn.attacks.recovery.random_features import RandomFeatures
from lit_unlearn.attacks.recovery.reservoir import Reservoir
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import UsageError, check_at_least
from lit_unlearn.metrics.normal_equations import LinearMap, NormalEquations
from lit_unlearn.results import AttackResult

_QUERIES = 1024  # at once, so that the matrix of cosines stays below _QUERIES × limit


class NearestMean(HeadRecovery):
    """Names the class whose mean feature is nearest.

    Args:
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`Recovery`.
        normalise: ``raw``, ``standard``, ``l2`` or ``gated``, see :class:`LinearRecovery`.
        layers: ``features`` or ``stages``, see :class:`Recovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, or a number out of range.
    """

    is_ridge = False

    def __init__(
        self,
        calibration: Calibration | None = None,
        normalise: Normalisation = "l2",
        layers: Layers = "features",
        name: str = "nearest_mean",
    ) -> None:
        super().__init__("labels", calibration, normalise=normalise, layers=layers, name=name)

    def solve(self, moments: NormalEquations) -> LinearMap:
        """Distances to the class means."""
        return nearest_mean(moments.compute())


class LinearDiscriminant(HeadRecovery):
    """Linear discriminant analysis (Fisher).

    Args:
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`Recovery`.
        ridge: added to the covariance within classes, relative to its mean eigenvalue, ≥ 0.
        normalise: ``raw``, ``standard``, ``l2`` or ``gated``, see :class:`LinearRecovery`.
        layers: ``features`` or ``stages``, see :class:`Recovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, or a number out of range.
    """

    is_ridge = False

    def __init__(
        self,
        calibration: Calibration | None = None,
        ridge: float = 1e-6,
        normalise: Normalisation = "l2",
        layers: Layers = "features",
        name: str = "lda",
    ) -> None:
        super().__init__("labels", calibration, ridge, normalise=normalise, layers=layers, name=name)

    def solve(self, moments: NormalEquations) -> LinearMap:
        """Linear discriminants."""
        return linear_discriminant(moments.compute(), self.ridge)


class CapacityRecovery(HeadRecovery):
    """A readout with capacity: ridge regression on random Fourier features, that is of a Gaussian kernel.

    The moments take D² numbers for each layer read, whatever the number of samples.

    Args:
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`Recovery`.
        ridge: penalty relative to the mean variance of a random feature, ≥ 0.
        dimensions: D, how many random features.
        seed: of their draw.
        layers: ``features`` or ``stages``, see :class:`Recovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, or a number out of range.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        ridge: float = 0.1,
        dimensions: int = 1024,
        seed: int = 0,
        layers: Layers = "features",
        name: str = "capacity",
    ) -> None:
        super().__init__("labels", calibration, ridge, normalise="standard", layers=layers, name=name)
        check_at_least("dimensions", dimensions, 1)
        self.dimensions, self.seed = dimensions, seed

    def lenses(self, target: Target) -> Mapping[str, Lens]:
        """Features at length 1, standardised, lifted."""
        unit = self.normalised(target, self.views(target), "l2")
        return {name: self._lifted(lens) for name, lens in self.normalised(target, unit, "standard").items()}

    def _lifted(self, lens: Lens) -> Lens:
        lift = RandomFeatures(lens.width, self.dimensions, self.seed)
        return Lens(lambda batch: lift(lens.read(batch)), self.dimensions)


class KNNRecovery(Recovery):
    """The k nearest neighbours by cosine.

    Args:
        calibration: ``train``, ``retain``, ``heldout``, ``rest`` or None, see :class:`Recovery`.
        k: how many neighbours vote, ≥ 1; of equally frequent classes the first is named.
        limit: how many calibration samples to keep, drawn at random, ≥ 1.
        seed: of the draw.
        layers: ``features`` or ``stages``, see :class:`Recovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, or a number out of range.
    """

    def __init__(
        self,
        calibration: Calibration | None = None,
        k: int = 5,
        limit: int = 10_000,
        seed: int = 0,
        layers: Layers = "features",
        name: str = "knn",
    ) -> None:
        super().__init__(name, calibration, layers)
        for argument, value in (("k", k), ("limit", limit)):
            check_at_least(argument, value, 1)
        self.k, self.limit, self.seed = k, limit, seed

    def readouts(self, target: Target) -> Mapping[str, Readout]:
        """Shares of the votes."""
        lenses = self.normalised(target, self.views(target), "l2")
        kept = {name: Reservoir(lens.width, self.limit, self.seed).to(target.device) for name, lens in lenses.items()}
        before = torch.zeros((), dtype=torch.int64, device=target.device)
        for split, part in self.calibration_parts(target):
            count = torch.zeros_like(before)
            for index, batch in target.model.batches_with_index(split, part):
                for name, lens in lenses.items():
                    kept[name].update(lens.read(batch), batch.labels, before + index)
                count += len(index)
            before += sum_over_ranks(count)
        return {
            name: self._electorate(lens, *kept[name].compute(), target.num_classes) for name, lens in lenses.items()
        }

    def _electorate(self, lens: Lens, bank: Tensor, labels: Tensor, classes: int) -> Readout:
        votes = one_hot(labels, classes).double()

        def elect(batch: Encoded) -> Tensor:
            queries = torch.split(lens.read(batch), _QUERIES)
            nearest = [(part @ bank.T).topk(min(self.k, len(bank))).indices for part in queries]
            return torch.cat([votes[indices].mean(1) for indices in nearest])

        return elect


class ForgetProbe(Recovery):
    """Logistic regression among the forgotten classes alone, from features at length 1, standardised among themselves.

    The attacker knows that an image is of a forgotten class and asks only which. That makes it the most sensitive
    probe, on Retrain too: read it beside Retrain's. Undefined for fewer than two forgotten
    classes in the calibration set, and for a forget set that is no class.

    Args:
        calibration: ``train``, the forget set; ``heldout`` or ``rest``, every other test sample of the forgotten
            classes; None as for :class:`Recovery`.
        penalty: weight of ‖w‖²/2 beside the sum of the losses, > 0.
        layers: ``features`` or ``stages``, see :class:`Recovery`.
        name: metric name prefix.

    Raises:
        UsageError: for an unknown option, calibration ``retain``, or a penalty that is not positive.
    """

    question = "within_forget_classes"
    needs_forget = True

    def __init__(
        self,
        calibration: Calibration | None = None,
        penalty: float = 1.0,
        layers: Layers = "features",
        name: str = "forget_probe",
    ) -> None:
        super().__init__(name, calibration, layers)
        check_at_least("penalty", penalty, 0, strict=True)
        if calibration == "retain":
            raise UsageError("calibration is 'retain', but a probe among forgotten classes needs samples of them")
        self.penalty = penalty

    def readouts(self, target: Target) -> Mapping[str, Readout]:
        """Log probabilities of the forgotten classes; none with fewer than two of them."""
        parts = [item for item in self.calibration_parts(target) if item[0] in ("forget", "test_forget")]
        if "test_forget" not in target.data.split_names or not parts:
            return {}
        ((split, part),) = parts
        whole = target.model.gather(split, part, what=[self.layers])
        if len(set(whole.labels.tolist())) < 2:
            return {}
        return {name: self._probe(lens, whole, target) for name, lens in self.views(target).items()}

    def _probe(self, lens: Lens, whole: Encoded, target: Target) -> Readout:
        labels = whole.labels.cpu().numpy()
        probe = _logistic(1 / self.penalty).fit(lens.read(whole).double().cpu().numpy(), labels)
        columns = torch.as_tensor(probe.classes_, device=target.device)

        def ask(batch: Encoded) -> Tensor:
            size = len(batch.labels), target.num_classes
            logits = torch.full(size, -math.inf, dtype=torch.float64, device=target.device)
            if not len(batch.labels):  # a rank's share of a part may be
                return logits
            answers = torch.from_numpy(probe.predict_log_proba(lens.read(batch).double().cpu().numpy()))
            return logits.index_copy_(1, columns, answers.to(target.device))

        return ask

    def scored_splits(self, target: Target) -> Sequence[str]:
        """The forgotten ones; retained images have no right answer here."""
        return [split for split in target.data.split_names if "forget" in split]

    def evaluate(self, target: Target) -> AttackResult:
        """Accuracy on the forgotten splits."""
        names = [f"{name}/{split}_acc" for name in self.views(target) for split in ("forget", "test_forget")]
        undefined = {name.lstrip("/"): math.nan for name in names}
        return AttackResult({**undefined, **super().evaluate(target).numbers})


def _logistic(inverse_penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    return make_pipeline(Normalizer(), StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=1000))
