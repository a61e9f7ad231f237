"""Breaks a row of the board: an attack of one's own gets more out of a submitted model than all that was tried on it.

The same attack goes to the Retrains of the submission. What counts is what it gets beyond them, with a lower bound that
must lie above the excess of the row's strongest attack.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_unlearn import __version__
from lit_unlearn.attacks import Attack
from lit_unlearn.errors import UsageError
from lit_unlearn.files import file_sha256
from lit_unlearn.reports.comparisons import Comparison
from lit_unlearn.reports.rows import NO_ATTACK, rows_of
from lit_unlearn.reports.run_directory import RESULTS
from lit_unlearn.reports.verdict import judge
from lit_unlearn.submissions import Submission, read
from lit_unlearn.verification import measured

_LONGEST = 100


@dataclass(frozen=True)
class Attempt:
    """What an attack got.

    Attributes:
        submission: the model that it was tried on.
        author: of the attack.
        attack: import path of its class.
        found: its strongest number beside the Retrains'.
        before: the strongest of the row, as the submission has it; None where it has none.
        bundle_sha256: of the submission.
    """

    submission: Submission
    author: str
    attack: str
    found: Comparison
    before: Comparison | None
    bundle_sha256: str

    @property
    def breaks(self) -> bool:
        """Whether the lower bound of its excess is above the row's strongest excess, and above the margin of a leak."""
        least = 0.0 if self.before is None else self.before.excess / self.before.scale
        return self.found.leaks and self.found.low / self.found.scale > least

    def as_json(self) -> dict[str, Any]:
        """The evaluation that a board keeps beside the row."""
        numbers = {name: round(getattr(self.found, name), 4) for name in ("value", "retrain", "excess", "low", "high")}
        before = None if self.before is None else {"attack": self.before.attack, "excess": round(self.before.excess, 4)}
        return {
            "name": self.submission.name,
            "author": self.author,
            "attack": self.attack,
            "title": self.found.attack,
            "unit": self.found.unit,
            **numbers,
            "before": before,
            "bundle_sha256": self.bundle_sha256,
            "date": datetime.now(UTC).date().isoformat(),
            "lit_unlearn": __version__,
        }


def attempt(path: Path, attack: Attack, author: str, root: str | None = None) -> Attempt:
    """Runs an attack on the model of a submission and on its Retrains.

    Args:
        path: the bundle.
        attack: of any family whose numbers a verdict compares, such as ``recovery``.
        author: of the attack, as the board will name them.
        root: folder of the data set's files; None is the data set's own.

    Raises:
        UsageError: if the bundle is refused, or the attack gives no number that can be compared.
    """
    if not 0 < len(author) <= _LONGEST or not author.isprintable():
        raise UsageError(f"author must be one line of 1 to {_LONGEST} characters")
    submission, contents = read(path)
    result = measured(path, submission, contents, [attack], root)
    numbers = [each for each in judge(result.rows[-1], result.rows).comparisons if each.attack != NO_ATTACK]
    if not numbers:
        told = result.rows[-1].skipped.get(attack.title)
        raise UsageError(
            f"{attack.title} gives no number that is compared with Retrain{f' ({told})' if told else ''}: it must "
            "return an accuracy on what was forgotten, such as test_forget_acc, or for membership auc"
        )
    rows = rows_of(contents[RESULTS], f"{path}: {RESULTS}")
    known = [each for each in judge(rows[-1], rows).comparisons if each.attack != NO_ATTACK]
    return Attempt(
        submission,
        author,
        f"{type(attack).__module__}.{type(attack).__qualname__}",
        max(numbers, key=lambda each: each.low / each.scale),
        max(known, key=lambda each: each.excess / each.scale, default=None),
        file_sha256(path),
    )
