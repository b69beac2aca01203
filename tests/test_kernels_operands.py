"""Tensors as operands of kernels: strides, copies, whole rows."""

import pytest
import torch

from fpl_fast.kernels.configs import MAX_SINGLES
from fpl_fast.kernels.operands import classes, column_pixels, pixels, samples, writable


def strided(*shape, layout=torch.contiguous_format):
    return torch.randn(shape).contiguous(memory_format=layout)


def at(operand, n, p, c=None):
    """The element that a kernel addresses."""
    offset = operand.ptr.storage_offset() + n * operand.stride_n + p * operand.stride_p
    offset += 0 if c is None else c * operand.stride_c
    return operand.ptr.as_strided((1,), (1,), offset)[0]


@pytest.mark.parametrize(
    "x",
    [
        strided(2, 5, 3, 4),
        strided(2, 5, 3, 4, layout=torch.channels_last),
        strided(2, 5, 4, 3).transpose(2, 3),  # copied: its pixels have no single stride
        strided(2, 7, 5, 6)[:, 1:6, 1:4, 1:5],
        strided(2, 5, 12, 1),
        strided(2, 5, 1, 12),
        strided(2, 1, 3, 4).expand(2, 5, 3, 4),
    ],
)
def test_every_element_is_where_the_strides_say(x):
    h, w = x.shape[2:]
    operand = classes(x)
    for n, c, y, column in ((0, 0, 0, 0), (1, 4, h - 1, w - 1), (1, 2, h // 2, w // 2)):
        assert at(operand, n, y * w + column, c) == x[n, c, y, column]
        assert at(pixels(x[:, c]), n, y * w + column) == x[n, c, y, column]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_programs_that_own_columns_take_strides_in_sixteenths(layout):
    x = strided(2, 5, 3, 4, layout=layout)
    stride_n, stride_c, stride_h, stride_w = x.stride()
    assert samples(x)[1:] == (16 * stride_n, 16 * stride_c, 16 * stride_h, stride_w) and samples(x).ptr is x
    assert samples(x[..., :1]).stride_w == 0  # the sample on the left of every pixel is the one on its right
    assert column_pixels(x[:, 1])[1:] == (16 * stride_n, stride_w) and column_pixels(None) is None


def test_whole_rows_are_moved_where_classes_lie_side_by_side():
    layout = torch.channels_last
    assert classes(strided(2, 5, 3, 4, layout=layout)).ROWS.value == 1
    assert classes(strided(2, 5, 3, 4)).ROWS.value == 0
    assert classes(strided(2, 6, 3, 4, layout=layout)[:, :5]).ROWS.value == 0  # a gap behind every pixel
    assert classes(strided(2, MAX_SINGLES + 1, 3, 4, layout=layout)).ROWS.value == 0  # tiles are loaded by strides


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pairs_of_pixels_are_moved_as_words_where_all_of_them_are_aligned(dtype):
    def row_pixels(*shape):
        return classes(torch.empty(shape, dtype=dtype).to(memory_format=torch.channels_last)).ROWS.value

    assert row_pixels(2, 5, 8, 4) == 2
    assert row_pixels(2, 5, 3, 4) == 1
    assert row_pixels(2, 5, 3, 3) == 1  # the second image begins at an odd place, and half a pair is left
    assert row_pixels(2, 6, 8, 4) == 1  # even rows need no pairs
    memory = torch.empty(1 + 2 * 32 * 5, dtype=dtype)
    assert classes(memory[:-1].view(2, 4, 8, 5).permute(0, 3, 1, 2)).ROWS.value == 2
    assert classes(memory[1:].view(2, 4, 8, 5).permute(0, 3, 1, 2)).ROWS.value == 1  # begins at an odd place


def test_a_gradient_that_cannot_be_written_in_place():
    assert pixels(None) is classes(None) is writable(None) is None
    grad = strided(2, 5, 3, 4)
    assert writable(grad) is grad
    transposed = grad.transpose(2, 3)
    assert writable(transposed).shape == transposed.shape and writable(transposed).is_contiguous()
