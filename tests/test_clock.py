import dataclasses
import json
import os
import platform
import subprocess
import sys
import time

import pytest
import torch
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.clock import Clock, peak_memory_mb, reset_peak_memory
from fpl_fast.trainer.run.folder import RunFolder

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Function that lets time pass, with a clock that it alone advances."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_the_first_step_is_start_up(clock):
    made = Clock(elapsed_s=50.0)
    batches = made.waiting(iter(range(5)))
    clock(60)  # compiles
    next(batches)
    assert made.elapsed_s == 50
    made.start()
    clock(4)
    with made.paused():
        clock(10)
    assert made.read(8) == {"images_per_second": 2, "loader_wait": 0, "elapsed_s": 64, "startup_s": 60}
    clock(1)
    assert made.read(8) == {"images_per_second": 8, "loader_wait": 0, "elapsed_s": 65}


def test_start_up_alone_has_no_rates(clock):
    made = Clock()
    clock(3)
    made.start()
    first = made.read(0)
    assert first["images_per_second"] != first["images_per_second"]
    assert (first["elapsed_s"], first["startup_s"]) == (0, 3)


def test_a_run_tells_its_start_up_once_and_again_when_it_goes_on(tmp_path):
    config = tiny_run()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, log_every=1))
    folder = RunFolder(tmp_path / "run")
    train(config, folder, Quiet(lambda step: step == 3 and os.kill(os.getpid(), 15)))
    train(config, folder, Quiet(), resume=True)
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    steps = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in steps if "startup_s" in record] == [1, 4]
    assert [record["step"] for record in steps if record["images_per_second"] is None] == [1, 4]
    elapsed = [record["elapsed_s"] for record in records]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] < steps[0]["startup_s"]


PEAKS = """
import torch
from fpl_fast.trainer.run.clock import peak_memory_mb, reset_peak_memory
device = torch.device("cpu")
torch.ones(50_000_000)  # 200 MB, given back
before = peak_memory_mb(device)
reset_peak_memory(device)
print(before - peak_memory_mb(device))
kept = torch.ones(25_000_000)
print(peak_memory_mb(device))
reset_peak_memory(device)
print(peak_memory_mb(device))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system keeps the peak of a process")
def test_an_earlier_runs_peak_does_not_count():
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    fallen, held, kept = map(float, done.stdout.split())
    assert fallen > 150
    assert kept == pytest.approx(held, rel=0.1)


FREED = """
import torch
from fpl_fast.trainer.run.clock import peak_memory_mb, reset_peak_memory
device = torch.device("cpu")
parts = [torch.ones(1000) for _ in range(50_000)]  # 200 MB
last = parts[-1]  # lies behind the others, which the allocator therefore keeps
del parts
before = peak_memory_mb(device)
reset_peak_memory(device)
print(before - peak_memory_mb(device))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system keeps the peak of a process")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc_trim")
def test_what_earlier_work_has_freed_does_not_count():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 150


def test_memory_is_in_megabytes():
    reset_peak_memory(CPU)
    assert 20 < peak_memory_mb(CPU) < 100_000
