"""Cityscapes: 19 classes, 2 975 finely labelled training images, 500 validation images of 1024 x 2048."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fpl_fast.trainer.data.lists import Pair
from fpl_fast.trainer.data.public import PublicDataset, image_id
from fpl_fast.trainer.data.sample import Palette

__all__ = ["CITYSCAPES", "CITYSCAPES_LABEL_IDS", "CITYSCAPES_WITH_LABEL_IDS"]

CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Official label id of each of the 19 train ids."""

# The other ids have no class; the id of licence plates, -1, is stored as 255.
_CLASS_OF_LABEL_ID: dict[int, int | None] = dict.fromkeys((*range(34), 255))
_CLASS_OF_LABEL_ID.update({label_id: index for index, label_id in enumerate(CITYSCAPES_LABEL_IDS)})

_CLASS_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
_PALETTE: Palette = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip

_OFFICIAL = "leftImg8bit"  # a folder of the official download; the layout of the public lists has "images" instead
_TRAIN_IDS, _LABEL_IDS = "_labelTrainIds.png", "_labelIds.png"  # the download itself holds only the latter


def _locate(root: Path, pairs: Sequence[Pair], list_name: str) -> list[Pair]:
    """Take paths from the list; in the official download, find the paths of the same images."""
    if not (root / _OFFICIAL).is_dir():
        return list(pairs)
    return [_official(pair) if pair.image.startswith("images/") else pair for pair in pairs]


def _official(pair: Pair) -> Pair:
    """Turn images/SPLIT/CITY_x_y.png into leftImg8bit/SPLIT/CITY/CITY_x_y_leftImg8bit.png, with its train-id label."""
    split, name = PurePosixPath(pair.image).parts[1], image_id(pair.image)
    place = f"{split}/{name.partition('_')[0]}/{name}"
    kind = "gtCoarse" if split == "train_extra" else "gtFine"
    return Pair(f"{_OFFICIAL}/{place}_leftImg8bit.png", f"{kind}/{place}_{kind}{_TRAIN_IDS}")


def _locate_label_ids(root: Path, pairs: Sequence[Pair], list_name: str) -> list[Pair]:
    """Locate as ``_locate`` does, with files of label ids in place of files that can only hold train ids."""
    located = _locate(root, pairs, list_name)
    return [pair._replace(label=pair.label.replace(_TRAIN_IDS, _LABEL_IDS)) for pair in located]


def _where_missing(file: Path) -> str:
    """Give advice on a missing file of train ids, where there is a file of label ids."""
    found = file.name.endswith(_TRAIN_IDS) and file.with_name(file.name.replace(_TRAIN_IDS, _LABEL_IDS)).is_file()
    return f"; --data.label_ids true reads the {_LABEL_IDS} beside it" if found else ""


def _scan(root: Path, list_name: str) -> list[Pair]:
    """Find all images of a list's split: the lists of this data set leave none out."""
    split = PurePosixPath(list_name).stem
    official = (root / _OFFICIAL).is_dir()
    found = root.glob(f"{_OFFICIAL}/{split}/*/*_leftImg8bit.png" if official else f"images/{split}/*.png")
    return [
        Pair(f"images/{split}/{name}.png", f"segmentation/{split}/{name}_gtFine.png")
        for name in sorted(image_id(path.name) for path in found if not path.name.startswith("."))
    ]


CITYSCAPES = PublicDataset(
    class_names=_CLASS_NAMES,
    palette=_PALETTE,
    train="config_new/train.txt",
    val="config_new/val.txt",
    partitions="config_new/subset_train/train_aug_{}_1-{}.txt",
    locate=_locate,
    scan=_scan,
    where_missing=_where_missing,
)
"""Cityscapes whose label files hold train ids."""

CITYSCAPES_WITH_LABEL_IDS = dataclasses.replace(
    CITYSCAPES, locate=_locate_label_ids, class_of_stored=_CLASS_OF_LABEL_ID
)
"""Cityscapes whose label files hold label ids, as downloaded."""
