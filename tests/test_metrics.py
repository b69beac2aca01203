import json
import os

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fpl_fast.trainer.metrics import Meter, MetricsLog


def test_meter_means_and_starts_anew():
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.update({"a": torch.tensor(value, requires_grad=True), "b": torch.tensor(value, dtype=torch.bfloat16)})
    names, means = meter.means()
    assert names == ["a", "b"]
    assert means.tolist() == [3.0, 3.0]
    assert not means.requires_grad
    meter.update({"a": torch.tensor(5.0), "b": torch.tensor(7.0)})
    assert meter.means()[1].tolist() == [5.0, 7.0]


def test_meter_continues_from_its_state():
    meter, resumed = Meter(), Meter()
    meter.update({"a": torch.tensor(1.0)})
    resumed.load_state_dict(meter.state_dict(), torch.device("cpu"))
    for each in (meter, resumed):
        each.update({"a": torch.tensor(4.0)})
    assert resumed.means()[1].tolist() == meter.means()[1].tolist() == [2.5]


def test_log_writes_lines_and_events(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")
    log.write(5, "train", {"loss": 1.5, "ratio": float("nan")})
    log.write(5, "val", {"miou": 0.25})
    log.close()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 5, "split": "train", "loss": 1.5, "ratio": None},  # JSON has no NaN
        {"step": 5, "split": "val", "miou": 0.25},
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/miou")] == [(5, 0.25)]


@pytest.mark.parametrize("rest", ["", '{"step": 9, "sp'])  # a line that a kill cut short
def test_log_drops_what_will_be_repeated(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "split": "train"}}\n' for step in (2, 4, 6)) + rest)
    log = MetricsLog(path, tmp_path / "tensorboard", step=4)
    log.write(6, "train", {"loss": 1.0})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 6]


def test_events_of_a_run_that_begins_anew_are_dropped(tmp_path):
    """It was killed before its first checkpoint."""
    for value in (1.0, 2.0):
        log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")
        for step in range(1, 4 - int(value)):
            log.write(step, "train", {"loss": value})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.0)]


def test_a_kill_while_the_log_is_shortened_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text := '{"step": 2, "split": "train"}\n{"step": 4, "split": "train"}\n')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(path, tmp_path / "tensorboard", step=2)
    assert path.read_text() == text
