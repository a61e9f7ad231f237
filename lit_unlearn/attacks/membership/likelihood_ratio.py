"""Membership by comparison with reference models: LiRA (arXiv 2112.03570) and offline RMIA (arXiv 2312.03262).

Both compare what one model makes of a sample with what reference models make of it, so that a sample that any model
finds easy gives nothing away. Scores are (N,) float64, higher for a member. φ is :func:`membership.margin`.
"""

from typing import Literal

import torch
from torch import Tensor

from lit_unlearn.errors import UsageError, check_at_least, check_fraction, unknown

Variance = Literal["fixed", "per_sample"]
VARIANCES = ("fixed", "per_sample")
SMALLEST_SPREAD = 1e-6
"""Keeps references that agree to the last bit from dividing by zero; log odds are of the order of 1 to 40."""


def lira_offline(phi: Tensor, out: Tensor, variance: Variance = "fixed") -> Tensor:
    """(φ - median)/σ: how high φ is among models that never saw the sample.

    The paper's offline score, 1 - Φ of this, orders samples the same, but rounds to one value some 38 σ below the
    references. The tail and not the density counts, which the authors' code has (mi_lira_2021/plot.py:132 in
    tensorflow/privacy): a φ far below the references' is as improbable, and no sign of membership.

    Args:
        phi: log odds of the model under attack, (N,).
        out: log odds of k ≥ 2 models trained without the samples, (k, N).
        variance: ``fixed`` for one σ over all samples, so hand over members and others together; ``per_sample`` for one
            each, which needs many references.

    Returns:
        Scores (N,), 0 at the references' median.

    Raises:
        UsageError: for an unknown variance, fewer than two references, or shapes that do not fit.
    """
    _check(phi, out, 2)
    return (phi.double() - median(out)) / _spread(_squares(out), variance)


def lira_online(phi: Tensor, inside: Tensor, out: Tensor, variance: Variance = "fixed") -> Tensor:
    """The log likelihood ratio, log N(φ; median_in, σ_in²) - log N(φ; median_out, σ_out²).

    A fixed σ is that of both sides together, around each sample's own centre. The authors' code fixes one σ for each
    side, over all samples (mi_lira_2021/plot.py:86 in tensorflow/privacy): with it, a φ far beyond both medians would
    speak for the side with the larger one.

    Args:
        phi: log odds of the model under attack, (N,).
        inside: of j ≥ 2 models that did see the samples, (j, N); for unlearning: saw them and unlearned them.
        out: of k ≥ 2 models that did not, (k, N).
        variance: ``fixed`` for one σ over all samples of both sides, ``per_sample`` for two each.

    Returns:
        Scores (N,); above 0 where the sample looks seen.

    Raises:
        UsageError: as for :func:`lira_offline`.
    """
    _check(phi, inside, 2)
    _check(phi, out, 2)
    squares = _squares(inside), _squares(out)
    if variance == "fixed":
        j, k = len(inside) - 1, len(out) - 1
        squares = ((j * squares[0] + k * squares[1]) / (j + k),) * 2
    sides = zip((inside, out), squares, strict=True)
    densities = [_log_density(phi, median(side), _spread(each, variance)) for side, each in sides]
    return densities[0] - densities[1]


def unlearned_lira(phi: Tensor, inside: Tensor, out: Tensor, variance: Variance = "fixed") -> tuple[Tensor, Tensor]:
    """U-LiRA (arXiv 2403.01218): was this model made by unlearning the samples, or without ever seeing them?

    The same samples are scored twice, in the model under attack and in a model that never saw them: each OUT model in
    turn, which is then left out of the references of both. So a model that is one more OUT model gets an AUC of .5 on
    average, whatever the samples are, if both sides of each AUC have the same references: average over the rows.

    Args:
        phi: log odds of the model under attack, (N,).
        inside: of j ≥ 2 models that unlearned the samples, (j, N).
        out: of k ≥ 3 models trained without them, (k, N).
        variance: as for :func:`lira_offline`.

    Returns:
        :func:`lira_online` of the model under attack and of the models left out, each (k, N).

    Raises:
        UsageError: as for :func:`lira_offline`.
    """
    _check(phi, out, 3)
    rests = [torch.cat([out[:i], out[i + 1 :]]) for i in range(len(out))]
    asked = [lira_online(phi, inside, rest, variance) for rest in rests]
    never = [lira_online(each, inside, rest, variance) for each, rest in zip(out, rests, strict=True)]
    return torch.stack(asked), torch.stack(never)


def rmia_offline(
    p: Tensor, out: Tensor, p_population: Tensor, out_population: Tensor, a: float = 0.3, gamma: float = 1.0
) -> Tensor:
    """Pr_z[ratio(x)/ratio(z) ≥ γ] with ratio(x) = p(x) / ((1 + a)/2 · mean_out(x) + (1 - a)/2).

    The denominator stands for p(x) averaged over models with and without x; the same line through p_out = 1 serves z.
    x and z should be of the same classes: z on which the ratio is far from that of all x leaves every score 0 or 1. The
    scores of one model rise with ratio(x), whatever γ is: it moves a threshold, and not who is above whom.

    Args:
        p: confidence p_y of the model under attack, (N,).
        out: of k ≥ 1 models trained without the samples, (k, N).
        p_population: confidence of the model under attack in samples that nobody trained on, (M,), M ≥ 1.
        out_population: of the reference models in these, (k, M).
        a: between 0 (a member is always sure) and 1 (members are as others).
        gamma: how much larger than z's the ratio has to be, above 0.

    Returns:
        Scores (N,) in [0, 1], multiples of 1/M.

    Raises:
        UsageError: for a number out of range, no population, no reference, or shapes that do not fit.
    """
    check_fraction("a", a, zero=True, one=True)
    check_at_least("gamma", gamma, 0, strict=True)
    if not len(p_population):
        raise UsageError("RMIA compares with a population, which is empty")
    ratio, population = _ratio(p, out, a), _ratio(p_population, out_population, a).sort().values
    return torch.searchsorted(population, ratio / gamma, right=True).double() / len(population)


def _ratio(p: Tensor, out: Tensor, a: float) -> Tensor:
    _check(p, out, 1)
    return p.double() / ((1 + a) / 2 * out.double().mean(0) + (1 - a) / 2).clamp(min=torch.finfo(torch.float64).tiny)


def rmia_ordered(
    p: Tensor, out: Tensor, p_population: Tensor, out_population: Tensor, a: float = 0.3, gamma: float = 1.0
) -> Tensor:
    """Scores in the order of :func:`rmia_offline`, where samples of equal score lie in the order of their ratios.

    All that exceed every z score 1 there: without an order among them no threshold has few false alarms.

    Args:
        p: as for :func:`rmia_offline`.
        out: as there.
        p_population: as there.
        out_population: as there.
        a: as there.
        gamma: as there.

    Returns:
        (N,), at least the score and less than 1/M above it.

    Raises:
        UsageError: as for :func:`rmia_offline`.
    """
    scores = rmia_offline(p, out, p_population, out_population, a, gamma)
    ratio = _ratio(p, out, a)
    place = torch.searchsorted(ratio.sort().values, ratio).double()
    return scores + place / (len(place) * len(p_population))


def _log_density(phi: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """Up to a constant."""
    return -((phi.double() - centre) / spread).square() / 2 - spread.log()


def _squares(references: Tensor) -> Tensor:
    """Variance of each sample's references, (N,)."""
    return references.double().var(0)


def _spread(squares: Tensor, variance: Variance) -> Tensor:
    """Standard deviations (N,) of variances (N,): of each sample, or one of all."""
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    chosen = squares.mean().expand_as(squares) if variance == "fixed" else squares
    return chosen.sqrt().clamp(min=SMALLEST_SPREAD)


def median(references: Tensor) -> Tensor:
    """Of k values of each of N samples (k, N), float64 (N,). Not torch.median, which takes the lower middle value."""
    ordered, middle = references.double().sort(0).values, len(references) // 2
    return (ordered[middle] + ordered[~middle]) / 2


def _check(values: Tensor, references: Tensor, least: int) -> None:
    if references.ndim != 2 or references.shape[1:] != values.shape or len(references) < least:
        shapes = f"{tuple(values.shape)} and {tuple(references.shape)}"
        raise UsageError(
            f"values and references have shapes {shapes}: expected (N,) and (k, N) with k at least {least}"
        )
