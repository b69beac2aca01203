"""The process that compiles: it hears no signal that is meant for the run, and does not outlive it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# Terminals signal the group of a run, from which its session keeps the process; schedulers signal every process of a
# job, which it ignores, as do the compilers that it starts. Its input stays open while the run lives and waits.
_LISTEN_TO_THE_RUN_ALONE = """
import os, select, signal, threading
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
def end_with_the_run():
    hang_up = select.poll()
    hang_up.register(0, 0)
    hang_up.poll()
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end_with_the_run, daemon=True).start()
"""


# PyTorch's, such as "W1127 09:49:49.123456 71 torch/utils/cpp_extension.py:117] No CUDA runtime is found".
_LOG_LINE = re.compile(r"(\[rank\d+\]:)?[VDIWEFC]\d{4} \d\d:\d\d:\d\d\.\d+ ")


class Ended(NamedTuple):
    """The end of a process."""

    returncode: int  # negative: the signal that ended it
    stdout: str
    stderr: str


def run_python(code: str, given: bytes, environment: Mapping[str, str], scratch: Path) -> Ended:
    """Run Python code in a process of its own and wait for it.

    Whatever ends the wait, a second Ctrl-C or SIGKILL of this process included, ends it and all that it started.

    Args:
        code: The code.
        given: Its standard input, which does not end.
        environment: All of its variables.
        scratch: Folder for what it writes to the console.
    """
    outputs = scratch / "stdout", scratch / "stderr"
    with outputs[0].open("wb") as stdout, outputs[1].open("wb") as stderr:  # pipes would have to be read meanwhile
        process = subprocess.Popen(
            [sys.executable, "-c", _LISTEN_TO_THE_RUN_ALONE + code],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its return code tells
                process.stdin.write(given)
                process.stdin.flush()
            process.wait()
        finally:
            if process.returncode != 0:
                _kill_group(process)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
    return Ended(process.returncode, *(path.read_text(errors="replace") for path in outputs))


def last_words(ended: Ended) -> str:
    """Reason why a process failed, in one line: the one that it wrote, or its end and the last line of an error."""
    given, error = (
        [line.strip() for line in text.splitlines() if line.strip() and not _LOG_LINE.match(line)]
        for text in (ended.stdout, ended.stderr)
    )
    if ended.returncode > 0 and given:
        return given[-1]
    code = ended.returncode
    end = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    return f"{end}, {error[-1][:300]}" if error else f"{end}, without a word"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, and the compilers that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # of a group that has ended; the latter on macOS
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
