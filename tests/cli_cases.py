"""Commands of a test: a run that they read, and the line that a user error gives."""

from trainer_runs import tiny_run

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config.io import save_config


def finished_run(folder):
    """Train the tiny run to its end."""
    save_config(tiny_run(), folder / "tiny.yaml")
    assert main(["train", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def error_of(capsys, *arguments):
    """The one line that a user error gives."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.out
    return lines[0]
