"""Windows of an image: reading their logits and collecting their gradient, with and without bilinear upsampling.

With upsampling, an image's logits are stretched along the rows first, (C, h, w) to (C, h, W), and each window then
interpolates between the rows it needs: nothing of the size (C, H, W) is ever held. The gradient goes back the same way.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fpl_fast.kernels.axis import axis
from fpl_fast.reference import accumulate_dtype


class Window(NamedTuple):
    """A rectangle of pixels of one image."""

    rows: slice
    columns: slice


class LogitWindows:
    """Reads windows of one image's logits.

    Args:
        logits: (C, h, w).
        size: (H, W) to upsample to, or None.
        align_corners: Of the upsampling.
        dtype: The dtype to interpolate in: 16-bit results would tie, and ties would change the assignment.
    """

    def __init__(self, logits: Tensor, size: tuple[int, int] | None, align_corners: bool, dtype: torch.dtype) -> None:
        self.size, self.logits = size, logits
        if size is not None:
            low_height = logits.shape[1]
            self.rows = axis(low_height, size[0], align_corners, logits.device, dtype)
            self.logits = F.interpolate(
                logits[None].to(dtype), (low_height, size[1]), mode="bilinear", align_corners=align_corners
            )[0]

    def columns(self, window: Window) -> Tensor:
        """The logits of a window, (C, P)."""
        rows = self.logits[:, :, window.columns]
        if self.size is None:
            return rows[:, window.rows].flatten(1)
        cell = self.rows.cell[window.rows]
        below = (cell + 1).clamp(max=rows.shape[1] - 1)
        fraction = self.rows.fraction[window.rows, None]
        return torch.lerp(rows.index_select(1, cell), rows.index_select(1, below), fraction).flatten(1)


class GradientWindows:
    """Collects the gradient of windows that cover one image.

    Args:
        grad: (C, h, w), where the result goes.
        size: (H, W) of the windows, or None for (h, w).
        align_corners: Of the upsampling.
    """

    def __init__(self, grad: Tensor, size: tuple[int, int] | None, align_corners: bool) -> None:
        self.grad, self.size = grad, size
        if size is not None:
            dtype = accumulate_dtype(grad)
            low_height, low_width = grad.shape[1:]
            self.row_weights = _weights(low_height, size[0], align_corners, grad.device, dtype)
            self.column_weights = _weights(low_width, size[1], align_corners, grad.device, dtype)
            self.first_row, self.last_row = _touched_rows(low_height, size[0], align_corners)
            self.rows = torch.zeros(grad.shape[0], low_height, size[1], dtype=dtype, device=grad.device)

    def add(self, window: Window, grad_chunk: Tensor) -> None:
        """Take the gradient of a window, (C, P)."""
        height, width = window.rows.stop - window.rows.start, window.columns.stop - window.columns.start
        chunk = grad_chunk.view(len(grad_chunk), height, width)
        if self.size is None:
            self.grad[:, window.rows, window.columns].copy_(chunk)
        else:
            touched = slice(self.first_row[window.rows.start], self.last_row[window.rows.stop - 1] + 1)
            weights = self.row_weights[window.rows, touched]
            self.rows[:, touched, window.columns] += _product(weights.t(), chunk.to(weights.dtype))

    def finish(self) -> None:
        """Complete ``grad`` once all windows have been added."""
        if self.size is not None:
            self.grad.copy_(_product(self.rows, self.column_weights))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in the dtype of its factors; autocast, which would round them to 16 bits, is disabled."""
    if not torch.amp.is_autocast_available(a.device.type):
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def _weights(
    num_samples: int, num_positions: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Interpolation along one axis as a matrix, (positions, samples).

    The adjoint of a dense product is deterministic on every device; adding at indices is not.
    """
    table = axis(num_samples, num_positions, align_corners, device, dtype)
    cell, sample = table.cell.unsqueeze(1), torch.arange(num_samples, device=device)
    fraction = table.fraction.unsqueeze(1)
    weights: Tensor = (sample == cell) * (1 - fraction) + (sample == cell + 1) * fraction
    return weights


@functools.cache
def _touched_rows(num_samples: int, num_positions: int, align_corners: bool) -> tuple[list[int], list[int]]:
    """First and last sample that each position touches; on the host, which must know the shapes."""
    cell = axis(num_samples, num_positions, align_corners, torch.device("cpu")).cell
    return cell.tolist(), (cell + 1).clamp(max=num_samples - 1).tolist()
