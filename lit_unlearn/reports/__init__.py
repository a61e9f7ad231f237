"""Rows of results, and the table, figures and page that are made from them."""

from lit_unlearn.reports.gallery import read_artifacts, write_artifacts
from lit_unlearn.reports.page import fragment, write_page
from lit_unlearn.reports.rows import Row, read_rows, write_rows
from lit_unlearn.reports.table import plain_table, results_table

__all__ = [
    "Row",
    "fragment",
    "plain_table",
    "read_artifacts",
    "read_rows",
    "results_table",
    "write_artifacts",
    "write_page",
    "write_rows",
]
