"""JSON as its standard defines it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["json_text", "read_records"]


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Convert content to JSON; numbers that are not finite, which JSON does not have, become null.

    Example:
        >>> json_text({"miou": float("nan"), "iou": (0.5, float("inf"))})
        '{"miou": null, "iou": [0.5, null]}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a file of JSON lines, none if it does not exist; a line cut short by a kill is skipped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
