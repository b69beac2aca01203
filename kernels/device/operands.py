"""Tensors as kernels take them: a pointer with its strides in elements. A tensor that is absent is None instead.

Triton specialises each field like an argument of its own: pointers and strides that are multiples of 16, strides of 1.
That makes full-resolution loads wide. A program that owns columns loads them one by one, and a kernel compiled for each
pattern of alignment would gain nothing: it takes the strides that depend on the size in sixteenths of an element, all
of them multiples of 16.
"""

from typing import Any, NamedTuple


class Pixels(NamedTuple):
    """A value of each pixel, (N, P)."""

    ptr: Any
    stride_n: Any
    stride_p: Any


class Classes(NamedTuple):
    """A value of each class of each pixel, (N, C, P)."""

    ptr: Any
    stride_n: Any
    stride_c: Any
    stride_p: Any
    ROWS: Any  # constexpr: pixels of a row of dense channels_last (see ``rows``), 1 or 2; 0 for any other layout


class ColumnPixels(NamedTuple):
    """A value of each pixel, (N, P), for programs that own columns."""

    ptr: Any
    stride_n: Any  # in sixteenths
    stride_p: Any


class Samples(NamedTuple):
    """A value of each class of each sample, (N, C, h, w), for programs that own columns."""

    ptr: Any
    stride_n: Any  # in sixteenths
    stride_c: Any  # in sixteenths
    stride_h: Any  # in sixteenths
    stride_w: Any  # 0 with a single column, whose sample lies on either side of every pixel


class Axis(NamedTuple):
    """Tables of an upsampled axis, see ``kernels/axis.py``."""

    cell_ptr: Any  # (positions,) int32
    fraction_ptr: Any  # (positions,) float32
    start_ptr: Any  # (cells + 1,) int32: first position in or behind each cell
