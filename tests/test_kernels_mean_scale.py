"""The divisor of a mean, against PyTorch's count."""

import pytest
import torch

from fpl_fast.kernels import mean_scale as launcher
from fpl_fast.kernels.mean_scale import BLOCK, mean_scale

# In none, a part, or all of a block; in several programs, and in several turns of each.
NUMBERS = [0, 1, 37, BLOCK, BLOCK + 1, 20 * BLOCK + 5]


def expected(counts):
    return counts.sum().clamp(min=1).float().reciprocal()


@pytest.mark.parametrize("number", NUMBERS)
def test_masks(kernel_device, number):
    """To the bit, whatever a launch before has counted."""
    masks = [torch.rand(number, device=kernel_device) < share for share in (0.5, 0.0, 1.1)]
    for mask in (*masks, masks[0]):
        assert torch.equal(mean_scale(mask), expected(mask))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels(kernel_device, dtype):
    target = torch.randint(0, 5, (2, 37, 41), dtype=dtype, device=kernel_device)
    for ignored in (3, 255, -1, *([1 << 40] if dtype == torch.int64 else [])):
        assert torch.equal(mean_scale(target, ignored), expected(target.to(torch.int64) != ignored))


def test_any_strides(kernel_device):
    mask = torch.rand(3, 22, 17, device=kernel_device) < 0.5
    for view in (mask.transpose(0, 2), mask[:, ::2], mask[:, :1].expand(3, 22, 17)):
        assert torch.equal(mean_scale(view), expected(view))


def test_streams_share_no_counter(kernel_device, monkeypatch):
    """Launches on one stream follow each other; those of a graph are repeated whenever it is replayed."""
    monkeypatch.setattr(launcher, "_COUNTERS", {})
    device = torch.device(kernel_device)
    assert launcher._counter(device) is launcher._counter(device)

    class Stream:
        cuda_stream = 7

    cuda, made = torch.device("cuda", 3), []
    monkeypatch.setattr(torch, "zeros", lambda *_, device, **__: made.append(device) or object())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    first = launcher._counter(cuda)
    assert launcher._counter(cuda) is first
    Stream.cuda_stream = 8
    assert launcher._counter(cuda) is not first
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert launcher._counter(cuda) is not launcher._counter(cuda)
    assert made == [cuda] * 4
