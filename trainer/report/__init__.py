"""The HTML report of a run: one file that loads nothing else, for screens of any size, in light and dark mode."""

from fpl_fast.trainer.report.page import write_report
from fpl_fast.trainer.report.run import ComparisonRow, Run, comparison_rows, read_run

__all__ = ["ComparisonRow", "Run", "comparison_rows", "read_run", "write_report"]
