import fresh
import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.nn import functional as F

from fpl_fast.trainer.methods.flaw_maps import blur_kernel, compare_flaws, flaw_target, handle_flaws

C = 5


def public_kernel(size):
    """A single pixel, filtered by scipy, as the public code makes its kernels."""
    pixel = np.zeros((size, size))
    pixel[size // 2, size // 2] = 1
    return torch.from_numpy(scipy.ndimage.gaussian_filter(pixel, 0.3 * ((size - 1) * 0.5 - 1) + 0.8))


def public_blur(maps, size):
    size += size % 2 == 0
    padded = F.pad(maps.unsqueeze(1), [size // 2] * 4, mode="reflect")
    return F.conv2d(padded, public_kernel(size).to(maps.dtype).view(1, 1, size, size)).squeeze(1)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 33, 129])
def test_the_kernel_is_that_of_a_filtered_pixel(size):
    line = blur_kernel(size)
    torch.testing.assert_close(torch.outer(line, line), public_kernel(size), rtol=1e-12, atol=1e-15)


def test_flaw_target_equals_the_literal_version():
    rng = fresh.rng()
    height, width = (int(rng.integers(20, 50)) for _ in range(2))
    probability = torch.from_numpy(rng.dirichlet(np.ones(C), (2, height, width))).movedim(-1, 1)
    label = torch.from_numpy(rng.integers(0, C, (2, height, width)))
    label[torch.from_numpy(rng.random((2, height, width)) < 0.2)] = 255
    one_hot = torch.stack([label == c for c in range(C)], 1).double()
    maps = 0.5 * (one_hot - probability).abs().sum(1)
    side = min(height, width)
    maps = public_blur(maps, side // 8)
    maps = F.max_pool2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    maps = public_blur(maps, side // 4)
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    expected = (maps - lowest) / (highest - lowest + 1e-9)
    torch.testing.assert_close(flaw_target(probability, label), expected)
    assert expected.amax((1, 2)).tolist() == pytest.approx([1, 1])


def test_handled_maps_equal_the_literal_version():
    """One map has flaws; the other is too low, and becomes constant and negative."""
    flaws = torch.randn(2, 40, 56, dtype=torch.float64)
    flaws[1] = flaws[1] * 0.01 + 0.04
    ours = handle_flaws(flaws)
    for handled, given in zip(ours, flaws, strict=True):
        blurred = public_blur(given.clamp(min=0).unsqueeze(0), 2)[0]
        lowest, highest = blurred.min(), blurred.max()
        seen = blurred if highest > 0.1 else torch.zeros_like(blurred)
        torch.testing.assert_close(handled, (seen - lowest) / (highest - lowest + 1e-9))
    assert ours[0].min() == 0 and ours[0].max() == pytest.approx(1)
    assert ours[1].unique().numel() == 1 and ours[1][0, 0] < 0


def test_a_map_without_flaws_is_finite():
    assert (handle_flaws(torch.full((1, 20, 20), -1.0)) == 0).all()
    assert handle_flaws(torch.full((1, 20, 20), 0.7)).isfinite().all()


def test_the_network_with_fewer_flaws_teaches():
    """Beyond the threshold, flaws are alike; at a tie both keep their own prediction."""
    left, right = (torch.tensor(values).view(1, 1, -1) for values in ([0.1, 0.5, 0.3, 0.7, 0.9, 0.6, 0.7],
                                                                      [0.2, 0.4, 0.3, 0.9, 0.1, 0.7, 0.6]))  # fmt: skip
    compared = compare_flaws(left, right, 0.6)
    assert compared.right_better.flatten().tolist() == [False, True, False, False, True, False, True]
    assert compared.left_better.flatten().tolist() == [True, False, False, False, False, True, False]
    assert compared.both_bad.flatten().tolist() == [False, False, False, True, False, False, False]
    assert left[0, 0, 3] == pytest.approx(0.7)  # what it is given is not written to
