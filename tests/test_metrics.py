import io
import json
import os
import resource
import time

import fresh
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fpl_fast.trainer.data.sample import outside_color
from fpl_fast.trainer.evaluation.validation import logged_pictures
from fpl_fast.trainer.run.events import Events
from fpl_fast.trainer.run.metrics import Meter, MetricsLog


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


def test_events_hold_configuration_and_pictures(tmp_path):
    rng = fresh.rng()
    samples = {"palette": rng.integers(0, 256, (2, 3), dtype=np.uint8)}
    for place in range(4):
        samples |= {
            f"image_{place}": rng.integers(0, 256, (500, 40, 3), dtype=np.uint8),
            f"label_{place}": rng.choice(np.array([0, 1, 255], dtype=np.uint8), (500, 40)),
            f"prediction_{place}": rng.integers(0, 2, (500, 40), dtype=np.uint8),
        }
    events = Events(tmp_path)
    events.configuration({"optim.lr": 0.5, "model.weights_file": None, "augment.crop": [3, 4], "train.compile": True})
    events.pictures(7, logged_pictures(samples))
    events.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    (text,) = read.Tensors("config/text_summary")
    assert "    optim.lr: 0.5\n" in text.tensor_proto.string_val[0].decode()
    plugin = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for words in (b"optim.lr", b"[3, 4]", b"None"):
        assert words in plugin
    assert read.Tags()["images"] == ["samples/0", "samples/1", "samples/2"]
    (picture,) = read.Images("samples/1")
    assert (picture.step, picture.height, picture.width) == (7, 250, 60)
    pixels = np.array(Image.open(io.BytesIO(picture.encoded_image_string)))
    label, prediction = (samples[f"{name}_1"][::2, ::2] for name in ("label", "prediction"))
    assert np.array_equal(pixels[:, :20], samples["image_1"][::2, ::2])
    colors = np.vstack([samples["palette"], outside_color(samples["palette"])])
    assert np.array_equal(pixels[:, 20:40], colors[np.minimum(label, 2)])
    assert np.array_equal(pixels[:, 40:], samples["palette"][prediction])


@pytest.mark.parametrize("rest", ["", '{"step": 9, "sp'])  # a line that a kill cut short
def test_log_drops_what_will_be_repeated(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "split": "train"}}\n' for step in (2, 4, 6)) + rest)
    log = MetricsLog(path, tmp_path / "tensorboard", step=4)
    log.write(6, "train", {"loss": 1.0})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 6]


@pytest.mark.parametrize("wrong", [b"\xff", b"null", b"[1]", b"{}", b'{"step": 2}', b'{"step": "2", "split": "train"}'])
def test_a_damaged_log_is_named(tmp_path, wrong):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2, "split": "train"}\n' + wrong + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 must be a JSON object with step and split, got '"):
        MetricsLog(path, tmp_path / "tensorboard", step=4)


@pytest.mark.parametrize("tick", [0.0, 1.0, -1.0])  # as fast as it can; a second later; the clock was set back
def test_events_of_a_run_that_begins_anew_are_dropped(tmp_path, monkeypatch, tick):
    """It was killed before its first checkpoint, again and again."""
    for start in range(12):
        monkeypatch.setattr(time, "time", lambda now=1_000 + start * tick: now)
        log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard")
        for step in range(1, 13 - start):
            log.write(step, "train", {"loss": float(start)})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 11.0)]


def test_a_kill_while_the_log_is_shortened_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text := '{"step": 2, "split": "train"}\n{"step": 4, "split": "train"}\n')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(path, tmp_path / "tensorboard", step=2)
    assert path.read_text() == text


@pytest.mark.parametrize(("limit", "name"), [(8, r"metrics\.jsonl"), (64, r"events\.out\.tfevents\.[\w.-]+")])
def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, capfd, limit, name):
    """At once, in the thread that writes the record; nor does closing hide it, which cannot write either."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(OSError, match=rf"File too large: '.*{name}'$"),
            MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard") as log,
        ):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            log.write(2, "train", {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr().err == ""
