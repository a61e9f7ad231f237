"""The claim of a submission: numbers that can be measured again, and that its own rows must bear out."""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lit_unlearn.errors import UsageError, first_line
from lit_unlearn.reports.rows import Row, rows_of
from lit_unlearn.reports.verdict import judge
from lit_unlearn.reports.wording import as_json
from lit_unlearn.run_files import RESULTS

_ROUNDED = 1e-4


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of a model, in numbers that can be measured again.

    Attributes:
        metrics: accuracy by split, without an attack.
        values: what the verdict compares, by attack; of what was turned for the comparison the number as it is.
        level: of the verdict.
    """

    metrics: dict[str, float]
    values: dict[str, float]
    level: str


def claim_of(row: Row, rows: Sequence[Row]) -> Claim:
    """What can be checked of a row: accuracies, what the verdict compares, and its level."""
    judged = judge(row, rows)
    kept = as_json(row, judged)
    values = {
        attack: 1 - each["value"] if "turned" in each else each["value"] for attack, each in kept["intervals"].items()
    }
    return Claim(row.metrics, values, judged.level)


def check_claim(claim: Claim, results: bytes, path: Path) -> None:
    """Refuses a claim whose numbers are not those of the rows beside it.

    The level is not compared: the rules of the verdict may have changed since, and who verifies compares it.

    Args:
        claim: of the manifest.
        results: the content of the results file in the bundle.
        path: of the bundle, for errors.

    Raises:
        UsageError: naming the first number that differs.
    """
    rows = rows_of(results, f"{path}: {RESULTS}")
    try:
        found = claim_of(rows[-1], rows)
    except Exception as error:
        raise UsageError(f"{path}: {RESULTS} cannot be judged ({first_line(error)})") from error
    for claimed, measured in ((claim.metrics, found.metrics), (claim.values, found.values)):
        for name, value in claimed.items():
            said = measured.get(name)
            if said is None or not math.isclose(value, said, rel_tol=0.0, abs_tol=_ROUNDED):
                told = "does not have it" if said is None else f"says {said:.4g}"
                raise UsageError(f"{path}: the claim says {name} is {value:.4g}, but {RESULTS} {told}")
