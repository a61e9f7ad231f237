"""Which settings of a method a search tries: evenly over their ranges, or where earlier trials came near."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.quasirandom import SobolEngine

from lit_unlearn.errors import UsageError

Ranges = Sequence[tuple[str, float, float]]
"""Settings with the lowest and highest value of each; values are drawn evenly over their logarithm."""

Point = dict[str, float]
"""A value for each setting, by name, of two digits, so that what the log prints is what was run."""

WORST = 100.0
"""The gap in points of a trial that diverged: nothing can be farther from Retrain."""


def evenly(ranges: Ranges, count: int, seed: int) -> list[Point]:
    """The first points of a scrambled Sobol sequence; those of a smaller count are the first of a larger."""
    engine: Any = SobolEngine
    drawn = engine(len(ranges), scramble=True, seed=seed).draw(count).tolist() if count else []
    return [
        {name: _rounded(low * (high / low) ** share) for (name, low, high), share in zip(ranges, point, strict=True)}
        for point in drawn
    ]


def near_the_best(ranges: Ranges, tried: Iterable[tuple[Mapping[str, float], float]], seed: int) -> Point:
    """The point that Optuna's tree-structured Parzen estimator proposes; the same for the same trials and seed.

    Bergstra et al., "Algorithms for hyper-parameter optimization", 2011.

    Args:
        ranges: of the settings.
        tried: points and the gap of each; a point beyond the ranges, as a method's own setting may be, is left out.
        seed: of the proposal.

    Raises:
        UsageError: if Optuna is not installed.
    """
    optuna = _optuna()
    bounds = {name: optuna.distributions.FloatDistribution(low, high, log=True) for name, low, high in ranges}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
    for point, gap in tried:
        if all(low <= point[name] <= high for name, low, high in ranges):
            study.add_trial(optuna.trial.create_trial(params=dict(point), distributions=bounds, value=gap))
    return {name: _rounded(value) for name, value in study.ask(bounds).params.items()}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("tuning.sampler tpe needs Optuna: pip install 'lit_unlearn[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
