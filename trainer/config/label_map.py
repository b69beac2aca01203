"""``data.label_map``: the classes of the values in label files, as users write them."""

import re
from collections.abc import Mapping

from fpl_fast.trainer.config.rules import require

__all__ = ["LabelMap", "read_label_map", "show_label_map"]

LabelMap = dict[int | str, int | str | None]
"""Stored value to class, or to None for no label; either may be a range as text, such as "1-150"."""


def read_label_map(label_map: LabelMap | None) -> dict[int, int | None]:
    """Read the class of each value that a label map names, None for no label.

    Two ranges must have equal length and are matched in order; a range that is mapped to one class is merged into it.

    Raises:
        ValueError: A value is outside of 0 ... 255 or named twice, or a range breaks its rule.

    Example:
        >>> read_label_map({0: None, "1-3": "0-2", "7-8": 2})
        {0: None, 1: 0, 2: 1, 3: 2, 7: 2, 8: 2}
    """
    classes: dict[int, int | None] = {}
    for stored, target in (label_map or {}).items():
        entry = show_label_map({stored: target})
        values = _numbers(stored, entry)
        targets: list[int | None] = [None] if target is None else list(_numbers(target, entry))
        if len(targets) == 1:
            targets *= len(values)
        require(len(targets) == len(values), "data.label_map", "between ranges of one length", entry)
        for value, index in zip(values, targets, strict=True):
            require(
                value not in classes,
                "data.label_map",
                f"a map that names {value} once",
                show_label_map(label_map or {}),
            )
            classes[value] = index
    return classes


def show_label_map(label_map: Mapping[int | str, int | str | None]) -> str:
    """Format a label map as the command line takes it.

    Example:
        >>> show_label_map({0: None, "1-150": "0-149"})
        '{0: null, 1-150: 0-149}'
    """
    entries = (f"{stored}: {'null' if target is None else target}" for stored, target in label_map.items())
    return f"{{{', '.join(entries)}}}"


def _numbers(text: int | str, entry: str) -> range:
    """Parse the numbers of ``7``, ``"7"`` or ``"7-9"``."""
    found = re.fullmatch(r"(0|[1-9]\d*)(?:\s*-\s*(0|[1-9]\d*))?", str(text).strip())
    if found is None or isinstance(text, bool):
        remedy = "; write a blank after the colon" if ":" in str(text) else ""
        raise ValueError(
            f"data.label_map must hold numbers, ranges such as 1-150, and null for no label, got {entry}{remedy}"
        )
    first, last = int(found[1]), int(found[2] or found[1])
    require(first <= last, "data.label_map", "made of ascending ranges", entry)
    require(last <= 255, "data.label_map", "made of numbers 0 ... 255 (labels are 8-bit)", entry)
    return range(first, last + 1)
