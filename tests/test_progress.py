import io
import logging
import re
import sys

import pytest
from rich.console import Console
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.cli import StderrHandler
from fpl_fast.trainer.commands import progress
from fpl_fast.trainer.commands.progress import ProgressMonitor, describe_record
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.folder import RunFolder

RATES = {"images_per_second": 12.34, "loader_wait": 0.056, "peak_memory_mb": 789.1}


def test_a_record_names_each_loss():
    scalars = {"loss": 3.0, "loss_sup": 1.5, "loss_labelled": 0.5, "loss_unsup": 1.0, "mean_positives": 1.234, **RATES}
    assert describe_record("train", scalars) == (
        "loss 3.000  sup 1.500  labelled 0.500  unsup 1.000  K 1.23  12.3 images/s  waiting 6 %  789 MB"
    )


@pytest.mark.parametrize(
    "method",
    [
        {"name": "supervised"},
        {"name": "mean_teacher", "loss": "mse"},
        {"name": "cutmix_seg", "loss": "mse"},
        {"name": "cct", "loss": "mse"},
        {"name": "gct", "loss": "mse"},
        {"name": "cac"},
        {"name": "ael"},
        {"name": "u2pl", "loss": "ce"},
        {"name": "unimatch", "loss": "ce", "engine": "eager"},
        {"name": "corrmatch", "loss": "ce", "engine": "eager"},
        {"name": "unimatch_v2", "loss": "ce", "engine": "eager"},
    ],
)
def test_every_method_can_be_described(tmp_path, method):
    monitor = Quiet()
    train(tiny_run(**method), RunFolder(tmp_path / "run"), monitor)
    texts = [describe_record(split, scalars) for _, split, scalars in monitor.records]
    assert all(text.startswith(("loss ", "mIoU ")) for text in texts)
    assert ("unsup" in texts[0]) == (method["name"] != "supervised")
    assert ("  K " in texts[0]) == (method["name"] in ("ael", "u2pl", "unimatch", "corrmatch", "unimatch_v2"))


def test_the_first_step_alone_has_no_rates():
    scalars = {"loss": 3.0, **RATES, "images_per_second": float("nan"), "startup_s": 61.2}
    assert describe_record("train", scalars) == "loss 3.000  start-up 61 s  789 MB"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 columns; what it was sent, without colours and movements of the cursor."""
    sent = Terminal()
    console = Console(file=sent, width=80, height=25, force_terminal=True, markup=False, emoji=False, highlight=False)
    monkeypatch.setattr(progress, "out_console", lambda: console)
    return lambda: re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent.getvalue()).replace("\r", "\n").splitlines()


LONG = "fpl_cps_cutmix-resnet101-1_16-12"


@pytest.mark.parametrize("title", ["run", LONG, "a:100:b", "[red]x[/red]"])
def test_80_columns_hold_step_and_time_left(terminal, title):
    with ProgressMonitor(title) as monitor:
        monitor.started(100_000, 104_832)
        monitor.stepped(100_001)
        scalars = {
            "loss": 3.0,
            "loss_sup": 1.5,
            "loss_labelled": 0.5,
            "loss_unsup": 1.0,
            "mean_positives": 1.2,
            **RATES,
        }
        monitor.logged(100_020, "train", scalars)
        monitor.stepped(100_020)
        monitor._bar.refresh()
    lines = terminal()
    assert max(map(len, lines)) <= 80
    bars = [line for line in lines if "100020/104832" in line]
    assert bars
    for line in bars:
        shown = title if len(title) < 20 else title[:8]
        assert re.match(rf" ?{re.escape(shown)}.* 100020/104832 +\d+:\d\d:\d\d left [-:\d]+ *$", line), line
    text = " ".join(" ".join(lines).split())
    assert describe_record("train", scalars).replace("  ", " ") in text
    assert "compiling the loss, once" in text


def test_log_lines_stand_above_the_bar(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    logger, handler = logging.getLogger("fpl_fast.test"), StderrHandler()
    logger.addHandler(handler)
    try:
        with ProgressMonitor("run") as monitor:
            monitor.started(0, 10)
            logger.warning("compiling a:100:b [red]once[/red]")
            monitor.stepped(1)
    finally:
        logger.removeHandler(handler)
    lines = [line.strip() for line in terminal()]
    assert "compiling a:100:b [red]once[/red]" in lines  # a line of its own
    assert sys.stderr.getvalue() == ""


def test_a_log_that_goes_to_a_file_stays_there(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressMonitor("run") as monitor:
        monitor.started(0, 10)
        StderrHandler().emit(logging.makeLogRecord({"msg": "compiling"}))
    assert sys.stderr.getvalue() == "compiling\n"
