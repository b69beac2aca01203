"""Programs that tests fork end, speak and find their files as new processes do."""

import os
import signal
import time

import pytest
from fork_server import Python, _Server, python

SAY = "import os, sys; print(os.getcwd(), os.environ['WORD'], *sys.argv); print(__name__, file=sys.stderr)"


def test_a_program_has_its_folder_environment_arguments_and_streams(tmp_path):
    done = python("-c", SAY, "a", "b", cwd=tmp_path, env={"WORD": "mine"})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path} mine -c a b\n", "__main__\n")


def test_files_and_modules_are_found(tmp_path):
    (tmp_path / "beside.py").write_text("word = 'found'")
    (tmp_path / "program.py").write_text("import sys, beside\nprint(beside.word, *sys.argv[1:])")
    assert python(str(tmp_path / "program.py"), "x").stdout == "found x\n"
    assert python("-m", "program", "x", cwd=tmp_path).stdout == "found x\n"
    assert python("-m", "program", "x", env=os.environ | {"PYTHONPATH": str(tmp_path)}).stdout == "found x\n"


@pytest.mark.parametrize(
    ("code", "ended"),
    [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1), ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL)],
)
def test_how_a_program_ends(code, ended):
    assert python("-c", code).returncode == ended


def test_an_end_is_heard_however_late_one_listens(monkeypatch):
    """Number and end of a program come in one piece to a slow reader."""
    python("-c", "")  # the libraries are imported
    answer = _Server.answer

    def late(server):
        time.sleep(0.5)
        return answer(server)

    monkeypatch.setattr(_Server, "answer", late)
    process = Python(["-c", "import os; os._exit(0)"])  # at once
    assert process._server.answers(5)
    assert process.wait().returncode == 0
