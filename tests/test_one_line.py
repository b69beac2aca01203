import os
import signal
import types

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fpl_fast.trainer.data.one_line import in_one_line, loader_fault


class Bad:
    """A data set whose third item is bad."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            raise ValueError("c.png: the image must be readable, got nonsense")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_the_message_alone(workers):
    items = in_one_line(DataLoader(Bad(), batch_size=None, num_workers=workers))
    assert [int(next(items)) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match=r"^c\.png: the image must be readable, got nonsense$"):
        next(items)


class Fails:
    """A data set whose second item ends in one way or another."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            FAILURES[self.how]()
        return index


def fail(error):
    raise error


FAILURES = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crashed": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "left": lambda: os._exit(1),
    "no memory": lambda: fail(MemoryError()),
    "no memory for an array": lambda: np.empty(10**16),
    "no memory for a tensor": lambda: torch.empty(10**15),
    "no shared memory": lambda: fail(
        RuntimeError("unable to write to file </torch_7_8_0>: No space left on device (28)")
    ),
    "too many files": lambda: fail(RuntimeError("received 0 items of ancdata")),
    "disk": lambda: fail(OSError("a.bin: Input/output error")),
}


DEAD = "^loader processes must live as long as the run, got one that was killed, probably .*: lower train.workers, "


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no memory", "a loader must find memory for its images, got none: lower train.workers, "),
        ("no memory for an array", "a loader must find memory for its images"),
        ("no memory for a tensor", "a loader must find memory for its images"),
        ("no shared memory", r"shared memory, got none: enlarge /dev/shm \(docker run --shm-size 8g\), or lower train"),
        ("too many files", r"got too many open ones: raise the limit \(ulimit -n 65536\) or lower train\.workers"),
        ("disk", r"^a\.bin: Input/output error$"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_what_becomes_of_a_loader_process_is_one_line(how, message, workers):
    with pytest.raises(OSError, match=message) as error:
        list(in_one_line(DataLoader(Fails(how), batch_size=None, num_workers=workers)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["killed", "crashed", "left"])
def test_a_dead_loader_process_is_one_line(how):
    with pytest.raises(OSError, match=DEAD):
        list(in_one_line(DataLoader(Fails(how), batch_size=None, num_workers=1)))


def test_a_bus_error_is_one_of_shared_memory():
    """The test uses torch's text of the error; the signal itself would leave a core file."""
    text = (
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of"
    )
    assert "enlarge /dev/shm" in str(
        loader_fault(RuntimeError(f"{text} shared memory. Please try to raise your limit."))
    )


def test_a_dead_loader_process_is_told_of_anywhere(monkeypatch, capsys):
    from fpl_fast.trainer import cli

    def train(message):
        def main(arguments):
            raise RuntimeError(message)

        return types.SimpleNamespace(main=main)

    monkeypatch.setattr(
        cli.importlib, "import_module", lambda name: train("DataLoader worker (pid 7) is killed by signal")
    )
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err.startswith("error: loader processes must live as long as the run, got one that")
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: train("a fault of ours: cannot allocate"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main(["train"])


def test_other_errors_pass():
    def broken():
        yield 1
        raise KeyError("a")

    with pytest.raises(KeyError):
        list(in_one_line(broken()))
