"""Positions of an upsampled axis between its low-resolution samples, as tables on the device.

Torch alone: the engines that run as PyTorch operations use the same tables.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast.kernels.kept import kept


class Axis(NamedTuple):
    """Bilinear interpolation along one axis: position x lies in cell[x], at fraction[x] of the way to the next sample.

    L samples have max(L - 1, 1) cells. Positions behind the last sample lie at the end of the last cell.
    """

    cell: Tensor  # (positions,) int32
    fraction: Tensor  # (positions,) of the dtype asked for
    start: Tensor  # (cells + 1,) int32: first position in or behind each cell
    max_span: int  # most positions that touch one sample

    @property
    def num_cells(self) -> int:
        """Number of cells, max(L - 1, 1)."""
        return len(self.start) - 1


@kept(most=256)
def axis(
    num_samples: int, num_positions: int, align_corners: bool, device: torch.device, dtype: torch.dtype = torch.float32
) -> Axis:
    """The tables of one axis, as :func:`torch.nn.functional.interpolate` places positions for a given size.

    The last position lies at the end of the last cell. A sample whose weight there is 0 still enters the sum, which
    matters only if it is not finite: NaN reaches one position further than with PyTorch.

    With align_corners the ends of both axes coincide; otherwise position x lies at (x + 1/2) * L / positions - 1/2,
    clamped to the samples.
    """
    # Made on the device, with no copy to it: by sums and products of float64, which all devices round alike but MPS,
    # which has none.
    place = torch.device("cpu") if device.type == "mps" else device
    cell, source, start = _positions(num_samples, num_positions, align_corners, place)
    return Axis(
        cell.to(torch.int32).to(device),
        (source - cell).to(dtype).to(device),
        start.to(torch.int32).to(device),
        _max_span(num_samples, num_positions, align_corners),
    )


def _positions(
    num_samples: int, num_positions: int, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Cell of each position and its place among the samples, float64, and the first position of each cell."""
    position = torch.arange(num_positions, dtype=torch.float64, device=device)
    if align_corners:
        source = position * ((num_samples - 1) / max(num_positions - 1, 1))
    else:
        source = (position + 0.5) * (num_samples / num_positions) - 0.5 if num_positions else position
    source = source.clamp(0, num_samples - 1)
    num_cells = max(num_samples - 1, 1)
    cell = source.floor().clamp(max=num_cells - 1)
    start = torch.searchsorted(cell, torch.arange(num_cells + 1, dtype=torch.float64, device=device))
    return cell, source, start


@functools.lru_cache(maxsize=256)
def _max_span(num_samples: int, num_positions: int, align_corners: bool) -> int:
    """Most positions that touch one sample; computed on the host, which needs it before a launch."""
    start = _positions(num_samples, num_positions, align_corners, torch.device("cpu"))[2]
    # Sample j is touched by the cells j - 1 and j.
    bounds = torch.cat([start[:1], start, start[-1:]])
    return int((bounds[2:] - bounds[:-2]).max())
