"""Connected components of masks on the device, without a loop whose length depends on the data."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["connected_components", "random_component_box"]

_ROUNDS = 12  # spirals and meanders need 9 at 512 x 512 and 7 at 193 x 193; noise needs at most 6


def connected_components(mask: Tensor, *, neighbours: Literal[4, 8] = 8, rounds: int = _ROUNDS) -> Tensor:
    """Label the connected components of masks.

    Every pixel points at a pixel of its component, at first itself. A round lets each root point at the highest root
    that a neighbour of its tree points at, then halves all paths twice (Shiloach and Vishkin; FastSV). In practice the
    number of rounds until all trees are merged is logarithmic for all shapes. A fixed number therefore suffices, and
    the host never has to wait for the device. Too few rounds would split a component, never join two.

    Args:
        mask: (N, h, w) bool, h * w below 2^24 (positions pass through float32).
        neighbours: Pixels that touch: 8 with those at the corners, 4 without.
        rounds: Rounds.

    Returns:
        (N, h, w) int64: 1 + the highest position (row * w + column) of the pixel's component; 0 outside.
    """
    num, height, width = mask.shape
    assert height * width < 1 << 24
    # Slot 0 is the outside: it points at itself and is smaller than every pixel.
    slots = torch.arange(height * width + 1, device=mask.device).expand(num, -1)
    inside = F.pad(mask.flatten(1), (1, 0))
    parent = slots * inside
    for _ in range(rounds):
        grid = parent[:, 1:].view(num, 1, height, width).float()
        highest = F.pad(_highest_near(grid, neighbours).flatten(1).long(), (1, 0)) * inside
        parent = parent.scatter_reduce(1, parent, highest, "amax")  # integers: the order of the writes does not matter
        parent = torch.maximum(parent, highest)
        for _ in range(2):
            parent = parent.gather(1, parent)
    return parent[:, 1:].view(num, height, width)


def _highest_near(grid: Tensor, neighbours: int) -> Tensor:
    """Highest number among each pixel and its neighbours."""
    if neighbours == 8:
        return F.max_pool2d(grid, 3, stride=1, padding=1)
    column, row = (
        F.max_pool2d(grid, size, stride=1, padding=(size[0] // 2, size[1] // 2)) for size in ((3, 1), (1, 3))
    )
    return torch.maximum(column, row)


def random_component_box(mask: Tensor, min_area: float, lot: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the bounding box of a component at random among the large ones of each mask.

    Args:
        mask: (N, h, w) bool.
        min_area: Large are components of more than this share of h * w.
        lot: (N, h * w + 1) in [0, 1), random: each mask takes the large component with the highest number.

    Returns:
        The box, (N, h, w) bool, and whether there was a large component, (N,) bool; without one the box is empty.
    """
    num, height, width = mask.shape
    root = connected_components(mask)
    flat = root.flatten(1)
    area = torch.zeros(num, height * width + 1, dtype=torch.int64, device=mask.device)
    area.scatter_add_(1, flat, torch.ones_like(flat))
    area[:, 0] = 0  # the outside
    large = area > min_area * height * width
    chosen = lot.masked_fill(~large, -1).argmax(1).view(num, 1, 1)
    found = large.any(1)
    member = (root == chosen) & found.view(num, 1, 1)
    rows, columns = (_span(member.any(dim)) for dim in (2, 1))
    return rows.unsqueeze(2) & columns.unsqueeze(1), found


def _span(hit: Tensor) -> Tensor:
    """Fill each row of (N, L) bool from its first to its last True."""
    count = hit.cumsum(1)
    return (count > 0) & (count - hit.long() < count[:, -1:])
