import pytest
import torch
import triton
import triton.language as tl

from fpl_fast.kernels.device.classes import fold_max, fold_min, fold_sum, load_classes, store_classes, widen
from fpl_fast.kernels.device.classes import zero_times_sum as poison_of
from fpl_fast.kernels.device.rows import load_rows, store_rows


@triton.jit
def classes_kernel(
    x_ptr,
    copy_ptr,
    folds_ptr,
    stride_c,
    stride_p,
    num_pixels,
    C: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    ROWS: tl.constexpr,
):
    pixel = tl.arange(0, P)
    if G > 1:
        pixel = pixel[None, :]
    in_bounds = pixel < num_pixels
    if ROWS == 0:
        groups = load_classes(x_ptr, pixel * stride_p, in_bounds, stride_c, C, G)
        store_classes(copy_ptr, pixel * stride_p, in_bounds, stride_c, groups, C, G)
    else:
        groups = load_rows(x_ptr, num_pixels, C, ROWS, P)
        wide = widen(groups, C, G, False)  # as a gradient is stored
        store_rows(copy_ptr, num_pixels, wide, C, ROWS, P, False)
    wide = widen(groups, C, G, False)
    low = wide[0]
    high = wide[0]
    total = tl.exp2(wide[0])
    for g in tl.static_range(1, len(wide)):
        low = tl.minimum(low, wide[g])
        high = tl.maximum(high, wide[g])
        total += tl.exp2(wide[g])
    tl.store(folds_ptr + pixel, fold_sum(total), mask=in_bounds)
    tl.store(folds_ptr + P + pixel, fold_max(high), mask=in_bounds)
    tl.store(folds_ptr + 2 * P + pixel, fold_min(low), mask=in_bounds)
    tl.store(folds_ptr + 3 * P + pixel, poison_of(groups, False), mask=in_bounds)


# columns: a power of two, one more, one less, Cityscapes, pixels and pairs a row; tiles: with and without padding
SHAPES = [
    (2, 1, 1),
    (4, 1, 1),
    (5, 1, 1),
    (5, 1, 2),
    (7, 1, 2),
    (19, 1, 1),
    (19, 1, 2),
    (7, 1, 0),
    (36, 4, 0),
    (35, 4, 0),
]
NARROW = (torch.bfloat16, torch.float16)  # two of which are a word


@pytest.mark.parametrize(
    ("num_classes", "group", "rows", "dtype"),
    [(*shape, dtype) for shape in SHAPES for dtype in (*NARROW, torch.float32) if shape[2] < 2 or dtype in NARROW],
)
def test_load_store_and_fold(kernel_device, num_classes, group, rows, dtype):
    num_pixels = 14 if rows == 2 else 13
    x = torch.randn(num_classes, num_pixels, dtype=dtype, device=kernel_device)
    x[0, 3] = float("nan")
    x[num_classes - 1, 4] = float("inf")
    x[num_classes // 2, 5] = -float("inf")
    memory = x.t().contiguous().t() if rows else x
    copy = torch.empty_like(memory)
    folds = torch.empty(4, 16, device=kernel_device)
    classes_kernel[(1,)](memory, copy, folds, *memory.stride(), num_pixels, C=num_classes, G=group, P=16, ROWS=rows)
    assert copy.nan_to_num(7.0).equal(x.nan_to_num(7.0))
    folds = folds[:, :num_pixels]
    finite = x.isfinite().all(0)
    torch.testing.assert_close(folds[0, finite], x.float().exp2().sum(0)[finite])
    assert folds[3].isnan().equal(~finite)
    assert folds[3, finite].eq(0).all()
    assert folds[1, finite].equal(x.float().amax(0)[finite])
    if num_classes % group == 0:  # padding is -inf
        assert folds[2, finite].equal(x.float().amin(0)[finite])
