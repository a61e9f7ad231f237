"""How templates are rendered: text from rows is escaped, and a missing value is an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lit_unlearn.reports import verdict
from lit_unlearn.reports.table import UNKNOWN, percent

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
POINTS = {
    "depth": 100 * verdict.DEPTH_TOLERANCE,
    "least": 100 * verdict.DEPTH_LEAST,
    "leakage": 100 * verdict.LEAKAGE_TOLERANCE,
    "kept": 100 * verdict.UTILITY_KEPT,
    "reduced": 100 * verdict.UTILITY_REDUCED,
}
"""The tolerances of the verdict in percentage points, as the templates name them."""

IMAGE_NAMES = {
    "forget_acc": "forget",
    "test_forget_acc": "unseen",
    "forgotten_before_acc": "forgotten before",
    "test_forgotten_before_acc": "unseen, forgotten before",
}
"""The forgotten images that an accuracy is of, in a word or two."""


def environment(*folders: Path) -> Environment:
    """The environment of all pages, with what they have in common.

    Args:
        folders: folders with templates, besides those of the reports.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, HERE]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["percent"] = percent
    made.globals.update(unknown=UNKNOWN, points=POINTS, image_names=IMAGE_NAMES, minimum=verdict.MINIMUM_ATTACKS)
    return made
