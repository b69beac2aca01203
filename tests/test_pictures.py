"""Folders in place of list files, and the search for images."""

import dataclasses
import os

import fresh
import numpy as np
import pytest
from PIL import Image
from trainer_runs import tiny_run

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config import FolderData
from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.data.pictures import find_files, find_pictures
from fpl_fast.trainer.data.sources import labelled_split, make_dataset, unlabelled_split, val_split

NAMES = ["b", "rome/a", "rome/c.d"]


def draw(path, mask=False, size=(32, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = fresh.rng()
    Image.fromarray(rng.integers(2 if mask else 256, size=size if mask else (*size, 3)).astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Labelled, unlabelled and validation images in folders, and no list."""
    for name in NAMES:
        draw(tmp_path / f"images/{name}.jpg")
        draw(tmp_path / f"labels/{name}.png", mask=True)
        draw(tmp_path / f"val/{name}.png")
        draw(tmp_path / f"val_labels/{name}.png", mask=True)
    for name in ("x.JPG", "y/z.png", "y/notes.txt", ".hidden.jpg"):
        draw(tmp_path / "photos" / name) if not name.endswith("txt") else (tmp_path / "photos" / name).write_text("-")
    return tmp_path


def data(root, **changes):
    settings = {"labelled": "images", "labels": "labels/{}.png", "unlabelled": "photos", "val": "val"}
    settings |= {"val_labels": "val_labels/{}.png", "num_classes": 2}
    return FolderData(root=str(root), **settings | changes)


def test_a_folder_stands_for_all_of_its_images(folders):
    labelled = labelled_split(data(folders))
    assert labelled.pairs == tuple((f"images/{name}.jpg", f"labels/{name}.png") for name in NAMES)
    assert labelled.origin == "images"
    assert [pair.image for pair in unlabelled_split(data(folders)).pairs] == ["photos/x.JPG", "photos/y/z.png"]
    assert val_split(data(folders)).pairs == tuple((f"val/{name}.png", f"val_labels/{name}.png") for name in NAMES)
    for split, is_labelled in ((labelled, True), (unlabelled_split(data(folders)), False)):
        make_dataset(data(folders), split, labelled=is_labelled).check()


def test_a_run_on_folders(folders, capsys):
    config = tiny_run()
    save_config(dataclasses.replace(config, data=data(folders)), folders / "config.yaml")
    assert main(["train", str(folders / "config.yaml"), "--out", str(folders / "run")]) == 0
    assert (folders / "run/lists/unlabelled.txt").read_text() == "photos/x.JPG\nphotos/y/z.png\n"
    assert main(["eval", str(folders / "run"), "--split", "val"]) == 0
    draw(folders / "photos/later.jpg")
    capsys.readouterr()
    assert main(["train", "--resume", str(folders / "run")]) == 2
    assert "the run must go on with the images that it began with, got others from photos" in capsys.readouterr().err


def test_a_missing_mask_is_named(folders):
    (folders / "labels/b.png").unlink()
    with pytest.raises(ValueError, match=r"labels/b\.png: the file must exist, but is missing"):
        make_dataset(data(folders), labelled_split(data(folders))).check()


def test_an_image_that_goes_missing_is_named(folders):
    split = unlabelled_split(data(folders))
    (folders / "photos/x.JPG").unlink()
    with pytest.raises(ValueError, match=r"photos/x\.JPG: the file must exist, but is missing"):
        make_dataset(data(folders), split, labelled=False).check()


def test_a_folder_outside_of_the_root(folders, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    draw(elsewhere / "w.png")
    split = unlabelled_split(data(folders, unlabelled=str(elsewhere)))
    make_dataset(data(folders), split, labelled=False).check()
    (elsewhere / "w.png").unlink()
    with pytest.raises(ValueError, match=r"w\.png: the file must exist, but is missing"):
        make_dataset(data(folders), split, labelled=False).check()


def test_a_folder_without_images_is_one_line(folders):
    (folders / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: the folder must hold at least one image, got none"):
        unlabelled_split(data(folders, unlabelled="empty"))


def test_loops_of_links_end(tmp_path):
    draw(tmp_path / "a/x.png")
    os.symlink(tmp_path, tmp_path / "a/again")
    assert find_pictures(tmp_path) == ["a/x.png"]
    assert list(find_files(tmp_path)) == ["a/x.png"]
