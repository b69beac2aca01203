"""The process that compiles, with a shell in the place of a compiler: what it hears, and that it ends with the run."""

import os
import select
import signal
import subprocess
import sys

import pytest

from fpl_fast.engines import process

# The compiler that the process starts: it tells its number, and ends when it is let go.
COMPILER = ["sh", "-c", 'exec 3>told; echo $$ >&3; read line <go; echo "$line"']
COMPILE = f"import subprocess; subprocess.run({COMPILER!r}, check=True)"
RUN = f"""
import os, pathlib, signal
from fpl_fast.engines import process
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background may have told it to ignore it
if {{heeds}}:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: print("heard", flush=True))
print(process.run_python({COMPILE!r}, b"", os.environ, pathlib.Path()))
"""


@pytest.fixture
def start(tmp_path):
    """Start a run that compiles; returns it, where the compiler tells its number, and that number."""
    os.mkfifo(tmp_path / "told")
    os.mkfifo(tmp_path / "go")
    runs = []

    def start(*, heeds):
        code = RUN.format(heeds=heeds)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        keywords = {"cwd": tmp_path, "env": environment, "start_new_session": True, "stdout": subprocess.PIPE}
        run = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, text=True, **keywords)
        told = os.open(tmp_path / "told", os.O_RDONLY | os.O_NONBLOCK)
        runs.append((run, told))
        return run, told, int(hear(told))

    yield start
    for run, told in runs:
        run.kill()
        run.wait()
        run.stdout.close()
        os.close(told)


def hear(told):
    """The words of the compiler, or nothing once it is gone, as the pipe that it holds open ends only then."""
    assert select.select([told], [], [], 30)[0]
    return os.read(told, 64)


def test_signals_to_the_run_do_not_end_what_it_compiles(start, tmp_path):
    """A terminal signals the group, a scheduler each process."""
    run, _, compiler = start(heeds=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(run.pid, number)
        assert run.stdout.readline() == "heard\n"
        for each in (compiler, os.getsid(compiler)):
            os.kill(each, number)
    (tmp_path / "go").write_text("compiled\n")
    assert run.communicate()[0] == str(process.Ended(0, "compiled\n", "")) + "\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_a_run_compiles_ends_with_it(start, number):
    run, told, _ = start(heeds=False)
    os.killpg(run.pid, number)
    run.wait()
    assert hear(told) == b""


def test_a_process_that_is_killed_takes_its_compiler_along(start):
    run, told, compiler = start(heeds=False)
    os.kill(os.getsid(compiler), signal.SIGKILL)
    assert run.communicate()[0] == f"{process.Ended(-signal.SIGKILL, '', '')}\n"
    assert hear(told) == b""


def test_a_process_that_does_not_read_its_input(tmp_path):
    code = "import sys; print('out'); sys.exit('err')"
    assert process.run_python(code, bytes(1 << 20), os.environ, tmp_path) == process.Ended(1, "out\n", "err\n")


LOGGED = "W1127 09:49:49.123456 71 torch/utils/cpp_extension.py:117] No CUDA runtime is found\n"


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ((1, "x.cpp:1: error: no\n", "Traceback\n"), "x.cpp:1: error: no"),
        ((1, LOGGED, f"ImportError: none\n{LOGGED}\n[rank0]:{LOGGED}"), "exit code 1, ImportError: none"),
        ((3, "", LOGGED), "exit code 3, without a word"),
        ((0, "", ""), "exit code 0, without a word"),
        ((-11, "", LOGGED), "signal 11 (Segmentation fault), without a word"),
        ((-9, "begun", "half a line"), "signal 9 (Killed), half a line"),
    ],
)
def test_the_reason_of_a_failure_is_no_log_line(ended, words):
    assert process.last_words(process.Ended(*ended)) == words
