"""Outer contours of masks on the device: enough of them to draw boxes inside the objects of a mask.

A contour is what ``cv2.findContours(mask, RETR_EXTERNAL, CHAIN_APPROX_SIMPLE)`` finds: the outer border of an
8-connected component that lies in no hole of another, with points where the direction of the border changes. Neither
the points nor their order are needed, only their number and their bounding box. Holes are filled first, so that all
borders are outer ones; then a pixel's eight neighbours tell how many points it contributes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast.trainer.methods.components import connected_components

__all__ = ["Contours", "erase_boxes", "fill_holes", "find_contours"]

# Neighbours (row, column) in the order of OpenCV's chain code: counterclockwise from the right.
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


class Contours(NamedTuple):
    """Contours of N masks of H x W pixels; the number of slots, H * W + 1, does not depend on the masks."""

    points: Tensor  # (N, slots) int64, points of the contour in a slot; 0 in an empty slot
    top: Tensor  # (N, slots) int64, smallest and largest row and column
    bottom: Tensor
    left: Tensor
    right: Tensor


def fill_holes(mask: Tensor) -> Tensor:
    """Fill everything that background cannot reach from the frame, side by side: (N, H, W) bool."""
    outside = F.pad(~mask, (1, 1, 1, 1), value=True)
    label = connected_components(outside, neighbours=4)
    # The outside holds the last pixel of the frame, and its label is the highest.
    return label[:, 1:-1, 1:-1] != outside[0].numel()


def find_contours(mask: Tensor) -> Contours:
    """Find the outer contours of masks (N, H, W) bool."""
    num, height, width = mask.shape
    mask = fill_holes(mask)
    slot = connected_components(mask).flatten(1)
    rows = torch.arange(height, device=mask.device).repeat_interleave(width).expand(num, -1)
    columns = torch.arange(width, device=mask.device).repeat(height).expand(num, -1)

    def reduce(values: Tensor, how: str) -> Tensor:
        slots = torch.zeros(num, height * width + 1, dtype=torch.int64, device=mask.device)
        return slots.scatter_reduce(1, slot, values, how, include_self=False)

    counts = reduce(_count_points(mask).flatten(1), "sum")
    counts[:, 0] = 0  # the background
    return Contours(
        counts, reduce(rows, "amin"), reduce(rows, "amax"), reduce(columns, "amin"), reduce(columns, "amax")
    )


def _count_points(mask: Tensor) -> Tensor:
    """Count the points that each pixel of masks without holes, (N, H, W) bool, contributes to contours.

    The border passes a pixel once for each run of outside neighbours that holds one at a side, not at a corner alone.
    It arrives from the last neighbour before the run and leaves to the first one after it: straight on, without a
    point, if the run has three neighbours.
    """
    height, width = mask.shape[1:]
    padded = F.pad(mask, (1, 1, 1, 1))
    near = [padded[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width] for row, column in _NEIGHBOURS]
    points = ~torch.stack(near).any(0) * 1  # a lone pixel is a contour of one point
    for i in range(0, 8, 2):  # a side begins a run, unless the side before it is in the run as well
        points += ~near[i] & (near[i - 1] | near[i - 2])
    for i in range(8):
        first, *run, last = (near[(i + step) % 8] for step in range(5))
        points -= (first & last & ~torch.stack(run).any(0)).long()
    return points * mask


def erase_boxes(contours: Contours, start: Tensor, size: tuple[int, int], *, min_points: int) -> Tensor:
    """Choose a box of 0.4 x 0.4 of the bounding box of each contour with more than ``min_points`` points.

    Sides b are last minus first row (column), as in the public code. A box takes floor(0.4 b) pixels from one of the
    first floor(0.6 b) + 1.

    Args:
        contours: Of N masks.
        start: (N, 2, slots) in [0, 1): where the box begins in each contour's range of rows and of columns.
        size: (H, W) of the masks.
        min_points: Points that a contour must exceed.

    Returns:
        (N, H, W) bool, True inside boxes.
    """
    height, width = size
    weight = (contours.points > min_points).long()
    (top, bottom), (left, right) = (
        _part(first, last, start[:, i])
        for i, (first, last) in enumerate(((contours.top, contours.bottom), (contours.left, contours.right)))
    )
    # Sums over rows and columns of +1 and -1 at the corners: the number of boxes over each pixel.
    corners = torch.zeros(len(weight), (height + 1) * (width + 1), dtype=torch.int64, device=weight.device)
    for row, column, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        corners.scatter_add_(1, row * (width + 1) + column, sign * weight)
    boxes = corners.view(-1, height + 1, width + 1).cumsum(1).cumsum(2)
    return boxes[:, :height, :width] > 0


def _part(first: Tensor, last: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Begin and end of 2/5 of a side that begin in its first 3/5, in whole pixels."""
    side = last - first
    room = side * 3 // 5
    begin = first + torch.minimum((start * (room + 1)).long(), room)  # the product may be rounded up
    return begin, begin + side * 2 // 5
