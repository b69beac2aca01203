from fpl_fast.trainer.data.cityscapes import CITYSCAPES, CITYSCAPES_WITH_LABEL_IDS
from fpl_fast.trainer.data.lists import Pair

LISTED = [
    Pair("images/train/ulm_000042_000019.png", "segmentation/train/ulm_000042_000019_gtFine.png"),
    Pair("images/val/bad-hill_000042_000777.png", "segmentation/val/bad-hill_000042_000777_gtFine.png"),
    Pair("images/train_extra/ulm_000001_000777.png", "segmentation/train_extra/ulm_000001_000777_gtCoarse.png"),
]
OFFICIAL = [
    Pair(
        "leftImg8bit/train/ulm/ulm_000042_000019_leftImg8bit.png",
        "gtFine/train/ulm/ulm_000042_000019_gtFine_labelTrainIds.png",
    ),
    Pair(
        "leftImg8bit/val/bad-hill/bad-hill_000042_000777_leftImg8bit.png",
        "gtFine/val/bad-hill/bad-hill_000042_000777_gtFine_labelTrainIds.png",
    ),
    Pair(
        "leftImg8bit/train_extra/ulm/ulm_000001_000777_leftImg8bit.png",
        "gtCoarse/train_extra/ulm/ulm_000001_000777_gtCoarse_labelTrainIds.png",
    ),
]


def test_classes():
    assert len(CITYSCAPES.class_names) == len(CITYSCAPES.palette) == 19
    for index, name, color in ((0, "road", (128, 64, 128)), (12, "rider", (255, 0, 0)), (18, "bicycle", (119, 11, 32))):
        assert (CITYSCAPES.class_names[index], CITYSCAPES.palette[index]) == (name, color)
    assert len(set(CITYSCAPES.palette)) == 19


def test_lists_of_one_layout_name_the_images_of_the_other(tmp_path):
    assert CITYSCAPES.locate(tmp_path, LISTED, "train.txt") == LISTED
    (tmp_path / "leftImg8bit").mkdir()
    assert CITYSCAPES.locate(tmp_path, LISTED, "train.txt") == OFFICIAL
    assert CITYSCAPES.locate(tmp_path, OFFICIAL, "train.txt") == OFFICIAL


def test_label_ids_lie_in_files_of_their_own_in_the_download(tmp_path):
    assert CITYSCAPES_WITH_LABEL_IDS.locate(tmp_path, LISTED, "train.txt") == LISTED
    (tmp_path / "leftImg8bit").mkdir()
    expected = [Pair(image, label.replace("labelTrainIds", "labelIds")) for image, label in OFFICIAL]
    assert CITYSCAPES_WITH_LABEL_IDS.locate(tmp_path, LISTED, "train.txt") == expected
    assert CITYSCAPES_WITH_LABEL_IDS.locate(tmp_path, OFFICIAL, "train.txt") == expected


def test_the_files_of_a_split_are_its_list(tmp_path):
    for pair in (*LISTED, *OFFICIAL):
        (tmp_path / pair.image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / pair.image).touch()
    assert CITYSCAPES.scan(tmp_path, "config_new/val.txt") == LISTED[1:2]
    assert CITYSCAPES.scan(tmp_path, "config_new/test.txt") == []
    for pair in OFFICIAL:
        (tmp_path / pair.image).unlink()
    (tmp_path / "leftImg8bit").rename(tmp_path / "elsewhere")
    assert CITYSCAPES.scan(tmp_path, "config_new/train.txt") == LISTED[:1]


def test_hidden_files_are_no_images(tmp_path):
    folder = tmp_path / "leftImg8bit" / "train" / "ulm"
    folder.mkdir(parents=True)
    for name in ("ulm_000042_000019_leftImg8bit.png", "._ulm_000042_000019_leftImg8bit.png"):
        (folder / name).write_text("")
    assert CITYSCAPES.scan(tmp_path, "train.txt") == LISTED[:1]
