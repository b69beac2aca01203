import inspect
import re
from pathlib import Path
from typing import get_args

import fresh
import numpy as np
import pytest
from PIL import Image

from fpl_fast import trainer
from fpl_fast.trainer.evaluation.predict import find_images, read_image


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(fresh.rng().integers(0, 256, (3, 4, 3), dtype=np.uint8)).save(path)


def test_files_and_folders_in_order(tmp_path):
    for name in ("z.png", "in/b.JPG", "in/a.png", "in/sub/a.webp", "in/a.txt"):
        draw(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    found = find_images([tmp_path / "z.png", str(tmp_path / "in")])
    assert list(found.values()) == [Path("z"), Path("a"), Path("b"), Path("sub/a")]
    assert list(found) == [tmp_path / name for name in ("z.png", "in/a.png", "in/b.JPG", "in/sub/a.webp")]


def test_what_pillow_cannot_read_is_no_image(tmp_path):
    """It writes PDF, and knows HDF5 and MPEG by name alone."""
    for name in ("a.jpg", "b.bmp", "sub/c.tif", "x.png/d.webp"):
        draw(tmp_path / name)
    for name in ("doc.pdf", "data.h5", "film.mpg", "sub/film.mpeg"):
        (tmp_path / name).write_bytes(b"%PDF")
    assert list(find_images([tmp_path]).values()) == [Path("a"), Path("b"), Path("sub/c"), Path("x.png/d")]
    with pytest.raises(ValueError, match=r"doc\.pdf: must be an image or a folder of images, got a file of another"):
        find_images([tmp_path / "doc.pdf"])


def test_hidden_files_are_left_out(tmp_path):
    for name in ("a.jpg", "._a.jpg", ".cache/b.jpg", "sub/.thumbnails/c.jpg", "sub/d.jpg"):
        draw(tmp_path / ".in" / name)
    assert list(find_images([tmp_path / ".in"]).values()) == [Path("a"), Path("sub/d")]
    assert list(find_images([tmp_path / ".in" / "._a.jpg"]).values()) == [Path("._a")]  # named, and so meant


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["one/x.png", "two/x.jpg"], "IMAGE must differ in name, got 'x' more than once"),
        (["empty"], "empty: the folder must hold at least one image, got none"),
        (["list.txt"], "list.txt: must be an image or a folder of images, got a file of another type"),
        (["absent"], "absent: the image or folder must exist, but is missing"),
    ],
)
def test_wrong_paths(tmp_path, paths, message):
    draw(tmp_path / "one" / "x.png")
    draw(tmp_path / "two" / "x.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("x\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        find_images([tmp_path / path for path in paths])


def test_hidden_files_and_earlier_predictions_are_no_images(tmp_path):
    for name in ("a.jpg", "._a.jpg", ".cache/b.png", "a_overlay.jpg"):
        draw(tmp_path / name)
    assert list(find_images([tmp_path], skip=[tmp_path / "a_overlay.jpg"])) == [tmp_path / "a.jpg"]


def test_a_path_may_be_text(tmp_path, monkeypatch):
    draw(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read_image("photo.png"), np.asarray(Image.open("photo.png")))


def test_every_function_for_scripts_takes_paths_as_text():
    takes = []
    for name in trainer.__all__:
        function = getattr(trainer, name)
        for parameter in inspect.signature(function).parameters.values() if inspect.isfunction(function) else ():
            if "Path" in str(parameter.annotation):
                takes.append(name)
                assert str in get_args(parameter.annotation), (name, parameter)
    assert {"load_config", "load_trained", "read_image", "save_config", "train"} <= set(takes)


def test_the_rules_of_training_images_hold(tmp_path):
    """Converted to 8 bits, deeper pixels would be cut off at 255."""
    deep = fresh.rng().integers(0, 65536, (5, 6), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: an image must have 8 bits a channel, got Pillow mode I"):
        read_image(tmp_path / "deep.png")


def test_a_huge_image_is_one_line(tmp_path, monkeypatch):
    draw(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)  # of 12; an error from twice as many
    with pytest.raises(ValueError, match=r"^.*a\.png: the image must be readable, got [^\n]*decompression bomb[^\n]*$"):
        read_image(tmp_path / "a.png")


def test_a_grey_image_becomes_rgb(tmp_path):
    grey = fresh.rng().integers(0, 256, (5, 6), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.stack([grey] * 3, axis=-1))


def test_images_are_turned_upright(tmp_path):
    """Mask and overlay are then as the viewer shows the image."""
    upright = fresh.rng().integers(256, size=(3, 5, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), upright)
