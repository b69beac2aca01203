"""Launcher of the divisor of a mean over pixels that a mask or labels decide on."""

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.capacity import capacity
from fpl_fast.kernels.device.mean_scale import mean_scale_kernel
from fpl_fast.kernels.repeat import RepeatedLaunches, traits

# Sixteen bytes of a mask for each of 256 threads; so many programs that all are on the device at once.
BLOCK = 4096
PROGRAMS_PER_MULTIPROCESSOR = 8

_LAUNCHES = RepeatedLaunches(mean_scale_kernel, num_warps=8)
_COUNTERS: dict[tuple[torch.device, int], Tensor] = {}


def mean_scale(labels: Tensor, ignored: int = 0) -> Tensor:
    """Compute 1 / number of pixels that count, () float32; 1 where there is none. One launch, no synchronisation.

    Args:
        labels: uint8, int32 or int64, or a bool mask; copied unless it is contiguous.
        ignored: the label that does not count.
    """
    labels = (labels.view(torch.uint8) if labels.dtype == torch.bool else labels).contiguous()
    reciprocal = torch.empty((), dtype=torch.float32, device=labels.device)
    most_programs = PROGRAMS_PER_MULTIPROCESSOR * capacity(labels.device).multiprocessors
    num_programs = max(1, min(triton.cdiv(labels.numel(), BLOCK), most_programs))
    counter = _counter(labels.device)
    arguments = {
        "label_ptr": labels,
        "counter_ptr": counter,
        "reciprocal_ptr": reciprocal,
        "ignored": ignored,
        "num_pixels": labels.numel(),
        "BLOCK": BLOCK,
    }
    with torch.cuda.device_of(labels):
        _LAUNCHES((ignored, traits((labels, counter))), (num_programs, 1, 1), arguments)
    return reciprocal


def _counter(device: torch.device) -> Tensor:
    """A counter at 0. Launches on one stream follow each other and share one; a captured graph fills its own."""
    stream = 0
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return torch.zeros((), dtype=torch.int64, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
    counter = _COUNTERS.get((device, stream))
    if counter is None:
        counter = _COUNTERS[device, stream] = torch.zeros((), dtype=torch.int64, device=device)
    return counter
