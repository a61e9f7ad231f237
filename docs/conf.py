"""How Sphinx makes the site: ``sphinx-build -W docs site``."""

import re
import sys
from inspect import cleandoc

from sphinx.application import Sphinx

from lit_unlearn import __version__, methods

project = "lit_unlearn"
author = "The lit_unlearn developers"
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
nb_execution_mode = "off"  # notebooks are shown with the outputs that they were saved with; .ci/run executes them
html_theme = "furo"
html_title = f"lit_unlearn {__version__}"
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # the pages on threats begin with a heading of the second rank
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True


def prepare(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Puts a method's idea, loss and paper, which stand at the head of its file, before what its class says.

    Bars are those of absolute values, which Sphinx would take for substitutions.
    """
    del app, name, options
    if what == "class" and item.__module__.startswith(f"{methods.__name__}."):
        lines[:0] = [*cleandoc(sys.modules[item.__module__].__doc__ or "").splitlines(), ""]
    lines[:] = [re.sub(r"(``.*?``)|\|", lambda found: found[1] or r"\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", prepare, priority=900)
