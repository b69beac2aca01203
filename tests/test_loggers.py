"""CSV and Weights & Biases: the names of metrics.jsonl, one row a record, also after kills."""

import csv
import dataclasses
import importlib.metadata
import json
import math
import os
import re
import signal
import struct
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_loop import TIMES, assert_same_state, metrics
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer import cli
from fpl_fast.trainer.config import TrainConfig
from fpl_fast.trainer.config.training import LOGGERS
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run import loggers
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.run.loggers import open_loggers
from fpl_fast.trainer.run.metrics import MetricsLog

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")


def logging_run(*names):
    config = tiny_run()
    return dataclasses.replace(config, train=dataclasses.replace(config.train, loggers=names))


def stop_at(step, number=signal.SIGTERM):
    return Quiet(lambda now: now == step and os.kill(os.getpid(), number))


def kill_at(step):
    def kill(now):
        if now == step:
            raise KeyboardInterrupt  # nothing is saved on the way out

    return Quiet(kill)


def named(folder):
    """The records of metrics.jsonl under the names of loggers, without times."""
    return [
        {"step": record["step"]}
        | {f"{record['split']}/{key}": math.nan if value is None else value for key, value in record.items()
           if key not in ("step", "split")}
        for record in metrics(folder)
    ]  # fmt: skip


def assert_equal(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, abs=0, rel=0, nan_ok=True)


def table(folder):
    with (folder.csv / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {"step": int(row.pop("step"))}
        | {key: float(value) for key, value in row.items() if value and key.partition("/")[2] not in TIMES}
        for row in rows
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run without further loggers that nothing interrupts."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "straight")
    train(logging_run(), folder, Quiet())
    return folder


def test_without_loggers_there_are_none(straight):
    assert not straight.csv.exists() and not straight.wandb.exists()


def test_names_are_those_of_tensorboard(straight):
    events = EventAccumulator(str(straight.tensorboard)).Reload()
    logged = {(row["step"], key): value for row in named(straight) for key, value in row.items() if key != "step"}
    assert len([name for name in events.Tags()["scalars"] if name.startswith("val/iou/")]) == 11
    assert events.Tags()["images"] == ["samples/0", "samples/1"]
    for tag in events.Tags()["scalars"]:
        if tag.partition("/")[2] not in TIMES:
            for event in events.Scalars(tag):
                assert event.value == pytest.approx(logged.pop((event.step, tag)), rel=1e-6, nan_ok=True)
    assert not logged


def test_csv_goes_on_without_repeating_itself(tmp_path, straight, recwarn):
    """The rows equal the lines of metrics.jsonl, and the run itself is as without the logger, bit for bit."""
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(logging_run("csv"), folder, kill_at(5))
    assert [row["step"] for row in table(folder)] == [2, 4, 4]  # what was logged is on the disk
    with (folder.csv / "metrics.csv").open("a") as file:
        file.write("6" + "," * 30 + "\n")  # of a step that will be repeated
    train(folder.load_config(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)
    assert_equal(table(folder), named(straight))
    assert not [warning for warning in recwarn if "Experiment logs directory" in str(warning.message)]
    with pytest.raises(ValueError, match="--out must be a new or an empty folder"):
        train(logging_run("csv"), folder, Quiet())


def opened(folder, *names, step=0):
    folder.path.mkdir(exist_ok=True)
    return MetricsLog(folder.metrics, folder.tensorboard, step=step, loggers=open_loggers(folder, logging_run(*names)))


def write(log, steps):
    """Write a record of training at each step, and one of validation at every other."""
    for step in steps:
        log.write(step, "train", {"loss": step + 0.5, "ratio": math.nan})
        if step % 4 == 0:
            log.write(step, "val", {"miou": step / 10}, {"samples/0": np.zeros((4, 6, 3), dtype=np.uint8)})


def test_a_logger_may_come_later_and_has_all_records(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with opened(folder) as log:
        write(log, (2, 4, 6))
    with opened(folder, "csv", step=4) as log:
        write(log, (6, 8))
    assert [row["step"] for row in table(folder)] == [2, 4, 4, 6, 8, 8]
    assert_equal(table(folder), named(folder))


def test_a_record_whose_step_ended_in_an_error_is_not_written_twice(tmp_path):
    """The step is repeated from its end on: the record is there, the checkpoint says that it is still to come."""
    folder = RunFolder(tmp_path / "run")
    for steps in ((2, 4), (4, 6)):
        with opened(folder, "csv", step=0 if 2 in steps else 4) as log:
            write(log, steps)
    assert [record["step"] for record in metrics(folder)] == [2, 4, 4, 6]
    assert_equal(table(folder), named(folder))


def test_a_csv_file_of_another_origin_stays(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.csv.mkdir(parents=True)
    (folder.csv / "metrics.csv").write_text("name,score\n")
    with pytest.raises(ValueError, match=r"csv/metrics\.csv: must be a table that fpl-fast wrote, got another file"):
        opened(folder, "csv")
    assert (folder.csv / "metrics.csv").read_text() == "name,score\n"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("wandn",), "must be a list of csv and wandb, each at most once, got 'wandn': did you mean 'wandb'?"),
        (("tensorboard",), "must be a list of csv and wandb, each at most once, got 'tensorboard'"),
        (("csv", "csv"), "must be a list of csv and wandb, each at most once, got ['csv', 'csv']"),
    ],
)
def test_names_are_checked(names, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'train.loggers {message}')}$"):
        TrainConfig(loggers=names)
    assert TrainConfig(loggers=LOGGERS).loggers == LOGGERS


def test_wandb_must_be_installed_before_training_starts(tmp_path, monkeypatch, capsys):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(loggers.importlib.metadata, "version", version)
    (tmp_path / "wandb").mkdir()  # which Python could import
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "synthetic/supervised", "--train.loggers", "[wandb]", "--out", "run"]
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("got 'wandb', which is not installed: pip install wandb")
    assert not (tmp_path / "run").exists()


class FakeRun:
    """A run of Weights & Biases that remembers its rows."""

    def __init__(self, id):
        self.id, self.rows, self.exit_code = id or "made-up", [], None

    def log(self, row, *, step, commit):
        assert commit
        self.rows.append((step, row))

    def finish(self, *, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def fake_wandb(monkeypatch):
    """Lightning's logger without the package; the runs that it opened."""
    runs, package, lightning = [], ModuleType("wandb"), ModuleType("lightning.pytorch.loggers")

    class WandbLogger:
        def __init__(self, **settings):
            self.settings = settings

        @property
        def experiment(self):
            if os.environ.get("WANDB_MODE") != "offline":
                raise package.errors.UsageError("api_key not configured\n(no-tty)")
            runs.append(FakeRun(self.settings["id"]))
            return runs[-1]

        def log_hyperparams(self, settings):
            runs[-1].settings = self.settings | {"config": settings}

    package.errors = SimpleNamespace(Error=RuntimeError, UsageError=type("UsageError", (RuntimeError,), {}))
    package.Image = lambda pixels: ("picture", pixels.shape)
    lightning.WandbLogger = WandbLogger
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", lightning)
    monkeypatch.setattr(loggers.importlib.metadata, "version", lambda name: "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return runs


def scalars(row):
    """Step and scalars of a row of Weights & Biases, without times."""
    return {"step": row["trainer/global_step"]} | {
        key: float(value)
        for key, value in row.items()
        if key.startswith(("train/", "val/")) and key.partition("/")[2] not in TIMES
    }


def test_wandb_goes_on_without_repeating_itself(tmp_path, fake_wandb):
    """Killed after step 6, and again before it got so far: each row comes once, in one run."""
    folder = RunFolder(tmp_path / "run")
    for steps in ((2, 4, 6), (2, 4)):
        with pytest.raises(KeyboardInterrupt), opened(folder, "wandb") as log:
            write(log, steps)
            raise KeyboardInterrupt
    with opened(folder, "wandb") as log:
        write(log, (2, 4, 6, 8))
    first, second, third = fake_wandb
    assert [run.id for run in fake_wandb] == ["made-up"] * 3
    assert [run.exit_code for run in fake_wandb] == [1, 1, 0]
    assert second.rows == []
    assert [number for number, _ in (*first.rows, *third.rows)] == list(range(6))
    assert_equal([scalars(row) for _, row in (*first.rows, *third.rows)], named(folder))
    (_, train_row), (_, val_row) = third.rows
    assert val_row["samples/0"] == ("picture", (4, 6, 3)) and "samples/0" not in train_row
    assert first.settings["project"] == "fpl-fast" and first.settings["name"] == "run"
    assert first.settings["save_dir"] == folder.path
    assert first.settings["config"]["optim"]["lr"] == logging_run().optim.lr


def test_wandb_that_cannot_start_says_how(tmp_path, monkeypatch, fake_wandb):
    monkeypatch.setenv("WANDB_MODE", "online")
    message = (
        r"got api_key not configured \(no-tty\): run wandb login, or set WANDB_MODE=offline, and go on with .*run$"
    )
    with pytest.raises(ValueError, match=message):
        opened(RunFolder(tmp_path / "run"), "wandb")


def stored(path):
    """The rows that wandb has written to a file, a log of LevelDB's format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts, rows = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:  # no header crosses the end of a block
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            if record.WhichOneof("record_type") == "history":
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    return rows


def test_wandb_itself_offline(tmp_path, straight, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = RunFolder(tmp_path / "run")
    train(logging_run("csv", "wandb"), folder, stop_at(3))
    train(folder.load_config(), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)
    assert_equal(table(folder), named(straight))
    files = sorted(folder.wandb.glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 2 and len({path.name for path in files}) == 1  # one run in two parts
    rows = [row for path in files for row in stored(path)]
    assert [row["_step"] for row in rows] == list(range(len(metrics(straight))))
    assert rows[2]["samples/0/_type"] == "image-file"
    assert_equal([scalars(row) for row in rows], named(straight))
    assert json.loads((folder.wandb / "fpl-fast.json").read_text())["rows"] == len(rows)
