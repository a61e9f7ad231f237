"""Breaks a row of the board: an attack of one's own gets more out of a submitted model than all that was tried on it.

The same attack goes to the Retrains that the row is compared with. What counts is what it gets beyond them, with a
lower bound that must lie above the excess of the row's strongest attack. Without a board the strongest is what the
authors of the submission say it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_unlearn import __version__
from lit_unlearn.attacks import Attack
from lit_unlearn.board import Standing, standing_at
from lit_unlearn.errors import UsageError
from lit_unlearn.files import file_sha256
from lit_unlearn.reports.comparisons import Comparison
from lit_unlearn.reports.rows import NO_ATTACK, Row, rows_of
from lit_unlearn.reports.verdict import judge
from lit_unlearn.run_files import RESULTS
from lit_unlearn.submissions import Submission, read
from lit_unlearn.verification import measured

_LONGEST = 100


@dataclass(frozen=True)
class Strongest:
    """What gets most out of a row so far.

    Attributes:
        attack: its name, and its author's where it is not of the suite.
        excess: over Retrain.
        scale: what the margins of its number are multiplied by.
    """

    attack: str
    excess: float
    scale: float


@dataclass(frozen=True)
class Attempt:
    """What an attack got.

    Attributes:
        submission: the model that it was tried on.
        author: of the attack.
        attack: import path of its class.
        found: its strongest number beside the Retrains'.
        before: the strongest so far; None where there is none.
        bundle_sha256: of the submission.
    """

    submission: Submission
    author: str
    attack: str
    found: Comparison
    before: Strongest | None
    bundle_sha256: str

    @property
    def breaks(self) -> bool:
        """Whether the lower bound of its excess is above the row's strongest excess, and above the margin of a leak."""
        least = 0.0 if self.before is None else self.before.excess / self.before.scale
        return self.found.leaks and self.found.low / self.found.scale > least

    def as_json(self) -> dict[str, Any]:
        """The evaluation that a board keeps beside the row."""
        numbers = ("value", "retrain", "excess", "low", "high", "scale")
        before = None if self.before is None else {"attack": self.before.attack, "excess": round(self.before.excess, 4)}
        return {
            "name": self.submission.name,
            "author": self.author,
            "attack": self.attack,
            "title": self.found.attack,
            "unit": self.found.unit,
            **{name: round(getattr(self.found, name), 4) for name in numbers},
            **({"turned": True} if self.found.turned else {}),
            "before": before,
            "bundle_sha256": self.bundle_sha256,
            "date": datetime.now(UTC).date().isoformat(),
            "lit_unlearn": __version__,
        }


def attempt(
    path: Path,
    attack: Attack,
    author: str,
    root: str | None = None,
    board: Path | None = None,
    retrains: Sequence[str] = (),
) -> Attempt:
    """Runs an attack on the model of a submission and on its Retrains.

    Args:
        path: the bundle.
        attack: of any family whose numbers a verdict compares, such as ``recovery``.
        author: of the attack, as the board will name them.
        root: folder of the data set's files; None is the data set's own.
        board: folder of the board that the row stands on, whose numbers count; None takes those of the bundle.
        retrains: weights of the board's Retrains, where the row is compared with these.

    Raises:
        UsageError: if the bundle is refused, the board has no row of it, the Retrains are not those of the row, or the
            attack gives no number that can be compared.
    """
    if not 0 < len(author) <= _LONGEST or not author.isprintable():
        raise UsageError(f"author must be one line of 1 to {_LONGEST} characters")
    submission, contents = read(path)
    sha256, seed = file_sha256(path), submission.seed
    if board is None:
        before = _strongest(rows_of(contents[RESULTS], f"{path}: {RESULTS}"))
    else:
        standing = standing_at(board, submission.board, submission.name)
        _check_same(standing.verified, sha256, retrains)
        before, seed = _so_far(standing), int(standing.verified["seed"])
    result = measured(path, submission, contents, [attack], root, retrains, seed)
    numbers = _compared(result.rows)
    if not numbers:
        told = result.rows[-1].skipped.get(attack.title)
        raise UsageError(
            f"{attack.title} gives no number that is compared with Retrain{f' ({told})' if told else ''}: it must "
            "return an accuracy on what was forgotten, test_forget_acc, or of single images forget_acc and beside it "
            "test_retain_acc; or for membership auc"
        )
    named = f"{type(attack).__module__}.{type(attack).__qualname__}"
    found = max(numbers, key=lambda each: each.low / each.scale)
    return Attempt(submission, author, named, found, before, sha256)


def _check_same(verified: Mapping[str, Any], sha256: str, retrains: Sequence[str]) -> None:
    """A row is broken by what is done to its own bundle, beside its own Retrains."""
    if verified["bundle_sha256"] != sha256:
        raise UsageError(f"the row of the board is of another bundle, sha256 {verified['bundle_sha256']}")
    given, wanted = {file_sha256(Path(each)) for each in retrains}, set(verified["retrains"])
    if given != wanted:
        has = (
            f"the board's Retrains, sha256 {', '.join(sorted(wanted))}" if wanted else "the bundle's own, so give none"
        )
        raise UsageError(f"retrains: {len(retrains)} are given, but the row is compared with {has}")


def _compared(rows: Sequence[Row]) -> list[Comparison]:
    return [each for each in judge(rows[-1], rows).comparisons if each.attack != NO_ATTACK]


def _strongest(rows: Sequence[Row]) -> Strongest | None:
    return _most([Strongest(each.attack, each.excess, each.scale) for each in _compared(rows)])


def _so_far(standing: Standing) -> Strongest | None:
    """Of the suite that the row was verified with last, or what broke it before."""
    tried = [_strongest(standing.rows)]
    if (by := standing.broken) is not None:
        tried.append(Strongest(f"{by['attack']} of {by['author']}", by["excess"], by["scale"]))
    return _most([each for each in tried if each is not None])


def _most(tried: Sequence[Strongest]) -> Strongest | None:
    return max(tried, key=lambda each: each.excess / each.scale, default=None)
