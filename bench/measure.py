"""Measurement of time, memory and the bandwidth of a plain copy, on a CPU and on a GPU."""

import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["DeviceClock", "copy_gbps", "flush_cache", "hold_device", "peak_memory_mb", "synchronize"]


class DeviceClock:
    """A timer for pytest-benchmark that counts device time between two events of the current stream.

    It is called in pairs. The first call only records an event. If the device is still busy then (``hold_device``), the
    work queues up behind this event without a gap. The second call waits for the device and advances the clock by the
    time between the events.
    """

    __name__ = "DeviceClock"

    def __init__(self) -> None:
        self._now_s = 0.0
        self._started: torch.cuda.Event | None = None

    def __call__(self) -> float:
        """Read the clock, in seconds."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        if self._started is None:
            self._started = event
        else:
            event.synchronize()
            self._now_s += self._started.elapsed_time(event) * 1e-3
            self._started = None
        return self._now_s


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flush_cache(device: torch.device) -> None:
    """Fill the caches of a GPU with other data, so that no round finds the inputs of the round before.

    The data are read, not written: a cache of written data would be written back during the round. On a CPU this does
    nothing.
    """
    if device.type == "cuda":
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        torch.empty(size, dtype=torch.int8, device=device).sum()


def hold_device(device: torch.device, seconds: float = 2e-3) -> None:
    """Keep a GPU busy for about this long, so that the host has queued up the whole round before it begins.

    Otherwise a round of a few small kernels would take as long as Python needs to launch them. On a CPU this does
    nothing.
    """
    if device.type == "cuda":
        torch.cuda._sleep(int(seconds * 2e9))  # clock cycles


def copy_gbps(device: torch.device, *, rounds: int = 7) -> float:
    """Measure the bandwidth of a large copy, bytes read plus bytes written, in 1e9 bytes a second (best of rounds)."""
    size = 2**31 if device.type == "cuda" else 2**27
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    clock = DeviceClock() if device.type == "cuda" else time.perf_counter
    durations = []
    for _ in range(rounds):
        start = clock()
        target.copy_(source)
        durations.append(clock() - start)
    return 2 * size / min(durations) / 1e9


def peak_memory_mb(step: Callable[[], object], device: torch.device) -> float:
    """Measure the peak memory of tensors during one call of ``step``, beyond the memory held before, in 2**20 bytes.

    On a GPU the allocator keeps the count, to which the memory that CUDA graphs hold for good is added. On a CPU it is
    summed from the profiler's record of every allocation. The resident memory of the process would be misleading,
    because allocators keep memory that they have once obtained.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before + _graphs_bytes()) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(itertools.accumulate((size for _, size in allocations), initial=0)) / 2**20


def _graphs_bytes() -> int:
    """Bytes of the pools that the allocator keeps for CUDA graphs."""
    return sum(x["total_size"] for x in torch.cuda.memory_snapshot() if tuple(x["segment_pool_id"]) != (0, 0))
