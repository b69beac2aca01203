"""Clocks, memory and the bandwidth of a plain copy, on a CPU and on a GPU."""

import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["DeviceClock", "copy_gbps", "flush_cache", "peak_memory_mb", "synchronize"]


class DeviceClock:
    """A timer for pytest-benchmark that counts device time between two events of the current stream.

    It is called in pairs. The first call only records an event, so that the work queues up behind it without a gap;
    the second waits for the device and advances the clock by the time between the events.
    """

    __name__ = "DeviceClock"

    def __init__(self) -> None:
        self._now_s = 0.0
        self._started: torch.cuda.Event | None = None

    def __call__(self) -> float:
        """Seconds on this clock."""
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
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flush_cache(device: torch.device) -> None:
    """Overwrite the caches of a GPU, so that no round finds the inputs of the round before; a CPU is left alone."""
    if device.type == "cuda":
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        torch.empty(size, dtype=torch.int8, device=device).zero_()


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
    """Memory that tensors need at most during one call of ``step``, beyond what is there before it, in 2**20 bytes.

    On a GPU the allocator keeps the count. On a CPU it is summed up from the profiler's record of every allocation: the
    resident memory of the process says nothing, because allocators keep what they have once got.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(itertools.accumulate((size for _, size in allocations), initial=0)) / 2**20
