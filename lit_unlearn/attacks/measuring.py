"""The measurement of one model: its accuracy on every split, and what each attack finds."""

import inspect
import math
import traceback
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from lit_unlearn.attacks.base import Attack, WrongResultError
from lit_unlearn.attacks.kept import Found, accuracies_of, found_by
from lit_unlearn.attacks.target import Target
from lit_unlearn.errors import RAISED, UsageError, first_line
from lit_unlearn.quiet import tell_progress
from lit_unlearn.results import Measurement

TITLE = "evaluate"
"""The title of what is measured without an attack, beside those of the attacks."""


def measure(
    target: Target, attacks: Sequence[Attack], found: Measurement, goes_on: bool = False, tells: bool = False
) -> None:
    """Scores one model on every split, runs attacks on it, and adds to a measurement what each finds.

    Args:
        target: the model.
        attacks: what to run.
        found: takes the numbers.
        goes_on: whether an attack that raises an error, returns no result or changes the networks is left out, with
            its reason; any other UsageError is let through.
        tells: whether a line says which attack is running.
    """
    own = accuracies_of(target)
    found.metrics.update(own.result.numbers)
    _note(TITLE, own, found)
    for number, attack in enumerate(attacks, start=1):
        try:
            if tells and not attack.lacks(target):
                tell_progress(f"Attacking the model ({number} of {len(attacks)}): {attack.title}")
            run_attack(attack, target, found)
        except Exception as error:  # an attack of the user's own may raise anything
            if not goes_on or (isinstance(error, UsageError) and not isinstance(error, WrongResultError)):
                raise
            reason = _raised(attack, error)
            rank_zero_warn(f"{attack.title} was left out: {reason}")
            found.skipped[attack.title] = reason
            found.raised.append(attack.title)


def _raised(attack: Attack, error: Exception) -> str:
    """The error of an attack, with the last line of the attack's own file that led to it.

    A wrong result has no line: it is found here, not in the attack's file.
    """
    frames = traceback.extract_tb(error.__traceback__)
    try:
        own = inspect.getsourcefile(type(attack))
    except (OSError, TypeError):  # it was typed into a notebook or at a prompt
        own = None
    place = [frame for frame in frames if frame.filename == own][-1:] or frames[-1:]
    if isinstance(error, WrongResultError):
        place = []
    where = "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in place)
    said = "" if not str(error).strip() else f": {first_line(error)}"
    return f"{RAISED}{type(error).__name__}{said}{where}"


def run_attack(attack: Attack, target: Target, found: Measurement) -> None:
    """Runs one attack and adds what it finds to a measurement, with the attack's title as prefix of every name.

    An attack that lacks something is skipped, with the reason; undefined numbers are left out, and named.
    """
    if reason := attack.lacks(target):
        found.skipped[attack.title] = reason
        return
    new = found_by(attack, target)
    result = new.result
    numbers = {f"{attack.title}/{name}": value for name, value in result.numbers.items()}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    found.attacks.update(finite)
    found.notes.update({f"{attack.title}/{name}": text for name, text in result.notes.items()})
    found.artifacts.update({f"{attack.title}/{name}": artifact for name, artifact in result.artifacts.items()})
    if undefined := [name for name in numbers if name not in finite]:
        found.skipped[attack.title] = f"undefined: {', '.join(undefined)}"
    _note(attack.title, new, found)


def _note(title: str, new: Found, found: Measurement) -> None:
    """How long it took, and whether an earlier run has measured it."""
    found.seconds[title] = new.seconds
    if new.measured:
        found.kept[title] = new.measured
