"""``fpl-fast analyze``."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_runs import Quiet, tiny_run

from fpl_fast import positive_gradient_score
from fpl_fast.trainer.cli import main
from fpl_fast.trainer.data.datasets import build_val_dataset
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.analyze import ScoreMaps, analyze_positives
from fpl_fast.trainer.evaluation.loss_settings import spread
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.report.positives import maps_png
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.upsample import upsample

FILES = {"analysis.json", "calibration.csv", "cases.csv", "classes.csv", "maps.png", "statistics.png", "thresholds.csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two networks."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "cps")
    train(tiny_run(threshold=0.6, max_positives=4), folder, Quiet())
    return folder


def shown(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_it_writes_and_says(folder, capsys):
    assert main(["analyze", str(folder.path), "--images", "2", "--maps", "1"]) == 0
    out, text = folder.path / "analysis", capsys.readouterr().out
    assert shown(out) == FILES
    content = json.loads((out / "analysis.json").read_text())
    assert (content["step"], content["split"], content["images"]) == (6, "val", 2)
    assert (content["threshold"], content["max_positives"]) == (0.6, 4)
    assert content["inclusion"] == pytest.approx(sum(content["cases"]["share"][:2]))
    assert content["accuracy"] == pytest.approx(content["cases"]["share"][0])
    assert f"{100 * content['accuracy']:.1f}" in text and f"mean K {content['mean_positives']:.3f}" in text
    assert f"{content['fuzzy']:.3f}" in text
    with open(out / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == content["classes"]["class"] and len(rows) == 11
    assert sum(float(row["pixels"]) for row in rows) == content["pixels"]
    for name in ("statistics.png", "maps.png"):
        assert np.asarray(Image.open(out / name)).std() > 5
    main(["report", str(folder.path)])
    page = (folder.path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 and "Positives and the truth" in page
    assert f"<td class=number>{content['fuzzy']:.3f}</td>" in page
    # Again: its own files may be replaced, whatever was in them.
    assert main(["analyze", str(folder.path), "--images", "1", "--maps", "0", "--checkpoint", "best"]) == 0
    assert json.loads((out / "analysis.json").read_text())["images"] == 1
    main(["report", str(folder.path)])
    page = (folder.path / "report.html").read_text()
    assert "statistics.png" not in page and page.count("<figcaption>Cases") == 0  # the old maps are not of this one


def test_the_second_network_is_the_teacher_of_the_first(folder):
    run = load_trained(folder, checkpoint="last")
    dataset = build_val_dataset(run.config.data)
    found, (maps,) = analyze_positives(run, dataset, [1], num_maps=1)
    sample = dataset[1]
    image = normalize(sample.image[None], None, run.config.data.mean, run.config.data.std)
    with torch.no_grad():
        z, t = (upsample(network(image), sample.label.shape) for network in run.networks)
    score = positive_gradient_score(z, t, sample.label[None], threshold=0.6, max_positives=4)
    assert np.array_equal(maps.case, score.case[0].numpy())
    np.testing.assert_allclose(maps.fuzzy, score.fuzzy[0].numpy(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(maps.prediction, t.argmax(1)[0].numpy())
    assert not torch.equal(z.argmax(1), t.argmax(1))
    assert found.fuzzy == pytest.approx(score.fuzzy.nanmean().item(), abs=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "supervised"},
        {"name": "mean_teacher", "loss": "mse"},
        {"name": "cps", "threshold_candidates": (0.5, 0.8)},
        {"name": "cac"},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_any_run_can_be_analysed(tmp_path, method):
    config = tiny_run(**method)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))
    folder = RunFolder(tmp_path / "run")
    train(config, folder, Quiet())
    assert main(["analyze", str(folder.path), "--images", "1", "--out", str(tmp_path / "out")]) == 0
    assert shown(tmp_path / "out") == FILES
    threshold = json.loads((tmp_path / "out" / "analysis.json").read_text())["threshold"]
    assert threshold == list(method.get("threshold_candidates", ())) or threshold == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images must be at least 1, got 0"),
        (["--maps", "-1"], "--maps must be from 0 to 12, got -1"),
        (["--maps", "13"], "--maps must be from 0 to 12, got 13"),
        (["--split", "train"], "--split must be val or a list file, got train, whose truth"),
        (["--split", "list.txt"], "--out must be given with --split"),
        (["--split", "list.txt", "--out", "OUT"], "split must be val or train"),
        (["--method.threshold", "0.5"], "--out must be given with --method.threshold"),
        (["--method.treshold", "0.5", "--out", "OUT"], "unknown option --method.treshold"),
    ],
)
def test_wrong_arguments_are_one_line(folder, tmp_path, capsys, arguments, message):
    arguments = [str(tmp_path) if argument == "OUT" else argument for argument in arguments]
    assert main(["analyze", str(folder.path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_report_needs_no_analysis_and_names_a_broken_one(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    folder.create(tiny_run())
    assert main(["report", str(folder.path)]) == 0
    assert "Positives and the truth" not in (folder.path / "report.html").read_text()
    (folder.path / "analysis").mkdir()
    (folder.path / "analysis" / "analysis.json").write_text('{"step": 3}')
    assert main(["report", str(folder.path)]) == 2
    assert "analysis.json must hold an analysis, got other contents" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, capsys):
    assert main(["analyze", str(tmp_path / "none")]) == 2
    assert "run must be a folder with a config.yaml" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_it_writes_over_nothing_of_others(folder, tmp_path, capsys):
    (tmp_path / "cases.csv").write_text("mine")
    assert main(["analyze", str(folder.path), "--out", str(tmp_path)]) == 2
    assert "--out must not write over" in capsys.readouterr().err
    assert (tmp_path / "cases.csv").read_text() == "mine" and shown(tmp_path) == {"cases.csv"}


@pytest.mark.parametrize("name", ["dollar$x^$", "a_b{c}\\frac", "<b>&", "猫🐈"])
@pytest.mark.parametrize("size", [(6, 300), (300, 6), (9, 9)])
def test_maps_take_any_name_and_shape(name, size, recwarn):
    one = ScoreMaps(
        name,
        np.zeros((*size, 3), np.uint8),
        *(np.zeros(size, np.uint8) for _ in range(3)),
        *(np.full(size, np.nan, np.float32) for _ in range(2)),
    )
    picture = Image.open(io.BytesIO(maps_png([one, one], np.zeros((3, 3), np.uint8))))
    assert picture.width == 1800 and picture.height <= 2 * 600 + 120
    assert not recwarn.list


def test_spread():
    assert spread(3, 10) == [0, 3, 6]
    assert spread(9, 4) == [0, 1, 2, 3]
    assert spread(0, 4) == []
