"""Remedies for bad files, as they are typed, to append to messages."""

import os
from collections.abc import Sequence
from pathlib import Path

from fpl_fast.trainer.config import CityscapesData, FileData, FolderData
from fpl_fast.trainer.config.label_map import show_label_map
from fpl_fast.trainer.data.sample import value_ranges

__all__ = ["on_label_values", "on_missing_file"]

_SUFFIXES = tuple(case(suffix) for suffix in (".jpg", ".jpeg", ".png", ".tif") for case in (str.lower, str.upper))


def on_missing_file(data: FolderData, path: Path) -> str:
    """Look for the real place of a missing file whose name comes from a list and a template.

    Example:
        >>> on_missing_file(FolderData(root="data"), Path("data/images/train/a.jpg.jpg"))  # doctest: +SKIP
        '; a.jpg is there: entries of lists go without the suffix that data.images adds'
    """
    name = Path(os.path.relpath(path, data.root)).as_posix()
    templates = {option: getattr(data, option) for option in ("images", "labels", "val_images", "val_labels")}
    fitting = [
        (option, *parts)
        for option, template in templates.items()
        for parts in [template.split("{}")]
        if name.startswith(parts[0]) and name.endswith(parts[1])
    ]
    if not fitting:  # an image of a folder that is taken whole
        return ""
    option, before, after = fitting[0]
    stem = path.with_suffix("")
    for found in (stem, stem.with_suffix(path.suffix)):
        if after and stem.suffix and found.is_file():
            return f"; {found.name} is there: entries of lists go without the suffix that data.{option} adds"
    for found in map(path.with_suffix, _SUFFIXES):
        if found.is_file():
            template = f"{before}{{}}{after.removesuffix(path.suffix)}{found.suffix}"
            remedy = f"--data.{option} '{template}' if all are named so" if after else "name it so in the list"
            return f"; {found.name} is there: rename it, or {remedy}"
    return ""


def on_label_values(data: FileData, values: Sequence[int]) -> str:
    """Give advice on ascending label values that have no class."""
    if isinstance(data, CityscapesData) and data.label_ids:
        return ""
    known, found = data.label_map or {}, value_ranges(values).split(", ")
    if len(found) > 8:
        return " (so many values are no classes: the file may hold grey levels or numbered objects)"
    no_label = f"--data.label_map '{show_label_map(known | dict.fromkeys(found))}'"
    if isinstance(data, FolderData) and values[0] >= data.num_classes and len(values) <= 8:
        no_label = f"--data.label_ignore '{[*data.label_ignore, *values]}'"
    a_class = f"--data.label_map '{show_label_map(known | dict.fromkeys(found, 'CLASS'))}'"
    if known and values[-1] < _num_classes(data):  # a map made for other files
        a_class = f"--data.label_map null, where the values are the classes, or {a_class}"
    elif isinstance(data, FolderData):
        a_class = f"a larger data.num_classes or {a_class}"
    advice = f"if that means no label, {no_label}; if a class, {a_class}"
    if not known and isinstance(data, FolderData) and list(values) == [data.num_classes]:
        last = data.num_classes
        advice += f"; if 0 means no label, --data.label_map '{{0: null, 1-{last}: 0-{last - 1}}}'"
    return f" ({advice})"


def _num_classes(data: FileData) -> int:
    return data.num_classes if isinstance(data, FolderData) else 0
