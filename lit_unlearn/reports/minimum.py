"""What must have been measured before a model may be said to be as Retrain."""

from collections.abc import Collection, Sequence

from lit_unlearn.reports.comparisons import Comparison
from lit_unlearn.reports.numbers import DETECTION, IDI, RELEARNING, RETAINED, forgets, numbers
from lit_unlearn.reports.rows import Row

RETRAINS_NEEDED = 5
"""Fewer Retrains say too little on how much Retrain itself varies: no model is as Retrain beside them."""

_READ = {
    "the worst case over readouts, normalised ones among them": ("recovery/worst",),
    "the readouts of earlier stages": ("recovery/worst/stages",),
}
_BOTH = {"relearning": (RELEARNING,), "detection": (DETECTION,)}
MINIMUM: dict[str, dict[str, tuple[str, ...]]] = {
    "classes": {**_READ, **_BOTH},
    "one class": {**_BOTH, "membership": ("membership/",), "the information in the stages": (IDI,)},
    "images": {**_READ, **_BOTH, "membership with reference models": ("membership/rmia", "membership/lira")},
}
"""The attacks without which no model is as Retrain, by what is forgotten: what it is → names that it may have."""


def missing(row: Row, run: Sequence[str], broken: Collection[str], bits: bool) -> list[str]:
    """What the minimum lacks, of attacks that were run on the models and on Retrains; broken ones show nothing.

    Args:
        row: one of the models.
        run: the attacks that were compared.
        broken: those of them that broke a network.
        bits: whether the information in the stages was measured on the models, on Retrains and on Originals.
    """
    told = [attack for attack in run if attack not in broken]
    lacking = {what: names for what, names in MINIMUM[forgets(row)].items() if not _has(told, names)}
    found = []
    for what, names in lacking.items():
        if _has(run, names):
            what = f"{what} that does not break the network"
        elif IDI in names and bits:
            what = f"{what}, of which Original has hardly more than Retrain here"
        found.append(what)
    return found


def unmeasured(ended: Sequence[Row], retrains: Sequence[Row], compared: Sequence[Comparison], needed: int) -> list[str]:
    """Attacks whose number some runs lack, or all but so many Retrains; and the retained accuracy, if a run lacks it.

    Runs and not models: of several seeds of an attack, the one that broke off may be the one that finds most.
    """
    of_runs, of_retrains = [set(numbers([row])) for row in ended], numbers(retrains)
    lacking = [key.attack for key in of_retrains if any(key not in known for known in of_runs)]
    seldom = [each.attack for each in compared if each.difference.theirs < needed]
    known = any(RETAINED in row.metrics for row in retrains)
    # The run that lacks it may be the one that is ruined.
    utility = [RETAINED] if known and any(RETAINED not in row.metrics for row in ended) else []
    return list(dict.fromkeys([*seldom, *lacking, *utility]))


def has_bits(rows: Sequence[Row]) -> bool:
    """Whether the information in the stages was measured on some of the rows."""
    return any(name.startswith(f"{IDI}/") and name.endswith("/bits") for row in rows for name in row.attacks)


def _has(attacks: Sequence[str], names: Sequence[str]) -> bool:
    """Whether one of the attacks has one of the names; a name with a slash at its end is the beginning of several."""
    return any(
        attack == name or (name.endswith("/") and attack.startswith(name)) for attack in attacks for name in names
    )
