"""Checks that the labels of a part contain every class, or any class at all."""

from fpl_fast.trainer.data.folder import FolderDataset, Inspection
from fpl_fast.trainer.data.sample import value_ranges
from fpl_fast.trainer.data.store import DamagedPictureError

__all__ = ["absent_classes", "has_labelled_pixel", "nothing_labelled"]


def has_labelled_pixel(dataset: FolderDataset, *, skip_damaged: bool = False) -> bool:
    """Whether any pixel has a class; reads labels only until one is found.

    Args:
        dataset: The part.
        skip_damaged: Whether labels that cannot be decoded are let pass.

    Raises:
        ValueError: A label that was read is bad.
    """

    def has_one(index: int) -> bool:
        try:
            return bool((dataset.label(index) != dataset.ignore_index).any())
        except DamagedPictureError:
            if skip_damaged:
                return False
            raise

    return any(map(has_one, range(len(dataset))))


def nothing_labelled(part: str, dataset: FolderDataset, found: Inspection) -> str | None:
    """Describe, in a sentence, a part in which no pixel has a class; None otherwise.

    Args:
        part: Name of the part, and of the option for its list.
        dataset: The part.
        found: Contents of its labels.
    """
    if found.label_pixels[: dataset.num_classes].any() or not found.stored_pixels.any():  # all files are bad
        return None
    values = value_ranges(found.stored_pixels.nonzero().flatten().tolist())
    return (
        f"data.{part} must name labels in which at least one pixel has a class, got the ignored values {values} "
        f"in all {len(dataset)}{_advice(found)}"
    )


def absent_classes(part: str, dataset: FolderDataset, found: Inspection) -> str | None:
    """Describe, in a sentence, the classes that no pixel of a part has; arguments as in ``nothing_labelled``."""
    pixels = found.label_pixels[: dataset.num_classes].tolist()
    absent = [name for name, count in zip(dataset.class_names, pixels, strict=True) if count == 0]
    if not absent or not found.stored_pixels.any():
        return None
    kind = "validation" if part == "val" else "labelled"
    return f"no {kind} pixel of {', '.join(absent)}{_advice(found)}"


def _advice(found: Inspection) -> str:
    """Give advice where masks of 0 and 255 may be meant as two classes."""
    values = found.stored_pixels.nonzero().flatten().tolist()
    if 255 not in values or not set(values) <= {0, 255}:
        return ""
    return ": the labels hold no value but 0 and 255; if 255 is a class, --data.label_map '{255: 1}' says so"
