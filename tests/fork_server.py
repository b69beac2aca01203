"""Python programs as processes of their own, forked from one that has imported the libraries, which takes seconds.

``python(...)`` is what tests call instead of ``subprocess``, unless they are about a new process itself: what it
imports, how much memory it takes.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from trainer_runs import HANGS

_IMPORTED = (
    *("fpl_fast", "fpl_fast.trainer.loop", "fpl_fast.trainer.cli", "fpl_fast.trainer.commands.train"),
    *("fpl_fast.trainer.commands.progress", "fpl_fast.trainer.report", "fpl_fast.bench.report", "lightning", "pytest"),
)


class Python:
    """A program that runs; its streams go to files.

    Args:
        arguments: Of ``python``: a file, ``-m`` and a module, or ``-c`` and code; then those of the program.
        cwd: Folder that it starts in.
        env: Environment; None for the one of this process.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._server = _server()
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("out", "err")]
        given = (list(arguments), str(cwd or Path.cwd()), dict(os.environ if env is None else env))
        self.pid = int(self._server.ask(json.dumps((*given, *map(str, self._streams)))))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code, of a process that a signal ended its negative number; None while it runs."""
        if self.returncode is None and self._server.answers(0):
            self.returncode = int(self._server.answer())
        return self.returncode

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait until it ends, and kill it with all that it started if it does not."""
        if self.returncode is None:
            hangs = not self._server.answers(HANGS)
            if hangs:
                os.killpg(self.pid, signal.SIGKILL)
            self.returncode = int(self._server.answer())
            assert not hangs, f"a process hangs: {[path.read_text() for path in self._streams]}"
        out, err = (path.read_text() for path in self._streams)
        return subprocess.CompletedProcess((), self.returncode, out, err)


def python(*arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None):
    """Run a program to its end (see :class:`Python`)."""
    return Python(arguments, cwd, env).wait()


class _Server:
    """The process that imports, and forks one program at a time."""

    def __init__(self) -> None:
        # Triton must not be told yet whether it interprets: programs are. Nor may a look for GPUs start CUDA, which
        # does not outlive a fork.
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        command, pipe = [sys.executable, __file__], subprocess.PIPE
        # Without buffers: what has been read, but not taken, would look to select as if nothing had been said.
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, bufsize=0)

    def ask(self, line: str) -> str:
        """Have a program forked; return its number."""
        self._process.stdin.write(f"{line}\n".encode())
        return self.answer()

    def answer(self) -> str:
        """The next number that it says."""
        line = self._process.stdout.readline()
        assert line, "the process that forks others has ended"
        return line.decode()

    def answers(self, seconds: float) -> bool:
        """Whether it says something within ``seconds``."""
        return bool(select.select([self._process.stdout], [], [], seconds)[0])


_server = cache(_Server)


def _serve() -> None:
    """Fork a process for each line of the standard input; say its number, then how it ended."""
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect(), gc.freeze()  # a child that collects garbage would go through all modules, and copy their pages
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            return _become(*json.loads(line))
        _say(pid)
        _say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _become(arguments: list[str], cwd: str, environment: dict[str, str], *streams: str) -> None:
    """Be the program, and end as Python ends."""
    os.setsid()
    os.environ.clear(), os.environ.update(environment)
    for number, path in enumerate((os.devnull, *streams)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.chdir(cwd)
    # OpenMP has read the environment before; and threads that ask PyTorch for its pool all at once after a fork fail.
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], cwd
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(arguments[0])
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
