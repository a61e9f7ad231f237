"""Rows of results and what is made of them: terminal table, figures, one self-contained page."""

from lit_unlearn.reports.gallery import read_artifacts, write_artifacts
from lit_unlearn.reports.page import write_page
from lit_unlearn.reports.rows import Row, read_rows, write_rows
from lit_unlearn.reports.table import results_table

__all__ = ["Row", "read_artifacts", "read_rows", "results_table", "write_artifacts", "write_page", "write_rows"]
