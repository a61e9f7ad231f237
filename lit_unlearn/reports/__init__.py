"""Rows of results and what is made of them: terminal table, figures, one self-contained page."""

from lit_unlearn.reports.page import write_page
from lit_unlearn.reports.rows import Row, read_figures, read_rows, write_rows
from lit_unlearn.reports.table import results_table

__all__ = ["Row", "read_figures", "read_rows", "results_table", "write_page", "write_rows"]
