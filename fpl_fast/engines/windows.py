"""Windows of an image: reading their logits and collecting their gradient, with and without bilinear upsampling.

With upsampling, an image's logits are stretched along the rows first, (C, h, w) to (C, h, W), and each window then
interpolates between the rows it needs: nothing of the size (C, H, W) is ever held. The gradient goes back the same way.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fpl_fast.kernels.axis import axis
from fpl_fast.reference import accumulate_dtype

# On a CPU, of a chunk whose logits PyTorch's operations interpolate: what they leave should still be in cache.
UPSAMPLED_CHUNK_PIXELS = 1 << 14


class Window(NamedTuple):
    """A rectangle of pixels of one image."""

    rows: slice
    columns: slice


class Interpolation(NamedTuple):
    """Interpolation between rows and its adjoint, as an engine computes them.

    A row of the result lies in the cell between the rows ``cell`` and ``cell + 1`` of its samples, at ``fraction``; the
    cells ascend. A single row of samples is a cell of its own.
    """

    forward: Callable[[Tensor, Tensor, Tensor, "Spare"], Tensor]
    """Interpolate (C, h, W) with cell and fraction, (H,), to (C, H, W), in spare or new memory."""
    adjoint: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    """Sum a gradient (C, H, W), with cell and fraction, (H,), into its samples, (C, number of them, W)."""
    window_pixels: int
    """Most pixels of a window on a CPU."""


class Spare:
    """Memory that is used for one window after the other: a system takes time to map what is new."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of that shape, of the dtype and device of another; what was taken before is no longer valid."""
        count = math.prod(shape)
        if self.memory is None or self.memory.numel() < count:
            self.memory = like.new_empty(count)
        return self.memory[:count].view(shape)


def interpolate_rows(logits: Tensor, cell: Tensor, fraction: Tensor, spare: Spare) -> Tensor:
    """Interpolate with PyTorch's operations (see :class:`Interpolation`)."""
    below = (cell + 1).clamp(max=logits.shape[1] - 1)
    return torch.lerp(logits.index_select(1, cell), logits.index_select(1, below), fraction.unsqueeze(1))


def sum_into_rows(grad: Tensor, cell: Tensor, fraction: Tensor, num_samples: int) -> Tensor:
    """Compute the adjoint of :func:`interpolate_rows` as a dense product.

    It is deterministic on every device; adding at indices is not.
    """
    sample = torch.arange(num_samples, device=grad.device).unsqueeze(1)
    weights = (sample == cell) * (1 - fraction) + (sample == cell + 1) * fraction
    return _product(weights, grad)


EAGERLY = Interpolation(interpolate_rows, sum_into_rows, UPSAMPLED_CHUNK_PIXELS)


class LogitWindows:
    """Reads windows of one image's logits: of a student and its teachers together, as each operation is a launch.

    Args:
        logits: Tensors (C, h, w).
        size: (H, W) to upsample to, or None.
        align_corners: Of the upsampling.
        dtype: The dtype to interpolate in: 16-bit results would tie, and ties would change the assignment.
        interpolation: The way to interpolate between rows.
        spare: Memory that other images have used.
    """

    def __init__(
        self,
        logits: Sequence[Tensor],
        size: tuple[int, int] | None,
        align_corners: bool,
        dtype: torch.dtype,
        interpolation: Interpolation = EAGERLY,
        spare: Spare | None = None,
    ) -> None:
        self.size, self.logits, self.interpolation, self.spare = size, logits, interpolation, spare or Spare()
        if size is not None:
            together = torch.cat([x.to(dtype) for x in logits])
            planes, height, width = together.shape
            lines = F.interpolate(
                together.view(1, planes * height, width), size[1], mode="linear", align_corners=align_corners
            )
            self.stretched = lines.view(planes, height, size[1])
            self.rows = axis(height, size[0], align_corners, together.device, dtype)

    def columns(self, window: Window) -> tuple[Tensor, ...]:
        """The logits of a window, (C, P) each; those of the window before may be lost."""
        if self.size is None:
            return tuple(x[:, window.rows, window.columns].flatten(1) for x in self.logits)
        cell, fraction = self.rows.cell[window.rows], self.rows.fraction[window.rows]
        together = self.interpolation.forward(self.stretched[:, :, window.columns], cell, fraction, self.spare)
        return together.flatten(1).split([len(x) for x in self.logits])


class GradientWindows:
    """Collects the gradient of windows that cover one image.

    Args:
        grad: (C, h, w), where the result goes.
        size: (H, W) of the windows, or None for (h, w).
        align_corners: Of the upsampling.
        interpolation: The way that its logits were interpolated in.
        spare: Memory that other images have used.
    """

    def __init__(
        self,
        grad: Tensor,
        size: tuple[int, int] | None,
        align_corners: bool,
        interpolation: Interpolation = EAGERLY,
        spare: Spare | None = None,
    ) -> None:
        self.grad, self.size, self.adjoint = grad, size, interpolation.adjoint
        self.in_place = size is None and grad[0].is_contiguous()  # a window is a row, a part of one, or several
        self.spare = spare or Spare()
        if size is not None:
            dtype = accumulate_dtype(grad)
            c, h, w = grad.shape
            self.row_axis, self.column_axis = (
                axis(low, high, align_corners, grad.device, dtype) for low, high in zip((h, w), size, strict=True)
            )
            self.first_row, self.last_row = _touched_rows(h, size[0], align_corners)
            self.rows = torch.zeros(c, h, size[1], dtype=dtype, device=grad.device)

    def place(self, window: Window) -> Tensor:
        """Memory for the gradient of a window, (C, P), pixels of a class side by side; the result's, if that can be."""
        if self.in_place:
            return self.grad[:, window.rows, window.columns].flatten(1)
        shape = len(self.grad), math.prod(_shape(window))
        return self.spare.take(shape, self.grad if self.size is None else self.rows)

    def add(self, window: Window, grad_chunk: Tensor) -> None:
        """Take the gradient of a window, (C, P): what :meth:`place` gave, or another tensor."""
        if self.in_place and grad_chunk.data_ptr() == self.place(window).data_ptr():
            return
        chunk = grad_chunk.view(len(grad_chunk), *_shape(window))
        if self.size is None:
            self.grad[:, window.rows, window.columns].copy_(chunk)
        else:
            first, stop = self.first_row[window.rows.start], self.last_row[window.rows.stop - 1] + 1
            cell, fraction = self.row_axis.cell[window.rows] - first, self.row_axis.fraction[window.rows]
            samples = self.adjoint(chunk.to(self.rows.dtype), cell, fraction, stop - first)
            self.rows[:, first:stop, window.columns] += samples

    def finish(self) -> None:
        """Complete ``grad`` once all windows have been added."""
        if self.size is not None:
            c, h, w = self.grad.shape
            columns = self.rows.view(1, c * h, self.size[1]).mT.contiguous()  # columns as rows
            samples = self.adjoint(columns, self.column_axis.cell, self.column_axis.fraction, w)
            self.grad.copy_(samples.mT.view(c, h, w))


def _shape(window: Window) -> tuple[int, int]:
    """Height and width."""
    return window.rows.stop - window.rows.start, window.columns.stop - window.columns.start


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in the dtype of its factors; autocast, which would round them to 16 bits, is disabled."""
    if not torch.amp.is_autocast_available(a.device.type):
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


@functools.cache
def _touched_rows(num_samples: int, num_positions: int, align_corners: bool) -> tuple[list[int], list[int]]:
    """First and last sample that each position touches; on the host, which must know the shapes."""
    cell = axis(num_samples, num_positions, align_corners, torch.device("cpu")).cell
    return cell.tolist(), (cell + 1).clamp(max=num_samples - 1).tolist()
