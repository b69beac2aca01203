"""Recipes with the options of a table's cell, trained on tiny copies of the public data sets."""

import json

import fresh
import numpy as np
import pytest
from data_trees import city_tree, voc_tree
from PIL import Image

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config.io import load_config
from fpl_fast.trainer.data.cityscapes import CITYSCAPES_LABEL_IDS
from fpl_fast.trainer.data.datasets import class_table
from fpl_fast.trainer.recipes import METHOD_SUMMARIES, make_recipe
from fpl_fast.trainer.recipes.published import PARTITIONS
from fpl_fast.trainer.report import summary

pytestmark = pytest.mark.usefixtures("nothing_is_compiled", "no_curves_are_drawn")


@pytest.fixture
def no_curves_are_drawn(monkeypatch):
    """A dozen of them in the report of each run take longer than its two steps."""
    monkeypatch.setattr(summary, "curves_svg", lambda title, curves, unit: f"<svg>{title}</svg>")


def tiny_backbone(method):
    return "test_vit" if "unimatch_v2" in method else "test_resnet"


def train_cell(folder, data, method, *options, **tree):
    """Two steps of the recipe itself on a small tree, shrunk in size alone."""
    {"voc": voc_tree, "city": city_tree}[data](folder / "data", **tree)
    small = [
        "--model.pretrained", "false", "--model.head_channels", "8", "--model.low_channels", "4", "--augment.crop",
        "[32,32]", "--eval.window", "[32,32]", "--eval.samples", "1", "--train.steps", "2", "--train.workers", "0",
        "--train.batch_labelled", "2", "--train.batch_unlabelled", "2", "--train.accelerator", "cpu",
    ]  # fmt: skip
    if "gct" in method:
        small += ["--method.detector_channels", "2", "--method.detector_scale", "4"]
    if hasattr(make_recipe(f"{data}/{method}").method, "confidence_threshold"):
        small += ["--method.confidence_threshold", "0"]
    cell = ["--backbone", tiny_backbone(method), "--partition", "1/4", "--data-root", str(folder / "data")]
    assert main(["train", f"{data}/{method}", *cell, *small, *options, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("method", METHOD_SUMMARIES)
@pytest.mark.parametrize("data", PARTITIONS)
def test_a_cell_trains(tmp_path, data, method):
    run = train_cell(tmp_path, data, method)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["split"] for record in records] == ["train", "val"]
    assert ("loss_unsup" in records[0]) == (method != "supervised")
    assert records[0].get("loss_unsup") != 0
    assert ("teacher_accuracy" in records[1]) == (method != "supervised")
    logged = {key for record in records for key in record}
    classes = {f"iou/{name}" for name in class_table(load_config(run / "config.yaml").data).names}
    assert logged >= classes
    # Whatever a method logs has a title.
    assert logged - classes <= {"split", *summary._SCALARS, *summary._NOT_DRAWN}
    config = load_config(run / "config.yaml")
    assert (config.recipe, config.data.partition) == (f"{data}/{method}", "1/4")
    assert config.model.backbone == tiny_backbone(method)


def test_label_ids_train_and_evaluate_like_train_ids(tmp_path):
    tree = {"official": True, "seed": int(fresh.rng().integers(2**31))}
    runs = [
        train_cell(tmp_path / "train_ids", "city", "supervised", **tree),
        train_cell(tmp_path / "label_ids", "city", "supervised", "--data.label_ids", "true", label_ids=True, **tree),
    ]
    losses = [json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"] for run in runs]
    assert losses[0] == losses[1]
    for run in runs:
        assert main(["eval", str(run), "--split", "train"]) == 0
    confusions = [next(run.glob("evaluations/train-cps-*/confusion.csv")).read_text() for run in runs]
    assert confusions[0] == confusions[1]


def test_predictions_for_the_cityscapes_benchmark(tmp_path):
    """Evaluation and prediction by the same network and protocol write equal files."""
    run = train_cell(tmp_path, "city", "ael")
    images = tmp_path / "data" / "images" / "val"
    assert main(["eval", str(run), "--export", str(tmp_path / "eval")]) == 0
    assert main(["predict", str(run), str(images), "--label-ids", "--out", str(tmp_path / "predict")]) == 0
    names = sorted(path.name for path in images.iterdir())
    assert sorted(path.name for path in (tmp_path / "eval").glob("*.png")) == names
    for name in names:
        ours, theirs = (np.array(Image.open(tmp_path / command / name)) for command in ("eval", "predict"))
        assert np.array_equal(ours, theirs)
        assert set(np.unique(ours)) <= set(CITYSCAPES_LABEL_IDS)
