import gc
import os
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

# Runs of the trainer write, synchronise and remove thousands of files: in memory, where there is room for them.
if "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4 << 30:
    os.environ["TMPDIR"], tempfile.tempdir = "/dev/shm", None  # pytest has asked for the folder before

# OpenMP's threads spin while they wait: two workers of two threads each on two cores took 25 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton: kernels run on the CPU

import poison
import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    import quick_interpreter

    quick_interpreter.prepare_once()

with torch.device("cpu"):  # PyTorch lists the functions that allocate at the first use: before they are replaced below
    torch.empty(0)


def pytest_collection_finish():
    """A run of the trainer collects garbage; going through all modules took a third of a short one's time.

    Many objects live shortly: looking for cycles after every 700 of them took a tenth of the time of test_loop.py,
    test_step.py and test_recipes.py.
    """
    freeze_modules()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(config, items):
    """Files with slow tests come first, then those with many, so that no process is left with one at the end.

    Files that a command names keep its order: on a GPU the most telling come first, because time may run out.
    """
    if any(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    number = Counter(item.path for item in items)
    place = {path: index for index, path in enumerate(number)}
    items.sort(key=lambda item: (item.path not in slow, -number[item.path], place[item.path]))


def freeze_modules():
    """Take the modules out of what is collected, if there are many more than at the last call."""
    if len(sys.modules) > frozen[-1] + 100:
        gc.collect()
        gc.freeze()
        frozen.append(len(sys.modules))


frozen = [0]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A test's random inputs follow from the seed that the run prints and its own name, not from the tests before."""
    freeze_modules()
    torch.manual_seed(zlib.crc32(f"{item.config.getoption('randomly_seed', 0)} {item.nodeid}".encode()))


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu) if torch.cuda.is_available() else "cpu"])
def kernel_device(request):
    """Device of the kernels: a GPU where there is one, otherwise the CPU with the interpreter."""
    return request.param


on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the compiled engine runs on the CPU")


@pytest.fixture(params=["eager", "triton", pytest.param("compiled", marks=on_a_cpu)])
def engine(request, monkeypatch):
    """Each engine; the class planes run uncompiled here, and compiled in tests/test_planes.py."""
    if request.param == "compiled":
        from fpl_fast.engines import packages  # once the interpreter is chosen

        monkeypatch.setattr(packages, "load", lambda specialisation: specialisation.evaluate)
        monkeypatch.setattr(packages, "unavailable_reason", lambda: None)
    return request.param


@pytest.fixture
def nothing_is_compiled(monkeypatch):
    """engine="auto" compiles no graph, which takes a minute for each kind of loss: for tests of what is around it."""
    from fpl_fast.engines import choice  # once the interpreter is chosen

    monkeypatch.setattr(choice, "COMPILED_MIN_LOGITS", float("inf"))


@pytest.fixture(autouse=True)
def poison_uninitialised_memory(monkeypatch):
    """A result that depends on memory which nothing wrote becomes NaN."""
    for owner, name in poison.ALLOCATE:
        monkeypatch.setattr(owner, name, poison.poisoned(getattr(owner, name)))
