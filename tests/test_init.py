"""``fpl-fast init``: what it writes is trained on as it is."""

import dataclasses
import os
import shlex
from pathlib import Path

import data_trees
import fresh
import numpy as np
import pytest
import torch
import yaml
from own_data_settings import changed
from PIL import Image

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config.io import load_config
from fpl_fast.trainer.data.check import examine_data
from fpl_fast.trainer.data.datasets import build_split, read_splits
from fpl_fast.trainer.own_data import describe
from fpl_fast.trainer.own_data.pairing import place_of_mask
from fpl_fast.trainer.recipes import make_recipe

CAMVID = Path(os.environ.get("FPL_FAST_CAMVID", Path(__file__).parents[2] / "shared" / "camvid"))
SIZE = (40, 56)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, on a machine without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Settings of the run from the recipe alone, where they are not what is tested."""
    recipe = make_recipe("folder/supervised")
    monkeypatch.setattr(
        describe, "choose_settings", lambda data, sizes, tell: (dataclasses.replace(recipe, data=data), {})
    )


def draw(path, values=None, size=SIZE, dtype=np.uint8, **options):
    """An image of noise, or a mask that holds all of the values."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = fresh.rng()
    pixels = rng.integers(256, size=(*size, 3)) if values is None else rng.choice(values, size=size)
    if values is not None:
        pixels.flat[: len(values)] = values
    Image.fromarray(pixels.astype(dtype)).save(path, **options)


def lines_of(capsys, *arguments, code=0):
    assert main(["init", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    return captured.out.splitlines() if code != 2 else captured.err.splitlines()


def parts(name="DATA"):
    return {
        part: split.pairs
        for part, split in read_splits(load_config(f"configs/{name}/config.yaml").data, unlabelled=True).items()
    }


def test_the_printed_command_trains(here, capsys):
    data_trees.voc_tree(here / "my data")
    first, *chosen, check, train = lines_of(capsys, "my data")
    assert first == "looking for ImageNet weights of tf_efficientnet_lite0" or torch.cuda.is_available()
    printed = dict(line.split(" = ", 1) for line in chosen if " = " in line)
    for key, value in changed(load_config("configs/my data/config.yaml")).items():
        shown = yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]
        assert printed[key].startswith(f"{shown}: "), key
    assert check == "check: fpl-fast data check 'configs/my data/config.yaml'"
    program, *arguments = shlex.split(train.removeprefix("train: "))
    assert program == "fpl-fast"
    config = load_config("configs/my data/config.yaml")
    assert config.augment.crop == (32, 32)
    assert config.data.num_classes == 21 and config.data.label_map is None and config.data.label_ignore == ()
    report = examine_data(config, lambda part: lambda done, total: None)
    assert report.problems == []
    os.chdir("/")  # from any folder
    arguments[1] = str(here / arguments[1])
    assert main([*arguments, "--train.steps", "2", "--out", str(here / "run")]) == 0
    assert (here / "run/report.html").is_file()


def test_lists_of_the_data_set_are_taken(here, capsys, quick):
    data_trees.voc_tree(here / "DATA")
    shown = lines_of(capsys, "DATA")
    path = here / "configs/DATA/labelled.txt"
    assert f"data.labelled = {path}: 17 images: subset_train_aug/train_aug_labeled_1-2.txt" in shown
    assert any(
        "has the most labels of the lists here; others: subset_train_aug/train_aug_labeled_1-16.txt" in s for s in shown
    )
    listed = (here / "DATA/subset_train_aug/train_aug_labeled_1-2.txt").read_text().split()
    assert sorted(Path(pair.image).stem for pair in parts()["labelled"]) == sorted(listed)
    assert sorted(Path(pair.image).stem for pair in parts()["val"]) == (here / "DATA/val.txt").read_text().split()


@pytest.mark.skipif(not CAMVID.is_dir(), reason="needs CamVid")
def test_camvid(here, capsys):
    shown = lines_of(capsys, CAMVID, "--out", "found")
    assert "data.label_ignore = [11]: 11 means no label, too: 11 is 'void' there" in shown
    data = load_config("found/config.yaml").data
    assert (data.num_classes, data.label_ignore, data.label_map) == (11, (11,), None)
    assert data.class_names[:3] == ("sky", "building", "pole")
    counts = {part: len(split.pairs) for part, split in read_splits(data, unlabelled=True).items()}
    assert counts == {"labelled": 92, "unlabelled": 275, "val": 101}
    build_split(data, "val").label(3)
    text = Path("found/config.yaml").read_text()
    assert "  # 11 means no label, too: 11 is 'void' there\n  label_ignore: [11]\n" in text
    assert "  # images are 360 high and 480 wide (median)" in text


def test_cityscapes_as_it_is_downloaded(here, capsys, quick):
    names = data_trees.city_tree(here / "DATA", official=True, lists=False, label_ids=True)
    lines_of(capsys, "DATA")
    found = parts()
    assert len(found["labelled"]) == len(names) and len(found["val"]) == data_trees.NUM_VAL
    data = load_config("configs/DATA/config.yaml").data
    assert set(build_split(data, "train").label(0).unique().tolist()) <= {*range(19), 255}


def test_photos_without_masks_are_listed_to_be_labelled(here, capsys, quick):
    for name in ("photos/a.jpg", "photos/rome/b.jpg", "photos/rome/c.jpg", "photos/d.jpg"):
        draw(here / "DATA" / name)
    shown = lines_of(capsys, "DATA", code=1)
    assert (
        "note: no image has a mask, and 2 are needed, one to train and one to validate (20 or more are better)" in shown
    )
    (how,) = [line for line in shown if "label some images" in line]
    assert "the mask of photos/a.jpg is DATA/labels/a.png, of the same size" in how
    listed = Path("configs/DATA/unlabelled.txt").read_text().splitlines()
    assert listed == ["photos/a.jpg", "photos/d.jpg", "photos/rome/b.jpg", "photos/rome/c.jpg"]
    assert not Path("configs/DATA/config.yaml").exists()
    for name in listed[1:3]:  # as advised
        draw(here / "DATA" / place_of_mask(name), [0, 1, 255])
    shown = lines_of(capsys, "DATA")
    found = parts()
    assert len(found["labelled"]) == len(found["val"]) == 1
    assert any(line.startswith("data.val = ") and ": 1 image: " in line for line in shown)
    assert [pair.image for pair in found["unlabelled"]] == [listed[0], listed[3]]


def tree(here, *, images=5, values=(0, 1, 2)):
    for index in range(images):
        draw(here / f"DATA/images/p{index}.jpg")
        draw(here / f"DATA/masks/p{index}_mask.png", values)


def test_the_same_folder_gives_the_same_files(here, capsys, quick):
    tree(here, images=10)
    first = lines_of(capsys, "DATA")
    content = {path.name: path.read_bytes() for path in Path("configs/DATA").iterdir()}
    assert lines_of(capsys, "DATA") == first
    assert {path.name: path.read_bytes() for path in Path("configs/DATA").iterdir()} == content
    lines_of(capsys, "DATA", "--seed", 1, "--out", "other")
    assert Path("other/val.txt").read_bytes() != content["val.txt"]


def test_nothing_of_others_is_written_over(here, capsys, quick, monkeypatch):
    tree(here)
    lines_of(capsys, "DATA")
    Path("configs/DATA/val.txt").write_text("mine\n")
    kept = Path("configs/DATA/labelled.txt").read_bytes()
    draw(here / "DATA/images/new.jpg")
    monkeypatch.setattr(describe, "read_contents", None)  # refused before long work
    (error,) = lines_of(capsys, "DATA", code=2)
    assert "--out must not write over what fpl-fast did not write" in error
    assert Path("configs/DATA/val.txt").read_text() == "mine\n"
    assert Path("configs/DATA/labelled.txt").read_bytes() == kept


def test_its_own_files_in_the_folder_are_no_data(here, capsys, quick):
    tree(here)
    assert lines_of(capsys, "DATA", "--out", "DATA/lists") == lines_of(capsys, "DATA", "--out", "DATA/lists")
    own = Path("DATA/lists/val.txt").read_bytes()
    shown = lines_of(capsys, "DATA")
    assert any("a fifth of the images with masks" in line for line in shown)
    assert Path("configs/DATA/val.txt").read_bytes() == own


def test_bad_files_are_told_and_left_out(here, capsys, quick):
    tree(here, images=9)
    (here / "DATA/images/p0.jpg").write_bytes(b"no image")
    draw(here / "DATA/masks/p1_mask.png", [0, 1000], dtype=np.uint16)
    draw(here / "DATA/masks/p2_mask.png", [0, 1, 2], size=(20, 28))
    draw(here / "DATA/masks/p3_mask.png")
    draw(here / "DATA/masks/p4_mask.png", [0, 1, 2], size=(56, 40))  # as a camera stores what is shown upright
    shown = "\n".join(lines_of(capsys, "DATA"))
    assert (
        "note: 4 of 9 masks cannot be used, and their images count as unlabelled: masks/p1_mask.png: 16-bit with "
        in shown
    )
    assert (
        "values up to 1000" in shown
        and "masks/p2_mask.png: 20 high and 28 wide, its image 40 high and 56 wide" in shown
    )
    assert "masks/p3_mask.png: colour-coded" in shown and "; ...\n" in shown
    assert "note: 1 image not readable, and in no list:" in shown
    found = parts()
    assert [pair.image for pair in found["unlabelled"]] == [f"images/p{index}.jpg" for index in (1, 2, 3, 4)]
    assert {pair.image for part in found.values() for pair in part} == {f"images/p{index}.jpg" for index in range(1, 9)}


def colour_coded(path):
    draw(path, [0])
    Image.open(path).convert("RGB").save(path)


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda path: draw(path), r"colour-coded \(\d+ colours: \("),
        (lambda path: colour_coded(path), "one channel stored three times"),
        (lambda path: draw(path, [0, 300], dtype=np.uint16), "16-bit with values up to 300 .objects"),
        (lambda path: draw(path, [0, 3], dtype=np.uint16), "16-bit with values up to 3 .save it as an 8-bit PNG"),
        (lambda path: draw(path, [0, 1], size=(7, 9)), "7 high and 9 wide, its image 40 high and 56 wide"),
        (
            lambda path: draw(path, [0, 1], size=(56, 40)),
            "56 high and 40 wide, its image 40 high and 56 wide .both after EXIF orientation",
        ),
        (lambda path: path.write_bytes(b"nothing"), "cannot identify image file"),
    ],
)
def test_masks_none_of_which_can_be_used_are_one_line(here, capsys, quick, make, got):
    tree(here, images=3)
    for path in (here / "DATA/masks").iterdir():
        make(path)
    (error,) = lines_of(capsys, "DATA", code=2)
    assert error.startswith(
        "error: DATA/masks/p0_mask.png: a mask must be an 8-bit PNG of one channel or with a palette"
    )
    pytest.importorskip("re").search(got, error) or pytest.fail(error)
    assert "none of the 3 masks can be used" in error
    assert not Path("configs").exists()


def test_folders_that_are_none_are_one_line(here, capsys):
    (here / "empty").mkdir()
    (here / "file").write_text("")
    draw(here / "only/labels/a.png", [0, 1])
    draw(here / "flat/images/a.jpg")
    for name, message in (
        ("nowhere", "DATA must be a folder of images, got 'nowhere'"),
        ("file", "DATA must be a folder of images, got 'file'"),
        (
            "empty",
            "empty: must hold images (.bmp, .jpeg, .jpg, .png, .ppm, .tif, .tiff, .webp), got none among its 0 files",
        ),
        ("only", "got none among its 1 files: its 1 pictures are masks, labels/a.png"),
    ):
        (error,) = lines_of(capsys, name, code=2)
        assert message in error
    (error,) = lines_of(capsys, "flat", "--out", "file", code=2)
    assert "--out must be a folder, got the file 'file'" in error


def test_odd_names_reach_the_lists_or_are_told(here, capsys, quick):
    names = ["#1 a.b c.jpg", "größe.jpg", "my photo.jpg", "x.png y.jpg"]
    for name in names:
        draw(here / "DATA/images" / name)
        draw(here / "DATA/labels" / f"{name[:-4]}.png", [0, 1])
    draw(here / "DATA/images/a.dir/x.png y.jpg")
    draw(here / "DATA/images/tab\there.jpg")
    draw(here / "DATA/images/back\\slash.jpg")
    draw(here / "DATA/images" / os.fsdecode(b"latin-\xe9.jpg"))
    shown = "\n".join(lines_of(capsys, "DATA"))
    assert "note: 3 names in no list: no UTF-8, or a TAB" in shown
    found = parts()
    assert {pair.image for pair in (*found["labelled"], *found["val"])} == {f"images/{name}" for name in names}
    assert [pair.image for pair in found["unlabelled"]] == ["images/a.dir/x.png y.jpg"]


def test_test_images_stay_unseen(here, capsys, quick):
    for split in ("train", "val", "test"):
        for index in range(3):
            draw(here / f"DATA/{split}/{split}{index}.png")
            draw(here / f"DATA/{split}annot/{split}{index}.png", [0, 1, 255])
    assert "note: 3 images in folders of test images, unseen, in no list: test/test0.png, ..." in lines_of(
        capsys, "DATA"
    )
    found = parts()
    assert {Path(pair.image).parts[0] for pair in found["labelled"] + found["unlabelled"]} == {"train"}
    assert {Path(pair.image).parts[0] for pair in found["val"]} == {"val"}


def test_voc_as_it_is_downloaded(here, capsys, quick):
    """Lists of other tasks name images without masks, and objects are no classes."""
    for index in range(8):
        draw(here / f"DATA/JPEGImages/2007_00000{index}.jpg")
    for index in range(4):
        draw(here / f"DATA/SegmentationClass/2007_00000{index}.png", [0, 15, 255])
        draw(here / f"DATA/SegmentationObject/2007_00000{index}.png", [0, 1, 2, 255])
    for name, ids in (("Main/val", [2, 3, 4, 5]), ("Segmentation/train", [0, 1]), ("Segmentation/val", [2, 3])):
        (here / f"DATA/ImageSets/{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (here / f"DATA/ImageSets/{name}.txt").write_text("".join(f"2007_00000{index}\n" for index in ids))
    (here / "DATA/ImageSets/Main/cat_val.txt").write_text("2007_000002 -1\n2007_000003  1\n")
    assert any(line.endswith(": 2 images: ImageSets/Segmentation/val.txt") for line in lines_of(capsys, "DATA"))
    found = parts()
    assert [pair.image[-5] for pair in found["labelled"]] == ["0", "1"]
    assert [pair.image[-5] for pair in found["unlabelled"]] == ["4", "5", "6", "7"]
    assert load_config("configs/DATA/config.yaml").data.class_names[15] == "person"


def test_an_export_of_labelme_has_its_own_classes(here, capsys, quick):
    for index in range(4):
        draw(here / f"DATA/JPEGImages/{index}.jpg")
        draw(here / f"DATA/SegmentationClass/{index}.png", [0, 1, 2, 3, 255])
        draw(here / f"DATA/SegmentationClassVisualization/{index}.jpg")
    Path("DATA/class_names.txt").write_text("_background_\ncell\nnucleus\ndebris\n")
    lines_of(capsys, "DATA")
    assert load_config("configs/DATA/config.yaml").data.class_names == ("_background_", "cell", "nucleus", "debris")
    found = parts()
    assert {Path(pair.image).parent.name for part in found.values() for pair in part} == {"JPEGImages"}


def test_links_are_followed_once(here, capsys, quick):
    tree(here)
    (here / "DATA/images").rename(here / "elsewhere")
    (here / "DATA/images").symlink_to(here / "elsewhere")
    (here / "DATA/loop").symlink_to(here / "DATA")
    lines_of(capsys, "DATA")
    assert len(parts()["labelled"]) + len(parts()["val"]) == 5


def test_the_folder_one_works_in(here, capsys, quick, monkeypatch):
    """Runs and predictions in it are no data."""
    tree(here)
    monkeypatch.chdir(here / "DATA")
    first = lines_of(capsys, ".")
    assert first[-1] == "train: fpl-fast train configs/DATA/config.yaml"
    small = ["--model.backbone", "test_resnet", "--model.head_channels", "8", "--model.low_channels", "4"]
    small += ["--model.pretrained", "false", "--augment.crop", "[32,32]", "--train.workers", "0"]
    assert main(["train", "configs/DATA/config.yaml", "--train.steps", "1", *small, "--out", "runs/a"]) == 0
    assert main(["predict", "runs/a", "images", "--out", "predicted"]) == 0
    capsys.readouterr()
    assert lines_of(capsys, ".") == first
