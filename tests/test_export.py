import dataclasses
import re

import fresh
import numpy as np
import pytest
import torch
from data_trees import city_tree
from PIL import Image
from trainer_runs import tiny_run

from fpl_fast.trainer.config import CityscapesData
from fpl_fast.trainer.data.cityscapes import CITYSCAPES_LABEL_IDS
from fpl_fast.trainer.data.sample import index_palette
from fpl_fast.trainer.data.synthetic import SyntheticScenes
from fpl_fast.trainer.export import Exporter, save_index_png, save_label_ids, save_overlay
from fpl_fast.trainer.inputs import build_val_dataset


def read(path):
    with Image.open(path) as picture:
        return np.array(picture)


def test_index_png_holds_indices_and_colours(tmp_path):
    prediction = fresh.rng().integers(0, 21, (5, 9), dtype=np.uint8)
    palette = index_palette(21)
    save_index_png(prediction, palette, tmp_path / "made" / "a.png")
    assert np.array_equal(read(tmp_path / "made" / "a.png"), prediction)
    with Image.open(tmp_path / "made" / "a.png") as picture:
        assert np.array_equal(np.array(picture.convert("RGB")), np.array(palette)[prediction])


def test_label_ids_are_the_official_ones(tmp_path):
    """Against the table of the data set's own scripts, written out by name."""
    official = {"road": 7, "sidewalk": 8, "building": 11, "pole": 17, "sky": 23, "bus": 28, "train": 31, "bicycle": 33}
    train_ids = {"road": 0, "sidewalk": 1, "building": 2, "pole": 5, "sky": 10, "bus": 15, "train": 16, "bicycle": 18}
    assert all(CITYSCAPES_LABEL_IDS[train_ids[name]] == label_id for name, label_id in official.items())
    assert len(set(CITYSCAPES_LABEL_IDS)) == 19
    prediction = fresh.rng().integers(0, 19, (6, 4), dtype=np.uint8)
    save_label_ids(prediction, tmp_path / "a.png")
    stored = read(tmp_path / "a.png")
    assert stored.dtype == np.uint8
    assert stored.ndim == 2
    assert stored.tolist() == [[CITYSCAPES_LABEL_IDS[index] for index in row] for row in prediction]


def test_overlay_is_half_image_half_colour(tmp_path):
    pixels = np.full((16, 16, 3), 200, dtype=np.uint8)
    save_overlay(pixels, np.ones((16, 16), dtype=np.uint8), index_palette(2), tmp_path / "a.jpg")
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - [164, 100, 100]).max() <= 3  # (200 + 128, 0, 0) / 2


def test_exporter_names_files_after_images(tmp_path):
    scenes = SyntheticScenes(3, (32, 32), first=7)
    prediction = torch.randint(0, 11, (32, 32))
    Exporter(tmp_path, scenes, tiny_run())(2, prediction)
    assert np.array_equal(read(tmp_path / "000009.png"), prediction.numpy())


@pytest.mark.parametrize("official", [False, True])
def test_cityscapes_predictions_are_label_ids_under_official_names(tmp_path, official):
    names = city_tree(tmp_path, official=official)
    config = dataclasses.replace(tiny_run(), data=CityscapesData(root=str(tmp_path)))
    dataset = build_val_dataset(config.data)
    prediction = torch.randint(0, 19, (40, 80))
    Exporter(tmp_path / "out", dataset, config)(1, prediction)
    (path,) = (tmp_path / "out").iterdir()
    assert path.stem not in names
    assert re.fullmatch(r"[a-z-]+_\d{6}_\d{6}", path.stem)
    assert read(path).tolist() == [[CITYSCAPES_LABEL_IDS[index] for index in row] for row in prediction]


def test_images_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SyntheticScenes, "name", lambda self, index: "same")
    with pytest.raises(ValueError, match="images that differ in name, got 'same' twice"):
        Exporter(tmp_path, SyntheticScenes(2, (32, 32)), tiny_run())
