"""JSON as its standard defines it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["begin_of_line", "json_text", "read_object", "read_records"]


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Convert content to JSON; numbers that are not finite, which JSON does not have, become null.

    Example:
        >>> json_text({"miou": float("nan"), "iou": (0.5, float("inf"))})
        '{"miou": null, "iou": [0.5, null]}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file holds none, and is damaged.
        OSError: It cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be valid JSON, got {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_records(path: Path, keys: Mapping[str, type]) -> list[dict[str, Any]]:
    """Read the objects of a file of JSON lines, none if it does not exist; a line cut short by a kill is skipped.

    Args:
        path: The file.
        keys: Keys that every object has, with the types of their values.

    Raises:
        ValueError: A line is no text, or is JSON of another kind: the file is damaged.
    """
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else [], start=1):
        try:
            record = json.loads(line.decode())
        except json.JSONDecodeError:
            continue
        except (UnicodeDecodeError, RecursionError):
            record = None
        if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in keys.items()):
            raise ValueError(
                f"{path} line {number} must be a JSON object with {' and '.join(keys)}, got {begin_of_line(line)}: "
                "remove the line"
            )
        records.append(record)
    return records


def begin_of_line(line: bytes) -> str:
    """Quote the first characters of a line in a message."""
    return repr(line[:60].decode(errors="replace"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
