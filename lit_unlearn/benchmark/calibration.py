"""How often the verdict is wrong on these rows: on Retrains, which have nothing to leak, and on models that have.

    null      a Retrain judged beside another, over all ordered pairs, and beside all others, and a RetrainShort, which
              never saw the forget set either and was trained otherwise, beside all Retrains: how often it is said to
              leak, not to have forgotten, or to be ruined
    positive  Original and every method, one model at a time beside all Retrains: how often it is said so
    power     an excess that is added to one attack on k Retrains, which the others are compared with: how often it is
              said to leak. For IDI and masked answers the margins are five times as wide, but the excess is not

An excess is added to one attack at a time, since an attacker needs only one, and only where a number has room for it.

The null of Retrains is no evidence by itself where the known deviations come from the same Retrains: so few numbers
with at most that deviation are never said to leak. It shows what is wrong where it is not 0. How often the verdict errs
on models that were not used to make it is measured by simulation (docs/verdict.md).
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lit_unlearn.benchmark.summary import Summary
from lit_unlearn.errors import UsageError
from lit_unlearn.reports.averages import one_a_model
from lit_unlearn.reports.comparisons import MARGINS, Comparison, Margins, compare
from lit_unlearn.reports.noise import deviations, known_deviation
from lit_unlearn.reports.numbers import UNITS
from lit_unlearn.reports.rows import NO_ATTACK, ORIGINAL, RETRAIN, Row
from lit_unlearn.reports.verdict import CONDEMNED, Level, judge_models, tests_of_mean

EXCESSES = (0.0, 0.01, 0.02, 0.05, 0.10)
SEEDS = (1, 3, 5)
_LEAST = 3
_MOST_SUBSETS = 56
_INNOCENT = ("RetrainShort",)
"""Methods whose models saw neither the forget set nor the original."""


@dataclass(frozen=True)
class Rate:
    """How often something was said.

    Attributes:
        what: of which models.
        said: how often.
        of: out of how many.
        levels: how often each verdict was given.
        models: how many models there are, which may be fewer than judgements.
    """

    what: str
    said: int
    of: int
    levels: Counter[Level]
    models: int

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Between what the true rate is, 95 % on each side (Clopper and Pearson); None where models come again."""
        from scipy.special import betaincinv

        if self.models < self.of:
            return None
        missed = self.of - self.said
        low = float(betaincinv(self.said, missed + 1, 0.05)) if self.said else 0.0
        return low, float(betaincinv(self.said + 1, missed, 0.95)) if missed else 1.0

    def __str__(self) -> str:
        """A line with the share, its bounds, and how often each verdict was given."""
        levels = ", ".join(f"{name} {count}" for name, count in self.levels.most_common())
        low, high = self.bounds or (0.0, 0.0)
        doubt = f"{100 * low:.0f} to {100 * high:.0f} %" if self.bounds else f"of {self.models} models"
        return f"{self.what}: {self.said} of {self.of} ({100 * self.said / self.of:.0f} %; {doubt}): {levels}"


@dataclass(frozen=True)
class Calibration:
    """The error rates of the verdict on one scenario.

    Attributes:
        title: data and scenario.
        retrains: how many Retrains there are.
        null: rates at which models that never saw the forget set are said to leak: they should be at most 5 %.
        positive: rates at which Original and the methods are said to.
        power: (seeds of the method, excess) → share that is said to leak.
        deviations: beginning of an attack's name → largest deviation of its numbers between these Retrains, and the one
            that is known.
    """

    title: str
    retrains: int
    null: Sequence[Rate]
    positive: Sequence[Rate]
    power: dict[tuple[int, float], float]
    deviations: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        """All of it as text."""
        seeds = sorted({count for count, _ in self.power})
        lines = [f"{self.title}: calibration with {self.retrains} Retrains", "  Said to leak:"]
        lines += [f"    {rate}" for rate in (*self.null, *self.positive)]
        points = ", ".join(f"{100 * excess:g}" for excess in EXCESSES)
        lines.append(f"  Said to leak, with an excess in one attack of {points} points:")
        for count in seeds:
            shares = ", ".join(f"{100 * self.power[count, excess]:.0f} %" for excess in EXCESSES)
            lines.append(f"    {count} of the method, {self.retrains - count} Retrains: {shares}")
        lines.append("  Largest deviation between Retrains:")
        lines += [
            f"    {name or 'other attacks'}: {own:.4f} (known: {known:g})"
            for name, (own, known) in self.deviations.items()
        ]
        return "\n".join(lines)


def calibrate(summary: Summary, margins: Margins = MARGINS) -> Calibration:
    """The error rates of the verdict on the rows of one scenario.

    Args:
        summary: its table.
        margins: what counts as a difference.

    Raises:
        UsageError: if it has fewer than three Retrains.
    """
    models = {line.label: one_a_model([row for row in line.rows if row.status == "ok"]) for line in summary.lines}
    retrains, originals = models.pop(RETRAIN, []), models.get(ORIGINAL, [])
    if len(retrains) < _LEAST:
        raise UsageError(
            f"{summary.title}: calibration needs at least {_LEAST} Retrains, and there are {len(retrains)}: set "
            "seeds.references of the benchmark"
        )

    def judged(what: str, pairs: Iterable[tuple[Row, Sequence[Row]]], models: int) -> Rate:
        levels = Counter(judge_models([row], others, originals, margins).level for row, others in pairs)
        return Rate(what, sum(levels[level] for level in CONDEMNED), levels.total(), levels, models)

    alone = ((row, [other]) for row, other in itertools.permutations(retrains, 2))
    rest = ((row, [other for other in retrains if other is not row]) for row in retrains)
    count = len(retrains)
    null = [judged("Retrain beside another", alone, count), judged("Retrain beside all others", rest, count)]
    beside_all = {label: [(row, retrains) for row in rows] for label, rows in models.items() if rows}
    for label in _INNOCENT:
        if pairs := beside_all.pop(label, []):
            null.append(judged(f"{label} beside all", pairs, len(pairs)))
    positive = [judged(label, pairs, len(pairs)) for label, pairs in beside_all.items()]
    return Calibration(
        summary.title,
        len(retrains),
        null,
        positive,
        dict(_power(retrains, originals, margins)),
        {name: (own, known_deviation(name, retrains[0])) for name, own in deviations(retrains).items()},
    )


def _leaks_with(comparison: Comparison, excess: float) -> bool:
    """Whether it leaks where the number of the method is so much larger; one below Retrain first comes nearer."""
    difference = comparison.difference
    mean = abs(difference.mean - excess) if comparison.turned else difference.mean + excess
    return replace(comparison, difference=replace(difference, mean=mean)).leaks


def _power(
    retrains: Sequence[Row], originals: Sequence[Row], margins: Margins
) -> Iterator[tuple[tuple[int, float], float]]:
    """The share of choices of models and attack in which an excess in this attack is found."""
    draw = random.Random(0)
    for count in (count for count in SEEDS if count <= len(retrains) - 2):
        found: dict[float, list[bool]] = {excess: [] for excess in EXCESSES}
        choices = list(itertools.combinations(range(len(retrains)), count))
        for chosen in draw.sample(choices, min(_MOST_SUBSETS, len(choices))):
            ours = [retrains[place] for place in chosen]
            theirs = [row for place, row in enumerate(retrains) if place not in chosen]
            for comparison in compare(ours, theirs, originals, margins, tests_of_mean(count)):
                if comparison.attack != NO_ATTACK:
                    for excess in EXCESSES:
                        if comparison.forward + excess <= UNITS[comparison.unit].most:
                            found[excess].append(_leaks_with(comparison, excess))
        yield from (((count, excess), sum(said) / len(said)) for excess, said in found.items() if said)
