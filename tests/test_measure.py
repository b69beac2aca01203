import pytest
import torch

from fpl_fast.bench.measure import DeviceClock, copy_gbps, flush_cache, hold_device, peak_memory_mb

CPU = torch.device("cpu")


def test_peak_memory_counts_what_lives_at_once() -> None:
    kept = torch.empty(2**20)

    def step() -> torch.Tensor:
        first = torch.zeros(2**20)  # 4 MB
        second = first + 1  # 8 MB
        del first  # 4 MB
        return second + kept  # 8 MB: what was there before does not count

    for _ in range(2):  # memory that the allocator keeps from the first call must not hide the second
        assert peak_memory_mb(step, CPU) == pytest.approx(8, abs=0.01)


def test_peak_memory_of_no_allocation() -> None:
    assert peak_memory_mb(lambda: None, CPU) == 0


def test_copy_bandwidth_is_plausible() -> None:
    assert 0.1 < copy_gbps(CPU, rounds=2) < 10_000


class FakeEvent:
    """Stands for a CUDA event on a stream where every record comes a second after the one before."""

    recorded = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.synchronized = False

    def record(self) -> None:
        FakeEvent.recorded += 1
        self.at_ms = 1000.0 * FakeEvent.recorded

    def synchronize(self) -> None:
        self.synchronized = True

    def elapsed_time(self, end: "FakeEvent") -> float:
        assert end.synchronized and not self.synchronized  # the work between them must not wait for the host
        return end.at_ms - self.at_ms


def test_device_clock_counts_between_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    clock = DeviceClock()
    readings = [clock() for _ in range(4)]
    assert readings == [0, 1, 1, 2]  # the second between two pairs is nobody's


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_clock_sees_the_device() -> None:
    clock, x = DeviceClock(), torch.zeros(2**28, device="cuda")
    start = clock()
    x.add_(1)
    elapsed = clock() - start
    assert 2**31 / 20e12 < elapsed < 1  # 2 GB moved: no card does it in less than 0.1 ms


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_queued_up_behind_a_held_device_waits() -> None:
    device = torch.device("cuda")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    hold_device(device, 0.05)
    end.record()
    assert not end.query()
    end.synchronize()
    assert 10 < begin.elapsed_time(end) < 500  # milliseconds; clocks differ


@pytest.mark.parametrize("act", [flush_cache, hold_device])
def test_a_cpu_is_left_alone(act) -> None:
    act(torch.device("cpu"))  # on a GPU it would ask CUDA
