"""The count of launches: all that needs no GPU; events and clocks of one are stand-ins."""

from types import SimpleNamespace

import pytest
import torch

from fpl_fast.bench import trace
from fpl_fast.bench.cases import Case
from fpl_fast.bench.trace import Launches, Trace, count_launches, describe, trace_step

CPU = torch.device("cpu")


def event(name, us, device="CUDA"):
    return SimpleNamespace(
        name=name, device_type=SimpleNamespace(name=device), time_range=SimpleNamespace(elapsed_us=lambda: us)
    )


def test_events_are_summed_by_kernel():
    events = [event("fill", 1.0), event("kernel", 10.0), event("fill", 2.0), event("aten::fill_", 50.0, "CPU")]
    assert count_launches(events) == (Launches("kernel", 1, 10.0), Launches("fill", 2, 3.0))


def test_a_trace_as_text():
    lines = describe(
        "a case", Trace((Launches("k" * 200, 2, 30.0), Launches("fill", 1, 1.5)), 900.4, 41.25)
    ).splitlines()
    assert lines == [
        "## a case: 3 launches, 31.5 us of kernels",
        f"     2 x      15.00 us  {'k' * 80}",
        "     1 x       1.50 us  fill",
        "  host, to enqueue a step: 900 us",
        "  device, queued: 41.2 us a step",
    ]


def test_a_step_on_a_cpu_has_times_and_no_launches():
    x, calls = torch.ones(100), []
    found = trace_step(lambda: calls.append(x.sum()), CPU)
    assert found.launches == () and found.host_us > 0 and found.queued_us > 0
    assert len(calls) == 1 + 20 + 10  # profiled, timed on the host, queued


def test_a_device_is_held_while_steps_queue_up(monkeypatch):
    """One pair of readings of the device's clock around the queued steps alone, after the device has been held."""
    order = []
    profiler = SimpleNamespace(events=lambda: [event("kernel", 5.0)])
    monkeypatch.setattr(trace, "profile", lambda activities: type("P", (), {
        "__enter__": lambda self: profiler, "__exit__": lambda self, *error: None})())  # fmt: skip
    monkeypatch.setattr(trace, "synchronize", lambda device: order.append("wait"))
    monkeypatch.setattr(trace, "hold_device", lambda device, seconds: order.append("hold"))
    readings = iter([1.0, 1.5])
    monkeypatch.setattr(trace, "DeviceClock", lambda: lambda: (order.append("read"), next(readings))[1])
    found = trace_step(lambda: order.append("step"), torch.device("cuda"))
    assert found.launches == (Launches("kernel", 1, 5.0),) and found.queued_us == pytest.approx(0.5e6 / 10)
    assert order[-14:] == ["wait", "hold", "read", *["step"] * 10, "read"]
    assert order[:2] == ["step", "wait"]  # the profiled step is complete


def test_every_kind_of_case_is_traced(monkeypatch, capsys):
    """The tiny ones, which compile nothing, in place of the benchmarks' own; these come in the order of their cost."""
    names = [name for name, *_ in trace._cases(torch.device("cuda"))]
    assert names == [f"{kind}{balance}" for kind in ("tiny", "full resolution", "upsampled")
                     for balance in ("", ", balance")]  # fmt: skip
    cases = {name: (case, balance) for name, case, balance in trace._cases(torch.device("cuda"))}
    assert cases["upsampled"][0].size == (800, 800) and cases["full resolution"][0].size is None
    small = [("plain", Case(shape=(1, 5, 8, 8)), False), ("upsampled", Case(shape=(1, 5, 4, 4), size=(8, 8)), True)]
    monkeypatch.setattr(trace, "_cases", lambda device: iter(small))
    assert trace.main(["--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "## plain, 1x5x8x8-float32-nchw-k3-uncertain: 0 launches" in printed
    assert printed.count("first 3 steps") == 2 and "## upsampled, 1x5x4x4-to-8x8-" in printed
