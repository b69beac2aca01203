from pathlib import PurePosixPath

import pytest

from fpl_fast.trainer.own_data.pairing import pair_up, place_of_mask


def pair(files, index=()):
    return pair_up(files, lambda name: name in index)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a.jpg", "labels/a.png"),
        ("images/train/a.jpg", "labels/train/a.png"),
        ("train/images/a.jpg", "train/masks/a.png"),
        ("train_images/a.jpg", "train_masks/a.png"),
        ("img/a.png", "gt/a.png"),
        ("JPEGImages/2007_000032.jpg", "SegmentationClass/2007_000032.png"),
        ("leftImg8bit/train/ulm/ulm_1_2_leftImg8bit.png", "gtFine/train/ulm/ulm_1_2_gtFine_labelIds.png"),
        ("images/train/ulm_1_2.png", "segmentation/train/ulm_1_2_gtFine.png"),
        ("images/training/ADE_1.jpg", "annotations/training/ADE_1.png"),
        ("train/a.png", "trainannot/a.png"),
        ("701_StillsRaw_full/0001TP_1.png", "LabeledApproved_full/0001TP_1_L.png"),
        ("photos/a.jpg", "a_mask.png"),
        ("a.png", "a_mask.png"),
        ("a.jpg", "a-label.png"),
        ("x/A.JPG", "x/a_gt.png"),
        ("rome/a.jpg", "rome/masks/a.png"),
        ("train/1_sat.jpg", "train/1_mask.png"),
        ("images/a.jpg", "annotations/trimaps/a.png"),
        ("labeled/a.jpg", "labeled/a_mask.png"),
    ],
)
def test_usual_names(image, mask):
    assert dict(pair([image, mask]).masks) == {image: mask}
    assert dict(pair([mask, image]).masks) == {image: mask}


@pytest.mark.parametrize(("image", "mask"), [("x/a.jpg", "y/a.png"), ("a.jpg", "a.png"), ("a.bmp", "b/a.png")])
def test_names_that_do_not_tell(image, mask):
    """Two pictures of one name: the one that holds indices is the mask; if both may, or neither, none is."""
    assert dict(pair([image, mask], index=[mask]).masks) == {image: mask}
    assert dict(pair([image, mask]).masks) == {image: None, mask: None}
    assert dict(pair([image, mask], index=[image, mask]).masks) == {image: None, mask: None}


def test_an_image_whose_name_ends_like_that_of_a_mask():
    assert dict(pair(["death_mask.png", "b.png"]).masks) == {"b.png": None, "death_mask.png": None}


def test_a_mask_belongs_to_the_image_of_its_whole_name():
    files = ["images/death.jpg", "images/death_mask.jpg", "labels/death_mask.png"]
    assert dict(pair(files).masks) == {"images/death.jpg": None, "images/death_mask.jpg": "labels/death_mask.png"}
    assert dict(pair(["images/my photo.jpg", "labels/my photo.png"]).masks) == {
        "images/my photo.jpg": "labels/my photo.png"
    }


def test_equal_names_in_other_folders_do_not_meet():
    files = [f"{kind}/{city}/1.png" for kind in ("images", "labels") for city in ("rome", "ulm")]
    assert dict(pair(files).masks) == {f"images/{city}/1.png": f"labels/{city}/1.png" for city in ("rome", "ulm")}
    assert dict(pair(["images/rome/1.png", "images/ulm/1.png", "labels/1.png"]).masks) == {
        "images/rome/1.png": None,
        "images/ulm/1.png": None,
    }


def test_one_of_several_masks_is_taken():
    """Train ids before label ids; instances, colours and coarse masks never."""
    stem = "gtFine/val/ulm/ulm_1_2_gtFine_"
    image = "leftImg8bit/val/ulm/ulm_1_2_leftImg8bit.png"
    others = [f"{stem}{kind}.png" for kind in ("color", "instanceIds", "labelIds")]
    others.append("gtCoarse/val/ulm/ulm_1_2_gtCoarse_labelTrainIds.png")
    found = pair([image, *others, f"{stem}labelTrainIds.png"])
    assert dict(found.masks) == {image: f"{stem}labelTrainIds.png"}
    assert set(found.passed_over) == set(others)
    voc = ["JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png", "SegmentationObject/a.png"]
    both = pair([*voc, "SegmentationClassAug/a.png", "SegmentationClassAug/b.png"])
    assert both.masks["JPEGImages/a.jpg"] == "SegmentationClassAug/a.png"  # the folder with more of them
    assert both.passed_over == ("SegmentationClass/a.png", "SegmentationObject/a.png")


def test_masks_without_an_image_are_told():
    found = pair(["images/a.jpg", "labels/a.png", "labels/b.png"])
    assert found.lonely == ("labels/b.png",)


@pytest.mark.parametrize("image", ["a.jpg", "images/a.jpg", "images/train/a.jpg", "photos/rome/a.b.jpg", "x/y/a.png"])
def test_a_mask_at_the_place_that_is_advised_is_found(image):
    assert dict(pair([image, place_of_mask(image)]).masks) == {image: place_of_mask(image)}
    assert PurePosixPath(place_of_mask(image)).suffix == ".png"
