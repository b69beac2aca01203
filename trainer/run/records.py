"""Records of ``metrics.jsonl``."""

from pathlib import Path
from typing import Any

from fpl_fast.trainer.writing.json_text import read_records

__all__ = ["read_metrics"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the records of ``metrics.jsonl``, none if it does not exist; a line cut short by a kill is skipped.

    Raises:
        ValueError: A line is no record.
    """
    return read_records(path, {"step": int, "split": str})
