"""Interpolation between rows, and its adjoint, as two compiled graphs that serve any number of classes and any size.

Each is one loop, and so one parallel region for a window: where threads wait for one that is not on a core, the number
of regions is what counts. Both leave every sum to one thread, in a fixed order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines import packages
from fpl_fast.engines.windows import Interpolation, Spare

# 2 x 19 x 512 x 512 from 128 x 128, two threads on two cores beside one and two busy processes, to argmax and cross
# entropy: 0.64 and 0.78 of the time with 2^16 pixels, 0.67 and 0.57 with 2^17. On one thread 0.27 and 0.30. At C = 19 a
# window's student, teacher and gradient are 30 MB.
WINDOW_PIXELS = 1 << 17


def interpolate_rows(logits: Tensor, cell: Tensor, fraction: Tensor, spare: Spare) -> Tensor:
    """Interpolate in one loop (see :class:`fpl_fast.engines.windows.Interpolation`)."""
    cell = cell.to(torch.int64)
    below = (cell + 1).clamp(max=logits.shape[1] - 1)
    interpolated = spare.take((len(logits), len(cell), logits.shape[2]), logits)
    packages.load(Forward())([logits.contiguous(), cell, below, fraction.contiguous(), interpolated])
    return interpolated


def sum_into_rows(grad: Tensor, cell: Tensor, fraction: Tensor, num_samples: int) -> Tensor:
    """Compute the adjoint of :func:`interpolate_rows`: each sample gathers from the rows in the cells at its sides."""
    # The cells ascend: the rows of sample j are those of the cells j - 1 and j, from one bound to the next but one.
    bounds = torch.searchsorted(cell, torch.arange(-1, num_samples + 1, dtype=cell.dtype, device=cell.device))
    first, stop = bounds[:-2], bounds[2:]
    most = int((stop - first).max())
    row = first + torch.arange(most, device=cell.device).unsqueeze(1)  # (most, samples)
    is_own = row < stop
    row = row.clamp(max=len(cell) - 1)
    is_upper = cell[row] == torch.arange(num_samples, device=cell.device)  # of the two samples at the sides of its cell
    weight = torch.where(is_upper, 1 - fraction[row], fraction[row]) * is_own
    (samples,) = packages.load(Adjoint())([grad.contiguous(), row, weight])
    return samples


COMPILED = Interpolation(interpolate_rows, sum_into_rows, WINDOW_PIXELS)


@dataclass(frozen=True)  # named tuples without fields would all be equal
class Forward:
    """The graph that interpolates."""

    @property
    def purpose(self) -> str:
        """Name of the computation in messages."""
        return "the upsampling, first of two graphs"

    def evaluate(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Interpolate into the last of inputs as in :meth:`examples`."""
        logits, above, below, fraction, interpolated = tensors
        fraction = fraction.unsqueeze(1)
        interpolated.copy_(logits[:, above] * (1 - fraction) + logits[:, below] * fraction)
        return []

    def examples(self) -> list[Tensor]:
        """Logits, (C, h, W); the rows above and below each row of the result and its fraction, (H,); the result."""
        rows = [torch.zeros(16, dtype=torch.int64) for _ in range(2)]
        return [torch.zeros(4, 8, 32), *rows, torch.zeros(16), torch.zeros(4, 16, 32)]

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """Any logits and rows."""
        samples, height = _dimensions("classes", "samples", "width"), _dimensions("height")
        return [samples, *([height] * 3), {**samples, 1: height[0]}]


@dataclass(frozen=True)
class Adjoint:
    """The graph that gathers a gradient."""

    @property
    def purpose(self) -> str:
        """Name of the computation in messages."""
        return "the upsampling, second of two graphs"

    def evaluate(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Gather the gradient of the samples, (C, h, W), from inputs as in :meth:`examples`."""
        grad, row, weight = tensors
        return [(grad[:, row] * weight.unsqueeze(2)).sum(1)]

    def examples(self) -> list[Tensor]:
        """The gradient, (C, H, W); the rows that a sample gathers and their weights, (R, h).

        The first of a sample come first: lines of samples, along which Inductor finds nothing to read at once, leave
        the columns as the vectors.
        """
        return [torch.zeros(4, 16, 32), torch.zeros(6, 8, dtype=torch.int64), torch.zeros(6, 8)]

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """Any gradient, samples and rows."""
        return [_dimensions("classes", "height", "width"), *([_dimensions("rows", "samples")] * 2)]


def _dimensions(*names: str) -> dict[int, Any]:
    return {i: torch.export.Dim(name, min=2, max=packages.MAX_SIZE) for i, name in enumerate(names)}
