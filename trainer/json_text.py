"""JSON as the standard has it."""

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["json_text"]


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Content as JSON; numbers that are not finite, which JSON does not have, become null.

    Example:
        >>> json_text({"miou": float("nan"), "iou": (0.5, float("inf"))})
        '{"miou": null, "iou": [0.5, null]}'
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
