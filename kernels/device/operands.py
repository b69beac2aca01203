"""Tensors as kernels take them: a pointer with its strides in elements. A tensor that is absent is None instead.

Triton specialises each field like an argument of its own: pointers and strides that are multiples of 16, strides of 1.
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
    ROWS: Any  # constexpr: dense channels_last, stride_c 1 and stride_p C; whole pixels are moved


class Samples(NamedTuple):
    """A value of each class of each sample that pixels are interpolated from, (N, C, h, w)."""

    ptr: Any
    stride_n: Any
    stride_c: Any
    stride_h: Any
    stride_w: Any


class Axis(NamedTuple):
    """Tables of an upsampled axis, see ``kernels/axis.py``."""

    cell_ptr: Any  # (positions,) int32
    fraction_ptr: Any  # (positions,) float32
    start_ptr: Any  # (cells + 1,) int32: first position in or behind each cell
