"""Where the time and the memory of a run go."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["Clock", "available_memory_bytes", "peak_memory_mb"]

_Item = TypeVar("_Item")


class Clock:
    """Splits the wall clock of a run into training, waiting for batches, and pauses.

    Args:
        elapsed_s: Seconds that earlier parts of the run took.
    """

    def __init__(self, elapsed_s: float = 0.0) -> None:
        self._start = time.perf_counter() - elapsed_s
        self._mark = time.perf_counter()
        self._waited = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run so far, pauses and earlier parts included."""
        return time.perf_counter() - self._start

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
        """Leave the time inside out of the rates."""
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before

    def read(self, num_images: int) -> dict[str, float]:
        """Rates since the last reading, in which ``num_images`` images were trained on; starts anew."""
        now = time.perf_counter()
        seconds = max(now - self._mark, 1e-9)
        rates = {"images_per_second": num_images / seconds, "loader_wait": self._waited / seconds}
        self._mark, self._waited = now, 0.0
        return rates | {"elapsed_s": self.elapsed_s}


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held at a time so far, in MB: allocated tensors on a GPU, resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def available_memory_bytes() -> int | None:
    """Memory that processes could still have, page cache included; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
