"""Cells that two crops of an image have in common.

Shapes: N images, (h, w) cells of a crop, whose places in the image differ by whole cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast.trainer.config.views import PAIR_STRIDE
from fpl_fast.trainer.methods.batch import View

__all__ = ["Overlap", "find_overlap"]


class Overlap(NamedTuple):
    """Cells of two crops that show the same part of an image."""

    partner: Tensor  # (N, h * w) int64, cell of the second crop at the place of each cell of the first
    common: Tensor  # (N, h * w) bool, whether there is such a cell, and both are inside the image

    def of_second(self, x: Tensor) -> Tensor:
        """Bring values (N, h * w, ...) of the second crop's cells to the places of the first's."""
        index = self.partner.view(*self.partner.shape, *[1] * (x.ndim - 2))
        return x.gather(1, index.expand(-1, -1, *x.shape[2:]))


def find_overlap(first: View, second: View, grid: tuple[int, int]) -> Overlap:
    """Find the cells that two crops of each image have in common, flips undone.

    Args:
        first: Crops with their ``place``.
        second: Other crops of the same images, with theirs.
        grid: (h, w), cells of ``PAIR_STRIDE`` pixels.
    """
    assert first.place is not None and second.place is not None
    shift = (second.place.offset - first.place.offset) // PAIR_STRIDE
    rows, row_common = _partner(grid[0], shift[:, 0])
    columns, column_common = _partner(grid[1], shift[:, 1], first.place.flipped, second.place.flipped)
    index = (rows.unsqueeze(2) * grid[1] + columns.unsqueeze(1)).flatten(1)
    common = (row_common.unsqueeze(2) & column_common.unsqueeze(1)).flatten(1)
    overlap = Overlap(index, common)
    return Overlap(index, common & _inside(first.valid, grid) & overlap.of_second(_inside(second.valid, grid)))


def _partner(
    length: int, shift: Tensor, first_flipped: Tensor | None = None, second_flipped: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Partners (N, length) of the cells along an axis, and which of them exist."""
    place = torch.arange(length, device=shift.device).expand(len(shift), -1)
    if first_flipped is not None:
        place = torch.where(first_flipped.unsqueeze(1), length - 1 - place, place)
    partner = place - shift.unsqueeze(1)
    exists = (partner >= 0) & (partner < length)
    if second_flipped is not None:
        partner = torch.where(second_flipped.unsqueeze(1), length - 1 - partner, partner)
    return partner.clamp(0, length - 1), exists


def _inside(valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mark the cells (N, h * w) all of whose pixels (N, H, W) are valid."""
    return F.adaptive_max_pool2d((~valid).float(), grid).flatten(1) == 0
