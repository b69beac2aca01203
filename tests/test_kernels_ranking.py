import pytest
import torch
import triton
import triton.language as tl

from fpl_fast.kernels.device.ranking import sort_descending, top4


@triton.jit
def load_groups(keys_ptr, P: tl.constexpr, C: tl.constexpr, G: tl.constexpr):
    groups = ()
    for g in tl.static_range(C // G):
        if G == 1:
            groups = groups + (tl.load(keys_ptr + g * P + tl.arange(0, P)),)
        else:
            row = g * G + tl.arange(0, G)
            groups = groups + (tl.load(keys_ptr + row[:, None] * P + tl.arange(0, P)[None, :]),)
    return groups


@triton.jit
def ranking_kernel(keys_ptr, top_ptr, sorted_ptr, P: tl.constexpr, C: tl.constexpr, G: tl.constexpr, TOP: tl.constexpr):
    groups = load_groups(keys_ptr, P, C, G)
    ranked = top4(groups)
    for i in tl.static_range(TOP):
        tl.store(top_ptr + i * P + tl.arange(0, P), tl.reshape(ranked[i], [P]))
    if G == 1:
        ranked = sort_descending(groups)
        for i in tl.static_range(C):
            tl.store(sorted_ptr + i * P + tl.arange(0, P), ranked[i])


# 2 and 3 have no fourth class; 4 to 9 end the groups of four with every remainder; 32 is the largest network
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 6, 7, 8, 9, 19, 32])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_networks(kernel_device, num_classes, dtype):
    keys = torch.rand(num_classes, 64, device=kernel_device).argsort(0).to(dtype) * 3 - 20  # unique, of both signs
    top = torch.empty(min(num_classes, 4), 64, dtype=dtype, device=kernel_device)
    ranked = torch.empty_like(keys)
    ranking_kernel[(1,)](keys, top, ranked, P=64, C=num_classes, G=1, TOP=top.shape[0])
    expected = keys.sort(dim=0, descending=True).values
    assert ranked.equal(expected)
    assert top.equal(expected[:4])


# two rows and many tiles, many rows and fewer tiles than four
@pytest.mark.parametrize(("num_classes", "group"), [(34, 2), (48, 8), (96, 32)])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_tiles(kernel_device, num_classes, group, dtype):
    keys = torch.rand(num_classes, 16, device=kernel_device).argsort(0).to(dtype) * 3 - 20
    top = torch.empty(4, 16, dtype=dtype, device=kernel_device)
    ranking_kernel[(1,)](keys, top, keys, P=16, C=num_classes, G=group, TOP=4)
    assert top.equal(keys.sort(dim=0, descending=True).values[:4])
