"""How pages are filled in: whatever comes from rows is escaped, and what a template lacks is an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lit_unlearn.reports.table import percent

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


def environment(*folders: Path) -> Environment:
    """The environment of a page.

    Args:
        folders: where its templates lie, besides those of the reports.
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
    return made
