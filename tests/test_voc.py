from pathlib import Path

import pytest

from fpl_fast.trainer.data.lists import Pair
from fpl_fast.trainer.data.voc import VOC


def test_classes():
    assert len(VOC.class_names) == len(VOC.palette) == 21
    for index, name, color in (
        (0, "background", (0, 0, 0)),
        (7, "car", (128, 128, 128)),
        (15, "person", (192, 128, 128)),
        (18, "sofa", (0, 192, 0)),
        (20, "tv/monitor", (0, 64, 128)),
    ):
        assert (VOC.class_names[index], VOC.palette[index]) == (name, color)


def test_the_lists_name_tells_the_folder():
    def located(list_name):
        return VOC.locate(Path(), [Pair("2099_004321", "2099_004321")], list_name)

    train = [("train_aug/image/2099_004321.jpg", "train_aug/label/2099_004321.png")]
    for list_name in (
        "train_aug.txt",
        "train.txt",
        "subset_train_aug/train_aug_labeled_1-8.txt",
        "x/pseudoseg_1-8.txt",
    ):
        assert located(list_name) == train
    assert located("val.txt") == [("val/image/2099_004321.jpg", "val/label/2099_004321.png")]
    assert located("training/val.txt") == located("val.txt")  # the name of the file counts, not the name of its folder


@pytest.mark.parametrize("labels", ["SegmentationClassAug", "SegmentationClass"])
def test_the_official_folders_hold_all_images(tmp_path, labels):
    """And the labels of SBD come before its own."""
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / labels).mkdir(exist_ok=True)
    for list_name in ("train_aug.txt", "ImageSets/Segmentation/val.txt"):
        assert VOC.locate(tmp_path, [Pair("2099_004321", "2099_004321")], list_name) == [
            ("JPEGImages/2099_004321.jpg", f"{labels}/2099_004321.png")
        ]


def test_paths_are_taken_as_they_are():
    pair = Pair("JPEGImages/2099_004321.jpg", "SegmentationClassAug/2099_004321.png")
    assert VOC.locate(Path(), [pair], "train_aug.txt") == [pair]
