"""Measurement of the time and the memory of a run."""

import ctypes
import gc
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["Clock", "available_memory_bytes", "peak_memory_mb", "reset_peak_memory"]

_Item = TypeVar("_Item")


class Clock:
    """Splits the wall clock of a run into start-up, training, waiting for batches, and pauses.

    The first step of a process includes compilation. It belongs to start-up, which rates and ``elapsed_s`` leave out.

    Args:
        elapsed_s: Seconds that earlier parts of the run took.
    """

    def __init__(self, elapsed_s: float = 0.0) -> None:
        self._made = self._mark = time.perf_counter()
        self._before = elapsed_s
        self._startup_s: float | None = None
        self._waited = 0.0
        self.started = False

    def start(self) -> None:
        """Begin to count: the first step is done."""
        self._mark, self._waited, self.started = time.perf_counter(), 0.0, True
        self._startup_s = self._mark - self._made
        self._made = self._mark

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run so far, including pauses and earlier parts, excluding start-up."""
        return self._before + (time.perf_counter() - self._made if self.started else 0.0)

    def waiting(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Pass items on and count the time it takes to get them."""
        iterator = iter(items)
        while True:
            before = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - before
            yield item

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the context from the rates."""
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before

    def read(self, num_images: int) -> dict[str, float]:
        """Rates since the last reading, in which ``num_images`` images were trained on; starts anew.

        The first reading also has the seconds of start-up; if it covers nothing else, its rates are NaN.
        """
        now = time.perf_counter()
        seconds = max(now - self._mark, 1e-9) if num_images else math.nan
        rates = {"images_per_second": num_images / seconds, "loader_wait": self._waited / seconds}
        self._mark, self._waited = now, 0.0
        startup = {} if self._startup_s is None else {"startup_s": self._startup_s}
        self._startup_s = None
        return rates | {"elapsed_s": self.elapsed_s} | startup


def reset_peak_memory(device: torch.device) -> None:
    """Reset ``peak_memory_mb``, as far as the system permits it; on a CPU, give back what earlier work has freed."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held at a time since ``reset_peak_memory``, in MB.

    On a GPU this counts allocated tensors. On a CPU it is the resident memory of the whole process, including libraries
    and what earlier work still holds (and since the start of the process, where the system cannot reset the peak).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def available_memory_bytes() -> int | None:
    """Memory that processes could still allocate, including page cache; None where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
