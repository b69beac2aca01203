import os
import signal
import socket
import subprocess
import sys

import pytest

from fpl_fast.trainer.run.lock import RunLock

HOLD = """
import os, sys
from pathlib import Path
from fpl_fast.trainer.run.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
if sys.argv[2] == "fork" and os.fork() == 0:  # as a loader process is
    sys.stdin.read()
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


def holder(path, how):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_one_holder_at_a_time_until_it_dies(tmp_path, how):
    process = holder(tmp_path / "lock", how)
    expected = f"but process {process.pid} on {socket.gethostname()} is at it: wait for it, stop it"
    for _ in range(2):
        with pytest.raises(ValueError, match=expected):
            RunLock(tmp_path / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with RunLock(tmp_path / "lock"):  # though a process that it forked lives on
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
    process.stdin.close()
    process.stdout.close()


def test_released_and_taken_again(tmp_path):
    with RunLock(tmp_path / "lock"):
        pass
    process = holder(tmp_path / "lock", "alone")
    process.communicate("")
    with RunLock(tmp_path / "lock"):
        pass
