"""How templates are rendered: text from rows is escaped, and a missing value is an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lit_unlearn.reports import minimum, utility, verdict, wording
from lit_unlearn.reports.comparisons import MARGINS
from lit_unlearn.reports.table import UNKNOWN, percent

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
POINTS = {
    "leak": 100 * MARGINS.leak,
    "same": 100 * MARGINS.same,
    "error": 100 * MARGINS.alpha,
    "ruined": 100 * verdict.RUINED,
    "kept": 100 * utility.UTILITY_KEPT,
    "reduced": 100 * utility.UTILITY_REDUCED,
}
"""What the verdict is decided by, in percentage points, as the templates name it."""

IMAGE_NAMES = {
    "forget_acc": "forget",
    "test_forget_acc": "unseen",
    "forgotten_before_acc": "forgotten before",
    "images_before_acc": "single images, forgotten before",
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
    made.globals.update(unknown=UNKNOWN, points=POINTS, image_names=IMAGE_NAMES, bounds=wording.bounds)
    made.globals.update(minimum=minimum.MINIMUM, retrains_needed=minimum.RETRAINS_NEEDED)
    return made
