"""Samples of a data set, and the names and colours of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image with its label, as stored: no resizing, no normalisation.

    Attributes:
        image: (3, H, W) uint8, RGB.
        label: (H, W) uint8 class indices and the ignore index, or None for an unlabelled image.
        replaced: Whether it takes the place of a damaged one (damaged.py).
    """

    image: Tensor
    label: Tensor | None
    replaced: bool = False


class ClassTable(NamedTuple):
    """Names and colours of the classes of a data set, known without its files."""

    names: tuple[str, ...]
    palette: Palette


class SegmentationDataset(Protocol):
    """A map-style data set of :class:`Sample`, with the tables that reports need."""

    num_classes: int
    ignore_index: int
    class_names: tuple[str, ...]
    palette: Palette

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name(self, index: int) -> str:
        """Name of the image, without folder and suffix; the file of its prediction has this name."""
        ...


# Quiet colours for pixels without a class; palettes of public data sets hold some of them, but never all.
_OUTSIDE_COLORS = np.array([(128, 128, 128), (255, 255, 255), (0, 0, 0), (224, 224, 192)], dtype=np.uint8)


def outside_color(palette: np.ndarray) -> np.ndarray:
    """Choose a colour for pixels without a class, (3,) uint8: the quiet one farthest from a palette (C, 3)."""
    apart = np.abs(_OUTSIDE_COLORS[:, None].astype(int) - palette.astype(int)).sum(-1).min(1)
    return _OUTSIDE_COLORS[apart.argmax()]


def color_table(palette: np.ndarray) -> np.ndarray:
    """Make the colours of all values of an index map, (256, 3) uint8: the classes (C, 3), then ``outside_color``."""
    table = np.tile(outside_color(palette), (256, 1))
    table[: len(palette)] = palette[:256]
    return table


def index_palette(num_classes: int) -> Palette:
    """Make RGB colours of class indices by the rule of PASCAL VOC: bits of the index, in threes, from the top bit down.

    Args:
        num_classes: Number of colours, at most 256.

    Example:
        >>> index_palette(3)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    """

    def channel(index: int, place: int) -> int:
        return sum((index >> (3 * bit + place) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(index, 0), channel(index, 1), channel(index, 2)) for index in range(num_classes))


def value_ranges(values: Sequence[int], limit: int | None = None) -> str:
    """Abbreviate ascending numbers as ranges.

    Args:
        values: The numbers.
        limit: Numbers and ranges to show, default all.

    Example:
        >>> value_ranges([0, 1, 2, 255])
        '0-2, 255'
    """
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join([*shown[:limit], "..."] if limit is not None and len(shown) > limit else shown)
