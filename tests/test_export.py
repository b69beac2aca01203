import dataclasses
import io
import re
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from data_trees import city_tree
from PIL import Image
from trainer_runs import tiny_run

from fpl_fast.trainer.config import CityscapesData, FolderData
from fpl_fast.trainer.data.cityscapes import CITYSCAPES_LABEL_IDS
from fpl_fast.trainer.data.datasets import build_val_dataset
from fpl_fast.trainer.data.sample import index_palette
from fpl_fast.trainer.data.synthetic import SyntheticScenes
from fpl_fast.trainer.evaluation.export import Exporter, index_png, label_id_png, overlay_jpeg


def decode(content):
    return np.array(Image.open(io.BytesIO(content)))


def read(path):
    with Image.open(path) as picture:
        return np.array(picture)


def test_index_png_holds_indices_and_colours():
    prediction = fresh.rng().integers(0, 21, (5, 9), dtype=np.uint8)
    palette = index_palette(21)
    content = index_png(prediction, palette)
    assert np.array_equal(decode(content), prediction)
    with Image.open(io.BytesIO(content)) as picture:
        assert np.array_equal(np.array(picture.convert("RGB")), np.array(palette)[prediction])


def test_label_ids_are_the_official_ones():
    """Against the table of the data set's own scripts, written out by name."""
    official = {"road": 7, "sidewalk": 8, "building": 11, "pole": 17, "sky": 23, "bus": 28, "train": 31, "bicycle": 33}
    train_ids = {"road": 0, "sidewalk": 1, "building": 2, "pole": 5, "sky": 10, "bus": 15, "train": 16, "bicycle": 18}
    assert all(CITYSCAPES_LABEL_IDS[train_ids[name]] == label_id for name, label_id in official.items())
    assert len(set(CITYSCAPES_LABEL_IDS)) == 19
    prediction = fresh.rng().integers(0, 19, (6, 4), dtype=np.uint8)
    stored = decode(label_id_png(prediction))
    assert stored.dtype == np.uint8
    assert stored.ndim == 2
    assert stored.tolist() == [[CITYSCAPES_LABEL_IDS[index] for index in row] for row in prediction]


def test_overlay_is_half_image_half_colour():
    pixels = np.full((16, 16, 3), 200, dtype=np.uint8)
    overlay = decode(overlay_jpeg(pixels, np.ones((16, 16), dtype=np.uint8), index_palette(2)))
    assert np.abs(overlay.astype(int) - [164, 100, 100]).max() <= 3  # (200 + 128, 0, 0) / 2


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
    (path,) = (tmp_path / "out").glob("*.png")
    assert path.stem not in names
    assert re.fullmatch(r"[a-z-]+_\d{6}_\d{6}", path.stem)
    assert read(path).tolist() == [[CITYSCAPES_LABEL_IDS[index] for index in row] for row in prediction]


def test_images_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SyntheticScenes, "name", lambda self, index: "same")
    with pytest.raises(ValueError, match="images that differ in name, got 'same' twice"):
        Exporter(tmp_path, SyntheticScenes(2, (32, 32)), tiny_run())


def folder_set(root, names):
    """A data set of images and labels in sub-folders, with what was drawn as labels."""
    rng, labels = fresh.rng(), {}
    for name in names:
        labels[name] = rng.integers(0, 3, (6, 5), dtype=np.uint8)
        for path, array in ((f"images/val/{name}.jpg", rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)),
                            (f"labels/val/{name}.png", labels[name])):  # fmt: skip
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / path)
    (root / "lists").mkdir()
    (root / "lists" / "val.txt").write_text("".join(f"{name}\n" for name in names))
    config = dataclasses.replace(tiny_run(), data=FolderData(root=str(root), num_classes=3))
    return config, labels


def test_equal_names_in_sub_folders_lie_in_sub_folders(tmp_path):
    config, _ = folder_set(tmp_path / "data", ["day/a", "day/b", "night/a"])
    export = Exporter(tmp_path / "out", build_val_dataset(config.data), config)
    predictions = torch.randint(0, 3, (3, 6, 5))
    for index in range(3):
        export(index, predictions[index])
    for index, name in enumerate(["day/a", "day/b", "night/a"]):
        assert np.array_equal(read(tmp_path / "out" / f"{name}.png"), predictions[index].numpy())


def test_names_that_differ_need_no_sub_folders(tmp_path):
    config, _ = folder_set(tmp_path / "data", ["day/a", "night/b"])
    export = Exporter(tmp_path / "out", build_val_dataset(config.data), config)
    assert export.places == [Path("a.png"), Path("b.png")]


@pytest.mark.parametrize("ours", [False, True], ids=["drawn by hand", "exported earlier"])
def test_labels_are_never_written_over(tmp_path, ours):
    """Neither the user's labels nor predictions that now serve as labels are written over."""
    config, _ = folder_set(tmp_path / "data", ["a", "b"])
    dataset, target = build_val_dataset(config.data), tmp_path / "data/images/../labels/val"
    if ours:
        for path in target.iterdir():
            path.unlink()
        export = Exporter(target, dataset, config)
        export(0, torch.zeros(6, 5, dtype=torch.int64))
    before = {path: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(ValueError, match=r"--export must not write over a file that is read, got .*a\.png"):
        Exporter(target, dataset, config)
    assert {path: path.read_bytes() for path in target.iterdir()} == before
