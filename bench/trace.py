"""Launches, device time and host time of a step of the loss: ``python -m fpl_fast.bench.trace``.

A step is the loss and its gradient in the student's logits. Cases whose kernels compile in seconds come first, and each
is printed as soon as it is known: a run that is cut off has told something.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from fpl_fast import fuzzy_positive_loss
from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.measure import DeviceClock, hold_device, synchronize
from fpl_fast.bench.suites import selection

__all__ = ["Launches", "Trace", "count_launches", "describe", "main", "trace_launches", "trace_step"]

_WARM_UP, _HOST_STEPS, _QUEUED_STEPS = 3, 20, 10
_HOLD_S = 0.2  # longer than the host takes to launch the queued steps
_NAME_LENGTH = 80


class Launches(NamedTuple):
    """Launches of one kernel in a step."""

    name: str
    number: int
    total_us: float
    """Device time of all of them, microseconds."""


class Trace(NamedTuple):
    """Cost of a step."""

    launches: tuple[Launches, ...]
    """By kernel, the longest time first; copies and fills count, too. Empty on a CPU."""
    host_us: float
    """Median time of the host to enqueue a step, microseconds; on a CPU the step itself."""
    queued_us: float
    """Time of the device for one of several steps that queue up, microseconds."""


def main(arguments: list[str] | None = None) -> int:
    """Trace each case and print what was found."""
    parser = argparse.ArgumentParser(description="Count the launches of a step of the loss, and time host and device.")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    device = torch.device(parser.parse_args(arguments).device)
    for name, case, balance in _cases(device):
        inputs = make_inputs(case, device)
        loss = partial(
            fuzzy_positive_loss, inputs.student, inputs.teacher, max_positives=3, size=case.size, balance=balance
        )

        def step(loss: Callable[[], torch.Tensor] = loss, student: torch.Tensor = inputs.student) -> None:
            torch.autograd.grad(loss(), student)

        start = time.perf_counter()
        for _ in range(_WARM_UP):
            step()
        synchronize(device)
        first_s = time.perf_counter() - start
        text = describe(f"{name}, {case}", trace_step(step, device))
        sys.stdout.write(f"{text}\n  first {_WARM_UP} steps: {first_s:.1f} s\n")
        sys.stdout.flush()
    return 0


def trace_step(step: Callable[[], object], device: torch.device) -> Trace:
    """Trace a step that has been compiled."""
    launches = trace_launches(step, device)
    host_s = []
    for _ in range(_HOST_STEPS):
        synchronize(device)
        start = time.perf_counter()
        step()
        host_s.append(time.perf_counter() - start)
    clock = DeviceClock() if device.type == "cuda" else time.perf_counter
    synchronize(device)
    hold_device(device, _HOLD_S)
    start = clock()
    for _ in range(_QUEUED_STEPS):
        step()
    return Trace(launches, 1e6 * statistics.median(host_s), 1e6 * (clock() - start) / _QUEUED_STEPS)


def trace_launches(step: Callable[[], object], device: torch.device) -> tuple[Launches, ...]:
    """Record the launches of one step by kernel, the longest time first; none on a CPU."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        step()
        synchronize(device)
    return count_launches(profiler.events() or ())


def count_launches(events: Iterable[Any]) -> tuple[Launches, ...]:
    """Sum the profiler's events on the device by name."""
    found: dict[str, list[float]] = {}
    for event in events:
        if event.device_type.name == "CUDA":
            found.setdefault(event.name, []).append(event.time_range.elapsed_us())
    launches = (Launches(name, len(times), sum(times)) for name, times in found.items())
    return tuple(sorted(launches, key=lambda kernel: -kernel.total_us))


def describe(name: str, trace: Trace) -> str:
    """Render a trace as lines of text."""
    number, total_us = sum(x.number for x in trace.launches), sum(x.total_us for x in trace.launches)
    return "\n".join(
        [
            f"## {name}: {number} launches, {total_us:.1f} us of kernels",
            *(f"  {x.number:4d} x {x.total_us / x.number:10.2f} us  {x.name[:_NAME_LENGTH]}" for x in trace.launches),
            f"  host, to enqueue a step: {trace.host_us:.0f} us",
            f"  device, queued: {trace.queued_us:.1f} us a step",
        ]
    )


def _cases(device: torch.device) -> Iterator[tuple[str, Case, bool]]:
    """Names, cases, and whether the loss is balanced: tiny, at full resolution, upsampled."""
    full, upsampled = (
        selection(problem, "headline", device.type)[0].case for problem in ("fuzzy_positive", "upsampling")
    )
    tiny = Case(shape=(1, full.num_classes, 32, 32), dtype=full.dtype)
    for name, case in (("tiny", tiny), ("full resolution", full), ("upsampled", upsampled)):
        yield name, case, False
        yield f"{name}, balance", case, True


if __name__ == "__main__":
    sys.exit(main())
