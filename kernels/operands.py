"""Tensors of PyTorch as operands of kernels, see ``device/operands.py``: (H, W) seen as P pixels of one stride."""

from typing import NamedTuple, overload

from torch import Tensor

from fpl_fast.kernels.axis import Axis
from fpl_fast.kernels.configs import MAX_SINGLES
from fpl_fast.kernels.device import operands
from fpl_fast.kernels.specialisation import constant


class Outputs(NamedTuple):
    """Results of a launch: the sums of the terms or, instead, the first term of each pixel; and the gradient."""

    num_terms: int
    grad: Tensor | None = None  # like the student's logits, to be filled
    scale: float | Tensor | None = None  # factor of the gradient, a number or () float32; None for 1
    pixel_map: Tensor | None = None  # (N, H, W) contiguous float32, to be filled


@overload
def writable(grad: Tensor) -> Tensor: ...
@overload
def writable(grad: None) -> None: ...
@overload
def writable(grad: Tensor | None) -> Tensor | None: ...
def writable(grad: Tensor | None) -> Tensor | None:
    """Return ``grad``, or a contiguous tensor to write and copy from where the (H, W) of ``grad`` do not collapse."""
    if grad is None or _collapses(grad):
        return grad
    return grad.new_empty(grad.shape)


@overload
def collapsed(x: Tensor) -> Tensor: ...
@overload
def collapsed(x: None) -> None: ...
@overload
def collapsed(x: Tensor | None) -> Tensor | None: ...
def collapsed(x: Tensor | None) -> Tensor | None:
    """Return ``x``, or a contiguous copy where its (H, W) are not one dimension of one stride."""
    return x if x is None or _collapses(x) else x.contiguous()


def pixels(x: Tensor | None) -> operands.Pixels | None:
    """(N, H, W) as pixels; copied if (H, W) do not collapse into one dimension of one stride."""
    if x is None:
        return None
    x = collapsed(x)
    return operands.Pixels(x, x.stride(0), _pixel_stride(x))


def classes(x: Tensor | None) -> operands.Classes | None:
    """(N, C, H, W) as classes of pixels; copied like :func:`pixels`."""
    if x is None:
        return None
    x = collapsed(x)
    return operands.Classes(x, x.stride(0), x.stride(1), _pixel_stride(x), constant(_row_pixels(x)))


def column_pixels(x: Tensor | None) -> operands.ColumnPixels | None:
    """Like :func:`pixels`, for programs that own columns."""
    taken = pixels(x)
    return None if taken is None else operands.ColumnPixels(taken.ptr, 16 * taken.stride_n, taken.stride_p)


def samples(x: Tensor) -> operands.Samples:
    """(N, C, h, w), with any strides, as samples."""
    stride_n, stride_c, stride_h, stride_w = x.stride()
    return operands.Samples(x, 16 * stride_n, 16 * stride_c, 16 * stride_h, stride_w if x.shape[3] > 1 else 0)


def scale_arguments(scale: float | Tensor | None) -> tuple[Tensor | None, float | None]:
    """A scale as the arguments ``scale_ptr`` and ``scale`` of a kernel, one of which at least is None."""
    return (scale, None) if isinstance(scale, Tensor) else (None, scale)


def tables(axis: Axis) -> operands.Axis:
    """The tables of an axis."""
    return operands.Axis(axis.cell, axis.fraction, axis.start)


def _collapses(x: Tensor) -> bool:
    """Whether (H, W) are one dimension of one stride."""
    h, w = x.shape[-2:]
    stride_h, stride_w = x.stride()[-2:]
    return h <= 1 or w <= 1 or stride_h == w * stride_w


def _row_pixels(x: Tensor) -> int:
    """Choose ``ROWS``: pairs where C is odd and all pairs of 16-bit logits are words of memory.

    Pairs need even numbers. Triton compiles a kernel for multiples of 16 and one for others, and no third is worth it.
    """
    _, num_classes, h, w = x.shape
    if num_classes > MAX_SINGLES or x.stride(1) != 1 or _pixel_stride(x) != num_classes:
        return 0
    aligned = h * w % 16 == x.stride(0) % 16 == x.data_ptr() % 16 == 0
    return 2 if aligned and num_classes % 2 == 1 and x.element_size() == 2 else 1


def _pixel_stride(x: Tensor) -> int:
    return x.stride(-2) if x.shape[-1] == 1 else x.stride(-1)
