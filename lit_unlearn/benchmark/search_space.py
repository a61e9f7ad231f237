"""What is searched over for one method: its settings as axes, where they stand in a run, and points drawn on them."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_unlearn.benchmark.settings import look_up
from lit_unlearn.errors import UsageError, unknown

Values = dict[str, Any]
"""Name of a setting → its value."""

Ranges = Sequence[tuple[Any, ...]]
"""What a method declares, see ``SearchSpace`` in :mod:`lit_unlearn.methods.base`."""

EDGE = 0.05
"""Share of the logarithm of a range, at each end, that counts as its edge."""

_SCHEDULER = "model.init_args.lr_scheduler.init_args"
_PLACES = {
    "lr": "model.init_args.optimizer.init_args.lr",
    "lr_step_size": f"{_SCHEDULER}.step_size",
    "epochs": "trainer.max_epochs",
    "batch_size": "data.init_args.batch_size",
    "forget_batch_size": "data.init_args.forget_batch_size",
}
_NAMES = {place: name for name, place in _PLACES.items()}
_RATES = ("base_lr", "max_lr", "eta_min")
"""Rates of a scheduler that takes the optimizer's place: they keep their ratio to it."""

Side = Literal["low", "high"]


@dataclass(frozen=True)
class Range:
    """A setting that is searched evenly over its logarithm; of integers where both ends are.

    Attributes:
        name: of the setting.
        low: the lowest value.
        high: the highest value.
        limits: beyond which the range is not extended.
    """

    name: str
    low: float
    high: float
    limits: tuple[float, float] = (0.0, math.inf)

    def __contains__(self, value: Any) -> bool:
        """Whether it has the value."""
        return bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        """Such as ``lr 0.001–0.1``."""
        return f"{self.name} {self.low:g}–{self.high:g}"

    def distribution(self, optuna: Any) -> Any:
        """As Optuna's own."""
        kind = "IntDistribution" if self.whole else "FloatDistribution"
        return getattr(optuna.distributions, kind)(self.low, self.high, log=True)

    @property
    def whole(self) -> bool:
        """Whether its values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def code(self, value: Any) -> Any:
        """The value as Optuna sees it."""
        return value

    def value(self, coded: Any) -> Any:
        """The setting of a number of Optuna's: of two digits, or an integer."""
        return int(coded) if self.whole else two_digits(coded)

    def edge(self, value: float) -> Side | None:
        """The end that a value lies at, within 5 % of the logarithm of the range."""
        if value <= 0:
            return None
        near = EDGE * math.log(self.high / self.low)
        if math.log(value / self.low) <= near:
            return "low"
        return "high" if math.log(self.high / value) <= near else None

    def extended(self, side: Side) -> "Range":
        """The range with half its logarithm more at one end, within its limits."""
        factor = math.sqrt(self.high / self.low)
        lowest, highest = self.limits
        if side == "low":
            low = max(lowest, self.value(math.ceil(self.low / factor) if self.whole else self.low / factor))
            return replace(self, low=low) if 0 < low < self.low else self
        high = min(highest, self.value(self.high * factor))
        return replace(self, high=high) if high > self.high else self


@dataclass(frozen=True)
class Choice:
    """A setting with a few values, in their order."""

    name: str
    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        """Whether it is one of them."""
        return value in self.values

    def __str__(self) -> str:
        """Such as ``epochs 3, 6, 10``."""
        return f"{self.name} {', '.join(map(str, self.values))}"

    def distribution(self, optuna: Any) -> Any:
        """Optuna's own, of the place in their order, so that neighbours are near each other."""
        return optuna.distributions.IntDistribution(0, len(self.values) - 1)

    def code(self, value: Any) -> int:
        """The place of a value."""
        return self.values.index(value)

    def value(self, coded: int) -> Any:
        """The value in a place."""
        return self.values[coded]


Axis = Range | Choice


def axes_of(ranges: Ranges, epochs: float = math.inf) -> tuple[Axis, ...]:
    """The axes that a method declares.

    Args:
        ranges: what it declares.
        epochs: the most that are searched; the fewest declared always are.
    """
    axes = tuple(Choice(*entry) if len(entry) == 2 else Range(*entry) for entry in ranges)
    return tuple(_affordable(axis, epochs) if axis.name == "epochs" else axis for axis in axes)


def replaced(ranges: Ranges, own: Mapping[str, Sequence[Any]], name: str) -> Ranges:
    """What a method declares, with what is given in its place.

    Args:
        ranges: what it declares.
        own: setting → the two ends of a range, or the values of a choice; without any it is not searched.
        name: what is given, as the option is called.

    Raises:
        UsageError: for a setting that the method does not declare, or what is no range or choice of its kind.
    """
    names = [entry[0] for entry in ranges]
    for setting in own:
        if setting not in names:
            raise unknown(f"setting in {name}", setting, names)
    kept = [(entry, own.get(entry[0])) for entry in ranges]
    return [
        entry if values is None else _given(entry, values, f"{name}.{entry[0]}")
        for entry, values in kept
        if values is None or values
    ]


def _given(entry: tuple[Any, ...], values: Sequence[Any], name: str) -> tuple[Any, ...]:
    """What is searched in place of an entry that a method declares, of the same kind and with the same limits."""
    if len(entry) == 2:
        return entry[0], tuple(values)
    lowest, highest = entry[3] if len(entry) > 3 else (0, math.inf)
    fits = all(isinstance(value, int | float) and value > 0 and lowest <= value <= highest for value in values)
    if not fits or len(values) != 2 or values[0] >= values[1]:
        allowed = f"from {lowest:g} to {highest:g}" if len(entry) > 3 else "above 0"
        raise UsageError(f"{name} is {list(values)}, but must be two numbers, the lower first, {allowed}")
    return entry[0], *values, *entry[3:]


def applicable(axes: Sequence[Axis], settings: Mapping[str, Any]) -> tuple[Axis, ...]:
    """The axes without those of a scheduler that the settings of an experiment do not have."""
    return tuple(
        axis
        for axis in axes
        if not place_of(axis.name).startswith(_SCHEDULER) or look_up(settings, place_of(axis.name)) is not None
    )


def _affordable(axis: Axis, most: float) -> Axis:
    if isinstance(axis, Range):
        most = max(axis.low, most)
        return replace(axis, high=min(axis.high, most), limits=(axis.limits[0], min(axis.limits[1], most)))
    return replace(axis, values=tuple(value for value in axis.values if value <= max(most, min(axis.values))))


def two_digits(value: float) -> float:
    """A value rounded to two digits."""
    return float(f"{value:.2g}")


def own_values(settings: Mapping[str, Any], axes: Sequence[Axis]) -> Values:
    """The values that the settings of an experiment have; a setting that they leave open is left out.

    Where they name no size for batches of the forget set, it is that of all batches.
    """
    found = {axis.name: look_up(settings, place_of(axis.name)) for axis in axes}
    if found.get("forget_batch_size", "") is None:
        found["forget_batch_size"] = look_up(settings, place_of("batch_size"))
    return {name: value for name, value in found.items() if value is not None}


def variant_of(settings: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Dotted place → value of what a trial sets: the searched values, and what of the scheduler goes with them.

    A schedule over the epochs ends with them, milestones keep their share of them, and a scheduler's own rates keep
    their ratio to the optimizer's.
    """
    variant = {place_of(name): value for name, value in values.items()}
    options = look_up(settings, _SCHEDULER) or {}
    if "epochs" in values and options.get("T_max") == look_up(settings, _PLACES["epochs"]) is not None:
        variant[f"{_SCHEDULER}.T_max"] = values["epochs"]
    if "epochs" in values and "milestones" in options:
        share = values["epochs"] / (look_up(settings, _PLACES["epochs"]) or values["epochs"])
        variant[f"{_SCHEDULER}.milestones"] = [max(1, round(each * share)) for each in options["milestones"]]
    for name in _RATES if "lr" in values else ():
        if name in options:
            rate = options[name] * (values["lr"] / look_up(settings, _PLACES["lr"]))
            variant[f"{_SCHEDULER}.{name}"] = float(f"{rate:.4g}")
    return variant


def values_of(variant: Mapping[str, Any]) -> Values:
    """The searched values of a variant, by their names."""
    searched = {place: value for place, value in variant.items() if place in _NAMES or not place.startswith(_SCHEDULER)}
    return {_NAMES.get(place, place.rpartition(".")[2]): value for place, value in searched.items()}


def place_of(name: str) -> str:
    """Where a setting stands in the settings of a run, dotted."""
    return _PLACES.get(name, f"model.init_args.{name}")


def stratified(axes: Sequence[Axis], seed: int, count: int) -> list[Values]:
    """The first points of a scrambled Sobol sequence; the same for every method of as many settings.

    Raises:
        UsageError: if Optuna is not installed.
    """
    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler is marked as experimental, and wants a power of two points
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
        known = {axis.name: axis.distribution(optuna).low for axis in axes}  # it takes the names from a trial
        return _asked(optuna, sampler, axes, [(known, 0.0)], count)


def estimated(axes: Sequence[Axis], seed: int, tried: Sequence[tuple[Values, float]]) -> Values:
    """The point where an estimator expects the smallest score, after what was tried.

    A tried point outside the axes, as a method's own setting may be on other data, is left out.

    Raises:
        UsageError: if Optuna is not installed.
    """
    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
        known = [
            ({axis.name: axis.code(values[axis.name]) for axis in axes}, score)
            for values, score in tried
            if all(axis.name in values and values[axis.name] in axis for axis in axes)
        ]
        return _asked(optuna, sampler, axes, known, 1)[0]


def _asked(
    optuna: Any, sampler: Any, axes: Sequence[Axis], known: Sequence[tuple[Values, float]], count: int
) -> list[Values]:
    bounds = {axis.name: axis.distribution(optuna) for axis in axes}
    study = optuna.create_study(sampler=sampler)
    for point, score in known:
        study.add_trial(optuna.trial.create_trial(params=point, distributions=bounds, value=score))
    asked = [study.ask(bounds).params for _ in range(count)]
    return [{axis.name: axis.value(point[axis.name]) for axis in axes} for point in asked]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("lit-unlearn tune needs Optuna: pip install 'lit_unlearn[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
