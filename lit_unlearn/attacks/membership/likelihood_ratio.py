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
    """-log(1 - Φ((φ - median)/σ)): how rare so high a φ is among models that never saw the sample.

    The tail and not the density counts: a φ far below the references' is as improbable, and no sign of membership.

    Args:
        phi: log odds of the model under attack, (N,).
        out: log odds of k ≥ 2 models trained without the samples, (k, N).
        variance: ``fixed`` for one σ over all samples, ``per_sample`` for one each, which needs many references.

    Returns:
        Scores (N,), at least 0.

    Raises:
        UsageError: for an unknown variance, fewer than two references, or shapes that do not fit.
    """
    centre, spread = _gaussian(phi, out, variance)
    log_tail: Tensor = torch.special.log_ndtr((centre - phi.double()) / spread)
    return -log_tail


def lira_online(phi: Tensor, inside: Tensor, out: Tensor, variance: Variance = "fixed") -> Tensor:
    """The log likelihood ratio, log N(φ; median_in, σ_in²) - log N(φ; median_out, σ_out²).

    Args:
        phi: log odds of the model under attack, (N,).
        inside: of j ≥ 2 models that did see the samples, (j, N); for unlearning: saw them and unlearned them.
        out: of k ≥ 2 models that did not, (k, N).
        variance: as for :func:`lira_offline`.

    Returns:
        Scores (N,); above 0 where the sample looks seen.

    Raises:
        UsageError: as for :func:`lira_offline`.
    """
    return _log_density(phi, inside, variance) - _log_density(phi, out, variance)


def unlearned_lira(phi: Tensor, inside: Tensor, out: Tensor, variance: Variance = "fixed") -> tuple[Tensor, Tensor]:
    """U-LiRA (arXiv 2403.01218): was this model made by unlearning the samples, or without ever seeing them?

    The same samples are scored twice, in the model under attack and in a model that never saw them: each OUT model in
    turn, which is then left out of the references of both. So a model that is one more OUT model gets an AUC of .5 on
    average, whatever the samples are.

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
    x and z should be of the same classes: z on which the ratio is far from that of all x leaves every score 0 or 1.

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


def _log_density(phi: Tensor, references: Tensor, variance: Variance) -> Tensor:
    """Up to a constant."""
    centre, spread = _gaussian(phi, references, variance)
    return -((phi.double() - centre) / spread).square() / 2 - spread.log()


def _gaussian(phi: Tensor, references: Tensor, variance: Variance) -> tuple[Tensor, Tensor]:
    """Median and standard deviation of the references, each (N,)."""
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    _check(phi, references, 2)
    references = references.double()
    squares = references.var(0)
    spread = squares.mean().expand_as(squares) if variance == "fixed" else squares
    # Not torch.median, which takes the lower of two middle values.
    ordered, middle = references.sort(0).values, len(references) // 2
    return (ordered[middle] + ordered[~middle]) / 2, spread.sqrt().clamp(min=SMALLEST_SPREAD)


def _check(values: Tensor, references: Tensor, least: int) -> None:
    if references.ndim != 2 or references.shape[1:] != values.shape or len(references) < least:
        shapes = f"{tuple(values.shape)} and {tuple(references.shape)}"
        raise UsageError(
            f"values and references have shapes {shapes}: expected (N,) and (k, N) with k at least {least}"
        )
